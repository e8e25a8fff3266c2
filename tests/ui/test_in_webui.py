"""The main stories of an artist in a real webui, in a browser; see tests/hosts/test_webui.py."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trainer.demo.checkpoint import CHECKPOINT

from ..hosts.real import WEBUI_DIR, RealWebui
from .conftest import SMALL, Page, start, state

pytestmark = [
    pytest.mark.webui,
    pytest.mark.skipif(not WEBUI_DIR, reason="WEBUI_DIR names no webui"),
    pytest.mark.skipif(not CHECKPOINT.is_file(), reason="there is no embedded checkpoint"),
]
WORDS = {
    "Trigger word": "Auslöser",
    "Queue": "Warteschlange",
    "Good values to begin with are set already.": "Gute Werte stehen schon da.",
}
"""Some texts of ours in another language: of a field, of a script, of a heading."""
OURS = re.compile(r"trainyard", re.IGNORECASE)


class WebuiPage(Page):
    """The tab among the webui's own."""

    def open(self, query: str = "") -> None:
        self.driver.get(self.url + query)
        self.until("document.querySelector('#tabs button')", 120)
        self.show("Trainyard")
        self.until("window.trainyard && trainyard.root && trainyard.status && trainyard.method")
        self.until("trainyard.at('preset').options.length > 1")

    def show(self, title: str) -> None:
        self.until(
            "(() => { const one = [...document.querySelectorAll('#tabs > .tab-nav button')]"
            f".find((tab) => tab.innerText.trim().toLowerCase() === '{title.lower()}');"
            " if (one) one.click(); return one; })() !== undefined",
            120,
        )


@pytest.fixture(scope="module")
def webui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealWebui]:
    real = RealWebui(tmp_path_factory.mktemp("webui"))
    words = real.data / "extensions/words/localizations/other.json"
    words.parent.mkdir(parents=True)
    words.write_text(json.dumps(WORDS), "utf-8")
    (real.data / "config.json").write_text('{"localization": "other"}', "utf-8")
    real.start()
    yield real
    real.kill()


@pytest.fixture(scope="module")
def opened(browser: Any, webui: RealWebui) -> WebuiPage:
    page = WebuiPage(browser, f"http://127.0.0.1:{webui.port}/")
    page.open()
    return page


@pytest.fixture
def form(opened: WebuiPage, photos: Path) -> WebuiPage:
    """The tab with a small job filled in and nothing running."""
    opened.show("Trainyard")
    opened.until("!trainyard.status.running")
    opened.awaited("return trainyard.chooseMethod('lora').then(() => trainyard.reset())")
    opened.write(**SMALL, images=str(photos), trigger_word="ohwx", save_preview=False)
    return opened


def test_the_loaded_checkpoint_is_chosen_and_texts_are_translated(form: WebuiPage) -> None:
    assert CHECKPOINT.stem in form.read("checkpoint")
    shown = form.text("root")
    assert all(other in shown for other in WORDS.values())
    assert not any(re.search(rf"^{re.escape(word)}$", shown, re.MULTILINE) for word in WORDS)


def test_a_training_runs_and_its_lora_goes_into_the_prompt(
    form: WebuiPage, webui: RealWebui
) -> None:
    form.script("document.querySelector('#txt2img_prompt textarea').value = 'a cat'")
    start(form, "first", 12)
    form.until("trainyard.status.step && trainyard.status.step.step > 2", 300)
    form.until(f"{state('first')} === 'done'", 300)
    form.press("use")
    prompt = "document.querySelector('#txt2img_prompt textarea')"
    form.until(f"{prompt}.value === 'a cat, <lora:first:1> ohwx'")
    assert form.script(f"return {prompt}.offsetParent !== null"), "txt2img is shown"
    assert (webui.loras / "first.safetensors").is_file()


CARD = "document.querySelector('#txt2img_extra_tabs .card[data-name=shown]')"


