"""The tab as Gradio sees it: complete, light, and nothing that a webui would write down."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from trainer.settings.form import layout, titled
from trainer.settings.methods import METHODS
from trainer.settings.schema import PARAMETERS

gradio = pytest.importorskip("gradio")
ROOT = Path(__file__).resolve().parents[2]


class Offers:
    def choices(self) -> dict[str, list[str]]:
        return {"checkpoint": ["a.safetensors"], "vae": [], "lora": []}


@pytest.fixture(scope="module")
def tab() -> Any:
    from trainer.ui.tab import build

    return build(Offers())  # type: ignore[arg-type]


def named(tab: Any) -> dict[str, Any]:
    return {b.elem_id: b for b in tab.blocks.values() if getattr(b, "elem_id", None)}


def test_every_field_is_a_component_with_label_and_help(tab: Any) -> None:
    components = named(tab)
    for field in layout().fields:
        made = components[field.elem_id]
        assert field.parameter.title in made.label
        assert made.info == titled(field.parameter.help)
        names = {name for name in re.findall(r"\w+_\w+", made.info) if name in PARAMETERS}
        assert not names, "a form knows settings by their titles"


def test_ids_have_one_prefix(tab: Any) -> None:
    assert all(name.startswith("trainyard_") for name in named(tab))
    html = "".join(str(b.value) for b in tab.blocks.values() if isinstance(b, gradio.HTML))
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids)) > 20
    assert all(name.startswith("trainyard_") for name in ids)


def test_nothing_is_written_into_a_webuis_ui_config(tab: Any) -> None:
    """The kinds of components that ui_loadsave.py of AUTOMATIC1111 1.10.1 writes down."""
    kinds = (
        *(gradio.Slider, gradio.Radio, gradio.Checkbox, gradio.Textbox),
        *(gradio.Number, gradio.Dropdown, gradio.Button, gradio.Tabs),
    )
    kept = [b for b in tab.blocks.values() if isinstance(b, kinds)]
    assert kept
    assert all(getattr(b, "do_not_save_to_config", False) for b in kept)


def test_every_method_has_a_card_and_a_drawing(tab: Any) -> None:
    html = "".join(str(b.value) for b in tab.blocks.values() if isinstance(b, gradio.HTML))
    for name, info in METHODS.items():
        card = html[html.index(f'id="trainyard_method_{name}"') :].partition("</button>")[0]
        assert "<svg" in card
        assert info.title in card


def test_it_opens_without_torch() -> None:
    code = (
        "import sys, types\n"
        "from trainer.ui.tab import build\n"
        "offers = {'checkpoint': [], 'vae': [], 'lora': []}\n"
        "build(types.SimpleNamespace(choices=lambda: offers))\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'matplotlib.pyplot'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if {'torch', 'diffusers'} & heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
