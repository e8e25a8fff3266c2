"""The form as an artist fills it in: every story in a real browser, on a tiny checkpoint."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from trainer.settings.schema import parse

from .conftest import PLAN, SMALL, Page, said

pytestmark = pytest.mark.slow


def test_it_says_what_is_missing_and_shows_the_plan(page: Page, photos: Path) -> None:
    page.open()
    page.script("localStorage.clear(); sessionStorage.clear()")
    page.open()
    page.until("document.getElementById('trainyard_plan').innerText.includes('Still needed')")
    assert "Images folder" in page.text("plan")
    assert page.read("checkpoint") == "tiny.safetensors", "the only checkpoint is chosen by itself"
    page.write(**SMALL)
    page.type("images", str(photos))
    page.until(f"{PLAN}.includes('6 pictures')", 120)
    assert "untitled.safetensors" in page.text("plan")
    assert "1000 steps of 1" in page.text("plan")
    assert "5 with a caption" in page.text("data")
    assert page.script("return document.querySelectorAll('.trainyard_strip img').length") == 6


def test_a_wrong_number_is_marked_while_it_is_typed(form: Page) -> None:
    form.type("rank", "many")
    form.until("document.querySelector('#trainyard_rank .trainyard_problem:not([hidden])')")
    assert "is not a number" in form.text("rank")
    form.type("rank", "4")
    form.until("document.querySelector('#trainyard_rank .trainyard_problem').hidden")
    assert form.read("rank") == "4"


def test_presets_are_saved_loaded_and_never_blank_the_model(form: Page) -> None:
    form.write(rank="7", name="mine")
    form.press("preset_save")
    form.until("document.getElementById('trainyard_dialog_text')")
    form.script("document.getElementById('trainyard_dialog_text').value = 'sevens'")
    form.press("dialog_yes")
    form.until("document.getElementById('trainyard_preset').value === 'sevens'")
    form.write(rank="9")
    form.press("preset_load")
    form.until("document.getElementById('trainyard_message').innerText.includes('loaded: sevens')")
    assert form.read("rank") == "7"
    assert form.read("checkpoint") == "tiny.safetensors"
    assert form.read("name") == "mine"
    form.press("preset_delete")
    form.until("document.getElementById('trainyard_dialog_yes')")
    form.press("dialog_yes")
    form.until(
        "![...document.querySelectorAll('#trainyard_preset option')]"
        ".some((one) => one.value === 'sevens')"
    )


def test_a_preset_of_traintrain_is_read(form: Page) -> None:
    text = '{"mode": "LoRA", "model": "", "train_iterations": "321", "network_rank": "32"}'
    form.script(
        "window.took = 0; trainyard.takeFile(new File([arguments[0]], 'theirs.json'))"
        ".then(() => took = 1)",
        text,
    )
    form.until("window.took")
    assert (form.read("steps"), form.read("rank")) == ("321", "32")
    assert form.read("checkpoint") == "tiny.safetensors"


def test_the_form_is_downloaded_as_a_job_for_the_command_line(form: Page, photos: Path) -> None:
    form.write(name="hat", steps="77", trigger_word="ohwx")
    form.script("""
        window.made = {};
        URL.createObjectURL = (blob) => {
            blob.text().then((text) => made.text = text);
            return '#';
        };
        HTMLAnchorElement.prototype.click = function () { made.file = this.download; };
    """)
    form.press("preset_download")
    form.until("made.text && made.file")
    assert form.script("return made.file") == "hat.json"
    job = parse(json.loads(form.script("return made.text")))
    wanted = {"checkpoint": "tiny.safetensors", "images": str(photos), "name": "hat"}
    assert job.method == "lora" and job.values["steps"] == 77
    assert {name: job.values[name] for name in wanted} == wanted


FILES_THAT_ARE_NO_SETTINGS = {
    "stub.safetensors": (b"abc", "is no LoRA file, or is cut off"),
    "cut.safetensors": (b"\x90\0\0\0\0\0\0\0" + b'{"__metadata__": {"ss', "or is cut off"),
    "text.safetensors": (b"\x05\0\0\0\0\0\0\0" + b"hello", "is no LoRA file, or is cut off"),
    "null.safetensors": (b"\x04\0\0\0\0\0\0\0" + b"null", "is no LoRA file, or is cut off"),
    "model.safetensors": (
        b"\x28\0\0\0\0\0\0\0" + b'{"model.diffusion_model.out.0.bias": {}}',
        "is a checkpoint, not a LoRA",
    ),
    "list.json": (b"[1, 2]", "is no preset - drop a preset or a LoRA"),
    "text.json": (b"hello", "is no preset - drop a preset or a LoRA"),
}


def test_a_file_that_holds_no_settings_is_refused_in_plain_words(form: Page) -> None:
    for name, (content, words) in FILES_THAT_ARE_NO_SETTINGS.items():
        told = form.awaited(
            "const file = new File([new Uint8Array(arguments[1])], arguments[0]);"
            "return trainyard.takeFile(file).then(() => '', (error) => error.message)",
            name,
            list(content),
        )
        assert told.startswith(f"{name} is ") and words in told


def test_an_empty_picture_is_a_fault_and_not_something_still_needed(
    form: Page, tmp_path: Path
) -> None:
    (tmp_path / "nothing.png").touch()
    form.write(images=str(tmp_path))
    form.until("document.getElementById('trainyard_plan').innerText.includes('0 bytes')")
    assert "Still needed" not in form.text("plan")


def test_every_method_shows_its_own_fields_with_its_own_defaults(form: Page) -> None:
    wrong = form.script("""
        const found = [];
        const work = async () => {
            for (const method of Object.keys(trainyard.facts.methods)) {
                await trainyard.chooseMethod(method);
                await trainyard.reset();
                for (const one of trainyard.facts.fields) {
                    const block = document.getElementById(one.id);
                    const shown = getComputedStyle(block).display !== 'none';
                    const wanted = one.methods.includes(method) && !trainyard.idle(one);
                    if (shown !== wanted) found.push([method, one.key]);
                }
                const now = await trainyard.read();
                for (const one of trainyard.facts.fields) {
                    const wanted = one.defaults[method];
                    const free = one.required || !(method in one.defaults);
                    const got = now[one.key], same = JSON.stringify(got) === JSON.stringify(wanted);
                    if (free || same || !(got || wanted)) continue;
                    found.push([method, one.key, got, wanted]);
                }
            }
            return found;
        };
        return work();
    """)
    assert wrong == []


def test_only_the_blocks_that_a_checkpoint_has_are_shown(
    form: Page, tiny_checkpoints: dict[str, Path]
) -> None:
    def shown(count: int) -> str:
        labels = "[...document.querySelectorAll('#trainyard_blocks label')]"
        return f"{labels}.filter((label) => !label.hidden).length === {count}"

    form.until(shown(26), 120)
    form.write(checkpoint=str(tiny_checkpoints["sdxl"]))
    form.until(shown(20), 120)
    assert len(form.read("blocks")) == 26, "a hidden block stays chosen, for another checkpoint"
    form.write(checkpoint="tiny.safetensors")
    form.until(shown(26), 120)


FOUND = (
    "return document.getElementById('trainyard_' + arguments[0]).classList"
    ".contains('trainyard_found')"
)
VISIBLE = "return document.getElementById('trainyard_' + arguments[0]).offsetParent !== null"


def test_what_is_wrong_below_more_is_shown_at_the_start(form: Page) -> None:
    form.open()  # every group is closed
    form.write(**SMALL, noise_offset="loud")
    assert not form.script(VISIBLE, "noise_offset")
    form.press("start")
    form.until("document.querySelector('#trainyard_noise_offset .trainyard_problem:not([hidden])')")
    assert form.script(VISIBLE, "noise_offset")


def test_blocks_that_are_switched_off_are_noticed_kept_and_reset(form: Page) -> None:
    every = form.read("blocks")
    form.script("trainyard.reveal(document.getElementById('trainyard_blocks'))")
    time.sleep(0.5)
    boxes = form.driver.find_elements("css selector", "#trainyard_blocks input[type=checkbox]")
    for box in [box for box in boxes if box.is_displayed()]:
        box.click()
    form.until("document.querySelector('#trainyard_blocks .trainyard_problem:not([hidden])')")
    form.open()
    assert len(form.read("blocks")) < len(every) / 2, "a reload keeps what was chosen"
    form.awaited("return trainyard.reset()")
    assert sorted(form.read("blocks")) == sorted(every)


def test_a_choice_that_is_none_is_said(form: Page) -> None:
    form.script("trainyard.reveal(document.getElementById('trainyard_optimizer'))")
    time.sleep(0.5)
    form.type("optimizer", "nonsense")
    form.driver.switch_to.active_element.send_keys("\ue004")  # Tab
    time.sleep(0.5)
    if form.read("optimizer") not in (None, ""):
        return  # Gradio 4 puts back what was chosen
    form.until("document.querySelector('#trainyard_optimizer .trainyard_problem:not([hidden])')")
    assert "optimizer" in form.awaited("return trainyard.settings()")


def test_help_below_more_is_told_at_a_question_mark(form: Page) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    form.script("trainyard.reveal(document.getElementById('trainyard_vae'))")
    time.sleep(0.5)
    mark = form.driver.find_element("css selector", "#trainyard_vae .trainyard_what")
    form.script("arguments[0].scrollIntoView({block: 'center'})", mark)
    time.sleep(0.5)  # scrolling takes the help away
    ActionChains(form.driver).move_to_element(mark).perform()
    form.until("!document.getElementById('trainyard_tip').hidden")
    assert "Another VAE file" in form.text("tip")


def test_a_message_about_a_field_goes_when_the_field_is_right(form: Page, photos: Path) -> None:
    form.write(images="")
    form.press("start")
    form.until(said("Images folder"))
    form.type("images", str(photos))
    form.until(f"!{said('Images folder')}")


def test_a_group_is_opened_and_closed_with_the_keyboard(form: Page) -> None:
    from selenium.webdriver.common.keys import Keys

    form.open()
    handle = form.script("return document.querySelector('#trainyard_group_noise .label-wrap')")
    for key, shown in ((Keys.ENTER, True), (Keys.SPACE, False)):
        handle.send_keys(key)
        time.sleep(0.5)
        assert form.script(VISIBLE, "noise_offset") is shown


def test_a_search_finds_settings_of_the_method_that_is_chosen(form: Page) -> None:
    look = """
        const box = document.getElementById('trainyard_search');
        box.value = arguments[0];
        box.dispatchEvent(new Event('input'));
        return [...document.querySelectorAll('.trainyard_group')]
            .filter((one) => getComputedStyle(one).display !== 'none')
            .map((one) => one.id.replace('trainyard_group_', ''));
    """
    assert form.script(look, "train_snr_gamma") == ["loss"], "by another tool's name"
    assert form.script(VISIBLE, "min_snr_gamma"), "its group is opened"
    assert form.script(look, "no such setting") == []
    form.script(look, "")
    time.sleep(0.5)
    assert not form.script(VISIBLE, "min_snr_gamma"), "and closed again"
    form.awaited("return trainyard.chooseMethod('difference')")
    assert {"copier", "mask", "second_pass"} <= set(form.script(look, ""))


def test_a_field_that_has_no_effect_is_not_shown_unless_it_is_looked_for(form: Page) -> None:
    seen = "getComputedStyle(document.getElementById('trainyard_lr_power')).display !== 'none'"
    form.write(lr_scheduler="cosine")
    assert not form.script(f"return {seen}")
    form.script(
        "const box = document.getElementById('trainyard_search'); box.value = 'power';"
        "box.dispatchEvent(new Event('input'))"
    )
    assert form.script(f"return {seen}")
    form.script(
        "const box = document.getElementById('trainyard_search'); box.value = '';"
        "box.dispatchEvent(new Event('input'))"
    )
    form.write(lr_scheduler="polynomial")
    assert form.script(f"return {seen}")


def test_prompts_are_counted_and_pairs_are_shown(form: Page, photos: Path) -> None:
    form.awaited("return trainyard.chooseMethod('difference')")
    form.write(
        original_prompt="word " * 80,
        original_image=str(photos / "0.png"),
        target_image=str(photos / "2.png"),
    )
    form.until(
        "document.getElementById('trainyard_original_prompt').innerText.includes('80 tokens')"
    )
    assert "2 parts" in form.text("original_prompt")
    form.until("document.querySelectorAll('.trainyard_pair img').length === 2")
    assert "64 x 64" in form.text("data")
    assert "sizes differ" in form.text("data")


DOTS = """
    const edge = document.getElementById('trainyard_plan').getBoundingClientRect().left;
    const dot = (fact, side) => getComputedStyle(fact, side).content !== 'none';
    let line = null;
    return [...document.querySelectorAll('#trainyard_plan .trainyard_facts li')].filter((fact) => {
        const text = document.createRange(), first = line !== fact.offsetTop;
        text.selectNodeContents(fact);
        line = fact.offsetTop;
        const left = Math.min(...[...text.getClientRects()].map((box) => box.left));
        const begin = fact.getBoundingClientRect().left, room = getComputedStyle(fact).paddingLeft;
        const off = Math.abs(begin + parseFloat(room) - edge);
        return dot(fact, '::after') || left < edge - 1 || first && off > 1;
    }).map((fact) => fact.innerText);