def test_the_card_of_a_new_lora_is_there_without_a_refresh(form: WebuiPage) -> None:
    form.show("txt2img")
    form.script(
        "[...document.querySelectorAll('#txt2img_extra_tabs > .tab-nav button')]"
        ".find((tab) => tab.innerText.trim() === 'Lora').click()"
    )
    form.until("document.querySelector('#txt2img_lora_extra_refresh').offsetParent")
    form.show("Trainyard")
    start(form, "shown", 3)
    form.until(f"{state('shown')} === 'done'", 300)
    form.show("txt2img")
    form.until(f"{CARD}?.offsetParent", 60)
    form.script("document.querySelectorAll('#txt2img_extra_tabs > .tab-nav button')[0].click()")


def test_it_is_paused_reloaded_and_stopped_with_a_file(form: WebuiPage, webui: RealWebui) -> None:
    start(form, "long", 100_000)
    form.until("trainyard.status.step && trainyard.status.step.step > 1", 300)
    form.press("pause")
    form.until(f"{state('long')} === 'paused'")
    form.open()
    form.until("document.getElementById('trainyard_pause').innerText === 'Go on'")
    assert form.read("images"), "the form is as it was"
    form.press("stop_save")
    form.until(f"{state('long')} === 'done'", 120)
    assert (webui.loras / "long.safetensors").is_file()


def test_the_queue_waits_and_runs_in_order(form: WebuiPage) -> None:
    for name in ("one", "two"):
        form.write(name=name, steps="3", save_every_steps="0")
        form.press("enqueue")
        form.until(f"{state(name)} === 'queued'")
    form.press("queue_start")
    form.until(f"{state('two')} === 'done'", 300)
    assert form.script(f"return {state('one')}") == "done"


def test_a_preset_is_loaded_and_the_checkpoint_stays(form: WebuiPage) -> None:
    form.script("trainyard.at('preset').value = 'iLECO'")
    form.script("trainyard.at('preset').dispatchEvent(new Event('change'))")
    form.press("preset_load")
    form.until("trainyard.method === 'ileco'")
    form.until("document.getElementById('trainyard_message').innerText.includes('loaded: iLECO')")
    assert CHECKPOINT.stem in form.read("checkpoint")


def test_a_grid_is_drawn_on_the_borrowed_model(form: WebuiPage, webui: RealWebui) -> None:
    before = webui.picture()
    form.until("document.querySelector('#trainyard_runs input[value=first]')")
    form.script("document.querySelector('#trainyard_runs input[value=first]').click()")
    form.press("grid_ask")
    form.until("document.getElementById('trainyard_grid_count')")
    form.script("document.getElementById('trainyard_grid_denoise_steps').value = '2'")
    form.press("grid_draw")
    form.until(f"{state('first-grid-1')} === 'done'", 300)
    form.until(
        "document.querySelector('#trainyard_grids .trainyard_sheet img')?.naturalWidth > 192"
    )
    assert webui.picture() == before


def test_reload_ui_leaves_a_training_running(form: WebuiPage) -> None:
    start(form, "kept", 100_000)
    form.until("trainyard.status.step && trainyard.status.step.step > 1", 300)
    form.script("document.getElementById('settings_restart_gradio').click()")
    form.until("document.body.innerText.includes('Reloading')")
    form.until("document.querySelector('#tabs button')", 120)
    uncaught = [error for error in form.console_errors() if "Uncaught" in error]
    assert [error for error in uncaught if OURS.search(error)] == []
    form.open()
    assert form.script(f"return {state('kept')}") == "running"
    form.press("stop")
    form.press("dialog_yes")
    form.until(f"{state('kept')} === 'cancelled'", 120)


def test_neither_the_browser_nor_the_webui_complains_about_us(
    opened: WebuiPage, webui: RealWebui
) -> None:
    assert [error for error in opened.console_errors() if OURS.search(error)] == []
    log = (webui.data / "webui.log").read_text("utf-8", "replace")
    assert not re.findall(r'File ".*/(?:trainer/|scripts/trainyard\.py).*', log)
    kept = webui.data / "ui-config.json"
    assert not OURS.search(kept.read_text("utf-8")), "nothing of ours is kept in ui-config.json"
