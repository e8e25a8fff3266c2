"""What the webui runs: loads Trainyard's package under a name of its own and adds the tab.

"Reload UI" runs this file again; the package, and with it the queue and a running job, stays.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

from modules import errors, script_callbacks

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "trainyard"
"""Another extension may have a package called `trainer`; imports inside ours are relative."""


def load(name: str) -> Any:
    """A module of the package: load("ui.tab") is trainer/ui/tab.py."""
    if PACKAGE not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            PACKAGE,
            ROOT / "trainer/__init__.py",
            submodule_search_locations=[str(ROOT / "trainer")],
        )
        assert spec is not None and spec.loader is not None
        package = importlib.util.module_from_spec(spec)
        sys.modules[PACKAGE] = package
        spec.loader.exec_module(package)
    return importlib.import_module(f"{PACKAGE}.{name}")


def tab() -> list[tuple[Any, str, str]]:
    """The tab; where it cannot be made, one that says why."""
    try:
        return [(load("ui.webui").tab(), "Trainyard", "trainyard")]
    except Exception:  # noqa: BLE001 - whatever it is, the webui's other tabs must come up
        errors.report("Trainyard's tab cannot be made", exc_info=True)
    import gradio

    with gradio.Blocks(analytics_enabled=False) as apology:
        gradio.Markdown(
            "Trainyard cannot start; the reason is in the webui's console. Often a package is"
            " missing: restart the webui with its network connection on, so that it is installed."
        )
    return [(apology, "Trainyard", "trainyard")]


def routes(_: Any, app: Any) -> None:
    load("ui.webui").add_routes(app)


script_callbacks.on_ui_settings(lambda: load("ui.webui").add_options())
script_callbacks.on_ui_tabs(tab)
script_callbacks.on_app_started(routes)
