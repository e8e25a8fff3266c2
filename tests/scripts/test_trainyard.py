"""The file that the webui runs: again and again, and beside other extensions."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts/trainyard.py"


@pytest.fixture
def webui(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """The part of the webui that runs scripts; `run()` is what "Reload UI" does."""
    calls: dict[str, list[Callable[..., object]]] = {}
    reports: list[str] = []

    def report(text: str, **_: object) -> None:
        reports.append(text)

    package = ModuleType("modules")
    package.errors = SimpleNamespace(report=report)
    package.script_callbacks = SimpleNamespace(
        **{
            name: calls.setdefault(name, []).append
            for name in ("on_ui_settings", "on_ui_tabs", "on_app_started")
        }
    )
    monkeypatch.setitem(sys.modules, "modules", package)

    def run() -> ModuleType:
        for callbacks in calls.values():
            callbacks.clear()
        spec = importlib.util.spec_from_file_location("trainyard.py", SCRIPT)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    yield SimpleNamespace(run=run, calls=calls, reports=reports)
    for name in [n for n in sys.modules if n.partition(".")[0] == "trainyard"]:
        del sys.modules[name]


def test_running_it_imports_nothing_of_the_package(webui) -> None:
    webui.run()
    assert "trainyard" not in sys.modules
    assert [len(callbacks) for callbacks in webui.calls.values()] == [1, 1, 1]


def test_another_extensions_package_of_the_same_name_is_left_alone(webui, monkeypatch) -> None:
    foreign = ModuleType("trainer")
    monkeypatch.setitem(sys.modules, "trainer", foreign)
    errors = webui.run().load("errors")
    assert errors.__name__ == "trainyard.errors"
    assert Path(errors.__file__) == SCRIPT.parents[1] / "trainer/errors.py"
    assert sys.modules["trainer"] is foreign


def test_reload_ui_keeps_the_package_and_what_it_holds(webui) -> None:
    first = webui.run().load("control")
    again = webui.run().load("control")
    assert again is first


def test_a_tab_that_cannot_be_made_says_so(webui, monkeypatch) -> None:
    gradio = pytest.importorskip("gradio")
    module = webui.run()
    monkeypatch.setattr(module, "load", lambda name: 1 / 0)
    ((blocks, title, name),) = module.tab()
    assert (title, name) == ("Trainyard", "trainyard")
    assert isinstance(blocks, gradio.Blocks)
    assert webui.reports == ["Trainyard's tab cannot be made"]
