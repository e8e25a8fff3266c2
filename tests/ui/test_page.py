"""The page as an artist uses it: every story in a real browser, on a tiny checkpoint."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trainer.settings.schema import parse

from .conftest import SMALL, Page, free_port

pytestmark = pytest.mark.slow

Serve = Callable[[Path, int], "subprocess.Popen[bytes]"]
PLAN = "document.getElementById('trainyard_plan').innerText"


def start(page: Page, name: str, steps: int) -> None:
    page.write(name=name, steps=str(steps), save_every_steps="0")
    page.press("start")
    page.until(f"trainyard.status.jobs.some((job) => job.name === '{name}')")


def state(name: str) -> str:
    return f"(trainyard.status.jobs.find((job) => job.name === '{name}') || {{}}).state"


def test_it_says_what_is_missing_and_shows_the_plan(page: Page, photos: Path) -> None:
    page.open()
    page.script("localStorage.clear()")
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


def test_a_training_runs_and_shows_how_far_it_is(form: Page) -> None:
    start(form, "first", 30)
    form.until("trainyard.status.step && trainyard.status.step.step > 2", 120)
    assert "/ 30" in form.text("headline")
    form.until(f"{state('first')} === 'done'", 240)
    form.until("document.querySelector('#trainyard_curve svg path')")
    assert "first.safetensors" in form.text("live")
    assert form.console_errors() == []


SLOW_STATUS = """
    window.polls = {now: 0, most: 0, all: 0};
    const fetched = window.fetch;
    window.fetch = async (...asked) => {
        if (!String(asked[0]).includes('/status?')) return fetched(...asked);
        polls.all += 1;
        polls.most = Math.max(polls.most, polls.now += 1);
        const answer = await fetched(...asked);
        await new Promise((resolve) => setTimeout(resolve, 400));
        polls.now -= 1;
        return answer;
    };
