"""The parts of the tab that are no form fields: headings, cards, and places that the scripts fill.

Every text stands alone between two tags, so that the webui's localisation finds it.
"""

from __future__ import annotations

import html
import json
from pathlib import Path

from ..api import grids
from ..settings.form import facts
from ..settings.methods import METHODS
from ..settings.values import shown


def _button(name: str, text: str, style: str) -> str:
    kind = f"trainyard_button {style}".strip()
    return f'<button type="button" id="trainyard_{name}" class="{kind}">{text}</button>'


PICTURES = Path(__file__).parent / "pictures"
"""One small drawing for each method, by its name; `other.svg` where there is none."""

DROP = (
    "Drop a file here to take its settings: a preset, a preset of TrainTrain, or a LoRA that was"
    " made here."
)
PRESETS = f"""
<div id="trainyard_presets" role="group" aria-label="Presets">
  <label for="trainyard_preset">Preset</label>
  <select id="trainyard_preset"></select>
  <button type="button" id="trainyard_preset_load" class="trainyard_button">Load</button>
  <button type="button" id="trainyard_preset_save" class="trainyard_button">Save as</button>
  <details class="trainyard_menu">
    <summary class="trainyard_button">More</summary>
    <div>
      <button type="button" id="trainyard_preset_rename">Rename this preset</button>
      <button type="button" id="trainyard_preset_delete">Delete this preset</button>
      <button type="button" id="trainyard_preset_reset">Reset all fields to their defaults</button>
      <button type="button" id="trainyard_preset_import">Import a file</button>
      <button type="button" id="trainyard_preset_download">Download as a job</button>
    </div>
  </details>
  <input type="file" id="trainyard_preset_file" accept=".json,.safetensors" hidden>
  <p class="trainyard_hint">{DROP}</p>
</div>
"""
SEARCH = """
<div id="trainyard_search_row">
  <input type="search" id="trainyard_search" aria-label="Find a setting"
    placeholder="Find a setting, for example seed or snr">
  <p id="trainyard_search_above" class="trainyard_hint trainyard_todo"></p>
  <p id="trainyard_search_none" class="trainyard_hint" hidden>No setting says that here.</p>
</div>
"""
JUMP = (
    '<a id="trainyard_jump" class="trainyard_button" href="#trainyard_run">Start and progress</a>'
)
"""Stays in sight on narrow screens, where what runs stands below the form."""
PICTURE_PANEL = '<div id="trainyard_data" aria-live="polite"></div>'
BUTTONS = (
    ("start", "Start training", "trainyard_primary"),
    ("enqueue", "Add to queue", ""),
    ("leave", "Leave the waiting job as it was", ""),
    ("pause", "Pause", ""),
    ("stop_save", "Stop and save", ""),
    ("stop", "Stop", "trainyard_stop"),
)
"""Id, text and style of what starts and ends a training."""
RUN = f"""
<section id="trainyard_run" aria-label="Training">
  <div id="trainyard_plan" role="status"></div>
  <div id="trainyard_actions" role="group" aria-label="Training">
    {"".join(_button(*button) for button in BUTTONS)}
  </div>
  <div id="trainyard_message" role="alert"></div>
  <div id="trainyard_live"></div>
</section>
"""
QUEUE = '<section id="trainyard_queue" aria-label="Queue"></section>'
RESULTS = '<section id="trainyard_results" aria-label="Results"></section>'


def heading(title: str, sentence: str) -> str:
    """A step of the form."""
    return (
        f'<h2 class="trainyard_heading">{html.escape(title)}</h2>'
        f'<p class="trainyard_hint">{html.escape(sentence)}</p>'
    )


def cards(chosen: str) -> str:
    """The methods to choose from."""
    made = "".join(_card(name, name == chosen) for name in METHODS)
    return (
        f'<div id="trainyard_methods" role="radiogroup" aria-label="Method">{made}</div>'
        f"<style>{_rules()}</style>"
    )


def page_facts(chosen: str, *, local: bool, pairs: bool) -> str:
    """What the scripts must know, as JSON that they find in the page.

    Args:
        chosen: the method that the form begins with.
        local: whether this is the standalone page, outside a webui.
        pairs: whether a dropdown's choices are pairs of label and value.
    """
    known = {
        "method": chosen,
        "methods": {name: info.title for name, info in METHODS.items()},
        "fields": facts(),
        "grid": grids.fields(),
        "standalone": local,
        "pairs": pairs,
    }
    text = json.dumps(known, ensure_ascii=False).replace("<", "\\u003c")
    return f'<script type="application/json" id="trainyard_facts">{text}</script>'


def _card(name: str, chosen: bool) -> str:
    info = METHODS[name]
    drawing = PICTURES / f"{name}.svg"
    if not drawing.is_file():
        drawing = PICTURES / "other.svg"
    state = 'aria-checked="true" tabindex="0"' if chosen else 'aria-checked="false" tabindex="-1"'
    return (
        f'<button type="button" class="trainyard_card" role="radio" {state}'
        f' id="trainyard_method_{name}" data-method="{name}">'
        f"{drawing.read_text('utf-8')}"
        f"<strong>{html.escape(info.title)}</strong><span>{html.escape(info.sentence)}</span>"
        "</button>"
    )


def _rules() -> str:
    """Style rules that hide what the method in `data-method` does not use."""
    return "".join(
        f"#trainyard_root[data-method={shown(name)}]"
        f" .trainyard_field:not(.trainyard_in_{name}){{display:none!important}}"
        for name in METHODS
    )