"""
"""Facts of the plan with a dot behind them, cut off, or not at the edge where they begin a line."""


def test_dots_stand_only_between_two_facts_of_a_line(form: Page) -> None:
    form.until("document.querySelectorAll('#trainyard_plan .trainyard_facts li').length > 3", 120)
    for width in (420, 1400):
        form.driver.set_window_size(width, 1100)
        time.sleep(0.6)
        assert form.script(DOTS) == [], f"at {width} px"


def test_no_width_cuts_anything_off(form: Page) -> None:
    for width in (390, 900, 1400, 1920):
        form.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": False},
        )
        time.sleep(0.6)
        cut = form.script("""
            const room = document.documentElement.clientWidth;
            return [...document.querySelectorAll('#trainyard_root *')].filter((one) => {
                const box = one.getBoundingClientRect();
                const inside = one.closest('.trainyard_strip, svg, [hidden], .trainyard_menu, pre');
                return !inside && box.width && (box.right > room + 1 || box.left < -1);
            }).map((one) => one.id || one.className).slice(0, 5);
        """)
        assert cut == [], f"at {width} px"
    form.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_a_preset_needs_a_name(form: Page) -> None:
    form.press("preset_save")
    form.until("document.getElementById('trainyard_dialog_text')")
    form.press("dialog_yes")
    box = "document.getElementById('trainyard_dialog_text')"
    assert form.script(f"return {box} !== null && !{box}.validity.valid"), "it stays, and says why"
    form.script("[...document.querySelectorAll('dialog[open] button')].at(-1).click()")


def test_help_names_only_settings_that_the_method_has(form: Page) -> None:
    tip = """
        document.querySelector('#trainyard_mask_floor .trainyard_what')
            .dispatchEvent(new MouseEvent('mouseenter'));
        return document.getElementById('trainyard_tip').textContent;
    """
    assert "It counts only with Picture mask: alpha, files." in form.script(tip)
    form.awaited("return trainyard.chooseMethod('difference')")
    assert "It counts only" not in form.script(tip)


def test_a_preset_can_be_saved_before_its_concept_is_named(form: Page) -> None:
    form.awaited("return trainyard.chooseMethod('ileco')")
    form.write(original_prompt="", target_prompt="", rank="6")
    form.press("preset_save")
    form.until("document.getElementById('trainyard_dialog_text')")
    form.script("document.getElementById('trainyard_dialog_text').value = 'sixes'")
    form.press("dialog_yes")
    form.until("document.getElementById('trainyard_preset').value === 'sixes'")
    form.write(original_prompt="red", target_prompt="blue", rank="4")
    form.press("preset_load")
    form.until(said("loaded: sixes"))
    wanted = {"rank": "6", "original_prompt": "red", "target_prompt": "blue"}
    assert {name: form.read(name) for name in wanted} == wanted


def test_each_tab_of_the_browser_keeps_its_own_form(form: Page) -> None:
    form.write(name="first-tab", rank="3")
    first = form.driver.current_window_handle
    form.driver.switch_to.new_window("tab")
    try:
        form.open()
        assert form.read("name") == "first-tab", "a new tab begins with the form of the last one"
        form.write(name="second-tab")
        form.open()
        assert form.read("name") == "second-tab"
        form.driver.switch_to.window(first)
        form.open()
        assert form.read("name") == "first-tab"
    finally:
        form.driver.switch_to.window(form.driver.window_handles[-1])
        if form.driver.current_window_handle != first:
            form.driver.close()
        form.driver.switch_to.window(first)


def undone(form: Page) -> None:
    form.press("undo")
    form.until(said("as it was before"))


def test_what_replaces_the_form_is_told_and_can_be_taken_back(form: Page) -> None:
    form.write(rank="3", lr_power="1.5")
    form.press("preset_reset")
    form.until(said("as they were at first"))
    assert form.read("rank") != "3"
    undone(form)
    assert (form.read("rank"), form.read("lr_power")) == ("3", "1.5")
    form.script("""
        const box = document.getElementById('trainyard_preset');
        box.value = 'Multi-ADDifT';
        box.dispatchEvent(new Event('change'));
    """)
    form.press("preset_load")
    form.until(said("Preset loaded: Multi-ADDifT"))
    assert form.script("return trainyard.method") == "multi_addift"
    undone(form)
    assert form.script("return trainyard.method") == "lora"
    assert (form.read("rank"), form.read("lr_power")) == ("3", "1.5")


def test_a_name_that_cannot_be_used_is_mended_in_its_dialog(form: Page) -> None:
    form.press("preset_save")
    form.until("document.getElementById('trainyard_dialog_text')")
    form.script("document.getElementById('trainyard_dialog_text').value = 'a/b'")
    form.press("dialog_yes")
    form.until("document.querySelector('dialog[open] .trainyard_bad').innerText.includes('a/b')")
    form.script("document.getElementById('trainyard_dialog_text').value = 'mended'")
    form.press("dialog_yes")
    form.until(said("Preset saved: mended"))
    form.press("preset_delete")
    form.until("document.getElementById('trainyard_dialog_yes')")
    form.press("dialog_yes")
    form.until("![...document.querySelectorAll('option')].some((one) => one.value === 'mended')")


def test_a_menu_closes_when_something_else_is_wanted(form: Page) -> None:
    is_open = "document.querySelector('.trainyard_menu').open"
    press = "document.querySelector('.trainyard_menu summary').click()"
    menu = form.driver.find_element("css selector", ".trainyard_menu summary")
    form.script("arguments[0].scrollIntoView({block: 'center'})", menu)
    menu.click()
    form.read("rank")  # as the form does by itself after a press
    time.sleep(1)
    assert form.script(f"return {is_open}")
    form.driver.find_element("css selector", "#trainyard_presets > p").click()
    form.until(f"!{is_open}")
    form.script(press)
    form.script(
        "document.dispatchEvent(new KeyboardEvent('keydown', {key: 'Escape', bubbles: true}))"
    )
    form.until(f"!{is_open}")
    assert form.script("return document.activeElement.innerText") == "More"


def test_a_search_finds_what_stands_above_and_what_is_explained(form: Page) -> None:
    look = """
        const box = document.getElementById('trainyard_search');
        box.value = arguments[0];
        box.dispatchEvent(new Event('input'));
    """
    form.script(look, "trigger")
    assert "Trigger word" in form.text("search_above")
    form.script("document.querySelector('#trainyard_search_above a').click()")
    focused = "return document.activeElement.closest('.trainyard_field').id"
    assert form.script(focused) == "trainyard_trigger_word"
    form.script(look, "pseudo-l1")  # a choice
    assert form.script(FOUND, "loss")
    form.script(look, "outliers")  # in an explanation alone
    assert form.script(FOUND, "huber_schedule")
    assert not form.script(FOUND, "loss")
    form.script(look, "")
    assert form.text("search_above") == ""


def test_settings_are_named_as_the_form_names_them(form: Page) -> None:
    titled = "return trainyard.titled(arguments[0])"
    assert form.script(titled, "rank: too many") == "Rank: too many"
    assert form.script(titled, "lower batch_size, or rank") == "lower Batch size, or rank"
    path = "/data/batch_size/batch_size.txt is no picture; lr_of_ours stays"
    assert form.script(titled, path) == path


def test_on_a_narrow_screen_what_is_said_far_below_comes_into_sight(form: Page) -> None:
    wide = form.driver.get_window_size()
    form.driver.set_window_size(420, 900)
    try:
        form.script("document.getElementById('trainyard_presets').scrollIntoView()")
        time.sleep(0.3)
        form.press("preset_reset")
        form.until(said("as they were at first"))
        box = "document.getElementById('trainyard_message').getBoundingClientRect()"
        assert form.script(f"return {box}.bottom <= innerHeight && {box}.top > 0")
        assert form.script(f"return {box}.left >= 0 && {box}.right <= innerWidth")
        form.script("document.getElementById('trainyard_run').scrollIntoView()")
        form.until("!document.querySelector('.trainyard_afloat')")  # it is back in its place
        form.script("document.getElementById('trainyard_presets').scrollIntoView()")
        form.press("undo")
        form.until(said("as it was before"))
        form.script("document.querySelector('.trainyard_afloat [aria-label=Close]').click()")
        assert form.text("message") == ""
    finally:
        form.driver.set_window_size(wide["width"], wide["height"])