"""
CURVE_STEPS = (
    "(document.querySelector('#trainyard_curve svg path')?.getAttribute('d') || '')"
    ".split('L').length"
)


def test_asking_in_between_neither_cuts_the_curve_nor_doubles_the_polls(form: Page) -> None:
    form.script(SLOW_STATUS)
    start(form, "asked-often", 100_000)
    form.until("trainyard.status.job?.name === 'asked-often'", 120)
    form.until("trainyard.status.step?.step > 10", 120)
    most = 0
    for wait_s in (0.35, 0.1, 0.5, 0.2, 0.45, 0.3, 0.6, 0.15) * 2:
        form.script("trainyard.refresh()")
        time.sleep(wait_s)
        drawn = form.script(f"return {CURVE_STEPS}")
        assert drawn >= most
        most = drawn
    time.sleep(1)
    before = form.script("return polls.all")
    time.sleep(5.5)
    assert form.script("return polls.all") - before <= 6, "one each 1.1 s"
    assert form.script("return polls.most") == 1
    form.press("stop_save")
    form.until(f"{state('asked-often')} === 'done'", 120)


def test_a_second_pass_begins_the_curve_again(form: Page, photos: Path) -> None:
    form.script("return trainyard.chooseMethod('difference')")
    form.write(
        **SMALL,
        original_image=str(photos / "0.png"),
        target_image=str(photos / "1.png"),
        original_prompt="a",
        name="twice",
        steps="25",
    )
    form.press("start")
    form.until(f"{state('twice')} === 'done'", 240)
    form.until(f"{CURVE_STEPS} === 25")


def test_pause_stop_and_save_and_a_reload_in_between(form: Page) -> None:
    form.write(save_state_every_steps="0", save_state_every_minutes="0")  # nothing to go on from
    start(form, "long", 100_000)
    form.until("trainyard.status.step && trainyard.status.step.step > 1", 120)
    form.press("pause")
    form.until(f"{state('long')} === 'paused'")
    time.sleep(2)
    before = form.script("return trainyard.status.step.step")
    form.open()  # a reload, or another tab of the browser
    form.until("document.getElementById('trainyard_pause').innerText === 'Go on'")
    assert form.script("return trainyard.status.step.step") - before <= 1
    form.press("pause")
    form.until(f"trainyard.status.step.step > {before + 2}", 120)
    form.until(f"{PLAN}.includes('long runs now; the next one takes another name: Use long-2')")
    assert not form.script("return document.querySelector('#trainyard_plan .trainyard_bad')")
    form.press("stop_save")
    form.until(f"{state('long')} === 'done'", 120)
    assert "long.safetensors" in form.text("live")
    bar = "document.getElementById('trainyard_bar')"
    assert form.script(f"return parseFloat({bar}.firstElementChild.style.width)") < 10
    assert form.script(f"return Number({bar}.getAttribute('aria-valuenow'))") < 10
    row = form.script("return document.querySelector('#trainyard_jobs li').innerText")
    assert "long" in row and " %" in row
    form.until(f"{PLAN}.includes('long is saved; the next one takes another name')")
    form.press("instead")
    form.until(f"{PLAN}.includes('long-2.safetensors')")
    assert form.read("name") == "long-2"


def said(text: str) -> str:
    return f"document.getElementById('trainyard_message').innerText.includes({text!r})"


def stop_in_the_middle(page: Page, name: str) -> None:
    page.until("trainyard.status.step && trainyard.status.step.step > 2", 120)
    page.press("stop")
    page.until("document.querySelector('dialog[open]')?.innerText.includes('can go on later')")
    page.press("dialog_yes")
    page.until(f"{state(name)} === 'cancelled'", 120)


def test_what_a_stopped_job_has_learnt_is_lost_only_when_that_is_wanted(form: Page) -> None:
    start(form, "kept", 100_000)
    stop_in_the_middle(form, "kept")
    form.until(f"!{said('Stopping')}")
    assert "its state was saved, so that it can go on" in form.text("live")
    form.until(f"{PLAN}.includes('is unfinished')")
    form.write(rank="3")
    form.press("start")
    form.until(said("is unfinished"))
    form.press("queue_clear")
    form.until(said("can go on"))
    number = form.script("return trainyard.status.jobs.find((job) => job.name === 'kept').id")
    before = form.script(
        "return trainyard.status.jobs.find((job) => job.name === 'kept').saved_step"
    )
    form.press(f"job_{number}_again")
    form.until("document.querySelector('dialog[open]')?.innerText.includes('lost when it begins')")
    form.script("[...document.querySelectorAll('dialog[open] button')].at(-1).click()")
    assert form.script(f"return {state('kept')}") == "cancelled"
    form.write(name="waits")
    form.press("enqueue")
    form.until(f"{state('waits')} === 'queued'")
    form.press(f"job_{number}_on")
    form.until(said("kept goes on"))
    form.until(f"{state('kept')} === 'running' && trainyard.status.step?.step > {before}", 120)
    stop_in_the_middle(form, "kept")
    form.press(f"job_{number}_remove")
    form.until("document.querySelector('dialog[open]')?.innerText.includes('is lost with it')")
    form.press("dialog_yes")
    form.until(f"{state('kept')} === undefined")
    waiting = form.script("return trainyard.status.jobs.find((job) => job.name === 'waits').id")
    form.press(f"job_{waiting}_remove")
    form.until(f"{state('waits')} === undefined")
    form.write(name="kept")
    form.until(f"{PLAN}.includes('kept.safetensors')")


def test_a_result_that_was_saved_early_is_trained_on(form: Page) -> None:
    start(form, "early", 100_000)
    form.until("trainyard.status.step && trainyard.status.step.step > 2", 120)
    form.press("stop_save")
    form.until(f"{state('early')} === 'done'", 120)
    job = "trainyard.status.jobs.find((job) => job.name === 'early')"
    before = form.until(f"{job}.saved_step")
    form.press(f"job_{form.script(f'return {job}.id')}_on")
    form.until(f"{state('early')} === 'running' && trainyard.status.step?.step > {before}", 120)
    form.press("stop_save")
    form.until(f"{state('early')} === 'done'", 120)


def test_the_queue_is_changed_and_runs_in_order(form: Page) -> None:
    form.script("trainyard.ask('queue/clear', {})")
    for name in ("one", "two", "three"):
        form.write(name=name, steps="5")
        form.press("enqueue")
        form.until(f"{state(name)} === 'queued'")
    places = "trainyard.status.jobs.filter((job) => job.state === 'queued').map((job) => job.name)"
    third = form.script("return trainyard.status.jobs.find((job) => job.name === 'three').id")
    form.press(f"job_{third}_up")
    form.until(f"{places}.join() === 'one,three,two'")
    form.press("enqueue")
    form.until("document.getElementById('trainyard_message').innerText.includes('already writes')")
    form.press(f"job_{third}_edit")
    form.until("trainyard.editing !== null")
    form.write(steps="6")
    form.press("enqueue")
    form.until("trainyard.editing === null")
    form.press("queue_start")
    form.until(f"{state('two')} === 'done'", 300)
    done = form.script("return trainyard.status.jobs.find((job) => job.name === 'three').done")
    assert done == 6


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
        told = form.script(
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
    assert form.script(look, "no such setting") == []
    form.script(look, "")
    form.script("return trainyard.chooseMethod('difference')")
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


def test_runs_are_compared(form: Page) -> None:
    for name in ("curve-a", "curve-b"):
        start(form, name, 8)
        form.until(f"{state(name)} === 'done'", 240)
    form.until("document.querySelector('#trainyard_runs input[value=curve-a]')")
    for name in ("curve-a", "curve-b"):
        form.script(f"document.querySelector('#trainyard_runs input[value={name}]').click()")
        form.until(f"document.querySelector('#trainyard_runs input[value={name}]').checked")
        time.sleep(1)
    form.until("document.querySelectorAll('#trainyard_compare svg path').length === 4")
    sizes = form.script("""
        const links = [...document.querySelectorAll('#trainyard_results a')].map((one) => one.href);
        return Promise.all(links.map(async (link) => {
            const answer = await fetch(link);
            const kind = answer.headers.get('content-type').split(';')[0];
            return [kind, (await answer.blob()).size > 60];
        }));
    """)
    assert sizes == [["image/png", True], ["text/csv", True], ["text/csv", True]]


def test_a_grid_shows_what_the_save_points_of_a_run_draw(form: Page) -> None:
    form.write(save_every_steps="2", trigger_word="ohwx", name="grown", steps="4")
    form.press("start")
    form.until(f"{state('grown')} === 'done'", 240)
    form.until("document.querySelector('#trainyard_runs input[value=grown]')")
    form.script("document.querySelector('#trainyard_runs input[value=grown]').click()")
    form.press("grid_ask")
    form.until("document.getElementById('trainyard_grid_count')")
    assert form.script("return document.getElementById('trainyard_grid_prompts').value") == "ohwx"
    form.script("document.getElementById('trainyard_grid_denoise_steps').value = 'few'")
    form.press("grid_draw")
    form.until("document.querySelector('#trainyard_grid [role=alert]').innerText")
    assert "Denoise steps" in form.text("grid"), "what is wrong is said in the dialog"
    form.script("document.getElementById('trainyard_grid_denoise_steps').value = '1'")
    form.press("grid_draw")
    form.until(f"{state('grown-grid-1')} === 'done'", 240)
    size = form.until(
        "(() => { const one = document.querySelector('#trainyard_grids .trainyard_sheet img');"
        " return one && one.naturalWidth ? [one.naturalWidth, one.naturalHeight] : null; })()"
    )
    assert size[0] > 3 * 64, "three strengths"
    assert size[1] > 2 * 64, "two files"
    refused = "422"  # the wrong number above, which the browser notes as an error
    assert [error for error in form.console_errors() if refused not in error] == []


def test_prompts_are_counted_and_pairs_are_shown(form: Page, photos: Path) -> None:
    form.script("return trainyard.chooseMethod('difference')")
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


def test_the_page_survives_a_server_that_dies_and_its_job_goes_on(
    browser: Any, serve: Serve, photos: Path, tmp_path: Path
) -> None:
    port = free_port()
    server, page = serve(tmp_path, port), Page(browser, f"http://127.0.0.1:{port}/")
    page.open()
    page.write(**SMALL, images=str(photos), save_state_every_steps="2")
    start(page, "cut-off", 3000)
    page.until("trainyard.status.step && trainyard.status.step.step > 4", 120)
    server.kill()
    server.wait()
    page.until("document.getElementById('trainyard_message').innerText.includes('does not answer')")
    # whoever asks first says so; the buttons follow with the next poll
    page.until("document.getElementById('trainyard_start').disabled")
    page.script("window.dispatchEvent(new Event('resize'))")
    time.sleep(0.6)
    assert page.script("return document.getElementById('trainyard_start').disabled")
    serve(tmp_path, port)
    page.until("document.getElementById('trainyard_message').innerText.includes('started anew')")
    page.until(f"{state('cut-off')} === 'interrupted'")
    number = page.script("return trainyard.status.jobs[0].id")
    page.press(f"job_{number}_on")
    page.until("trainyard.status.step && trainyard.status.step.step > 4", 120)
    assert any("Going on after step" in line for line in page.script("return trainyard.status.log"))
    page.press("stop_save")
    page.until(f"{state('cut-off')} === 'done'", 120)
    assert (tmp_path / "cut-off.safetensors").is_file()


def test_a_job_that_is_edited_and_goes_leaves_a_form_that_can_be_queued(form: Page) -> None:
    form.write(name="fleeting", steps="3")
    form.press("enqueue")
    form.until(f"{state('fleeting')} === 'queued'")
    number = form.script("return trainyard.status.jobs.find((job) => job.name === 'fleeting').id")
    form.press(f"job_{number}_edit")
    form.until("document.getElementById('trainyard_enqueue').innerText.startsWith('Save changes')")
    form.script(f"return trainyard.ask('jobs/{number}', {{}}, 'DELETE')")  # from another tab
    form.until("document.getElementById('trainyard_enqueue').innerText === 'Add to queue'")


def test_a_start_under_way_cannot_be_pressed_again(form: Page) -> None:
    form.write(name="pressed-once", steps="3")
    form.script("""
        const real = window.fetch;
        window.fetch = async (...asked) => {
            if (String(asked[0]).endsWith('/jobs')) await new Promise((go) => setTimeout(go, 2000));
            return real(...asked);
        };
    """)
    form.press("start")
    form.script("return trainyard.refresh()")
    assert form.script("return document.getElementById('trainyard_start').disabled")
    form.until(f"{state('pressed-once')} === 'done'", 120)
    form.until("!document.getElementById('trainyard_start').disabled")


def test_choosing_a_run_leaves_the_list_and_the_keyboard_where_they_were(form: Page) -> None:
    form.open_with("""
        const path = String(asked[0]), answer = (value) => new Response(JSON.stringify(value));
        const runs = [...Array(40).keys()].map((n) => ({name: `run-${n}`, changed_s: n}));
        if (path.endsWith('/runs')) return answer({runs});
        return path.includes('/runs/curve') ? answer({curve: []}) : real(...asked);
    """)
    form.until("document.querySelectorAll('#trainyard_runs input').length === 40")
    before = form.script("""
        const box = document.querySelector('#trainyard_runs input[value=run-39]');
        box.focus();
        box.click();
        return document.getElementById('trainyard_runs').scrollTop;
    """)
    form.until("document.getElementById('trainyard_grid_ask')")
    assert before > 0
    assert form.script("return document.getElementById('trainyard_runs').scrollTop") == before
    assert form.script("return document.activeElement.value") == "run-39"


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
    form.script("return trainyard.chooseMethod('difference')")
    assert "It counts only" not in form.script(tip)


def test_a_preset_can_be_saved_before_its_concept_is_named(form: Page) -> None:
    form.script("return trainyard.chooseMethod('ileco')")
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
