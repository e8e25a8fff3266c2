"""Training and the queue as an artist uses them, in a real browser, on a tiny checkpoint."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import PLAN, SMALL, Page, free_port, said, start, state

pytestmark = pytest.mark.slow

Serve = Callable[[Path, int], "subprocess.Popen[bytes]"]


def test_a_training_runs_and_shows_how_far_it_is(form: Page) -> None:
    hidden = "return document.getElementById('trainyard_stop').hidden"
    assert form.script(hidden), "nothing runs that could be stopped"
    start(form, "first", 30)
    form.until("trainyard.status.step && trainyard.status.step.step > 2", 120)
    assert not form.script(hidden)
    assert "/ 30" in form.text("headline")
    form.until(f"{state('first')} === 'done'", 240)
    form.until("document.getElementById('trainyard_stop').hidden")
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
    form.awaited("return trainyard.chooseMethod('difference')")
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
    form.awaited("return trainyard.refresh()")
    assert form.script("return document.getElementById('trainyard_start').disabled")
    form.until(f"{state('pressed-once')} === 'done'", 120)
    form.until("!document.getElementById('trainyard_start').disabled")


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


def test_a_job_that_is_edited_and_goes_leaves_a_form_that_can_be_queued(form: Page) -> None:
    form.write(name="fleeting", steps="3")
    form.press("enqueue")
    form.until(f"{state('fleeting')} === 'queued'")
    number = form.script("return trainyard.status.jobs.find((job) => job.name === 'fleeting').id")
    form.press(f"job_{number}_edit")
    form.until("document.getElementById('trainyard_enqueue').innerText.startsWith('Save changes')")
    form.press("leave")
    form.until("document.getElementById('trainyard_enqueue').innerText === 'Add to queue'")
    assert form.script("return document.getElementById('trainyard_leave').hidden")
    form.press(f"job_{number}_edit")
    form.until("document.getElementById('trainyard_enqueue').innerText.startsWith('Save changes')")
    form.awaited(f"return trainyard.ask('jobs/{number}', {{}}, 'DELETE')")  # from another tab
    form.until("document.getElementById('trainyard_enqueue').innerText === 'Add to queue'")


OFFERED = """
    const list = document.querySelector('#trainyard_resume_from ul');
    return list ? [...list.querySelectorAll('li')].map((one) => one.innerText.trim()) : [];
"""


def test_what_was_made_can_be_continued_from_without_a_reload(form: Page) -> None:
    form.write(name="parent", steps="3")
    form.press("start")
    form.until(f"{state('parent')} === 'done'", 240)
    form.script("trainyard.reveal(document.getElementById('trainyard_resume_from'))")
    time.sleep(2)
    form.type("resume_from", "paren")
    offered = form.script(OFFERED)
    assert any("parent.safetensors" in one for one in offered), offered
    assert form.read("name") == "parent", "the rest of the form stays"


def test_the_keyboard_stays_where_it_was_and_what_waits_goes_at_once(form: Page) -> None:
    from selenium.webdriver.common.keys import Keys

    focused = "document.activeElement.id"
    for name in ("row-1", "row-2", "row-3"):
        form.write(name=name, steps="4000")
        form.press("enqueue")
        form.until(f"{state(name)} === 'queued'")
    find = "return trainyard.status.jobs.find((job) => job.name === arguments[0]).id"
    first, number, last = (form.script(find, f"row-{row}") for row in (1, 2, 3))
    up = form.driver.find_element("id", f"trainyard_job_{number}_up")
    up.send_keys(Keys.ENTER)
    form.until(f"{focused} === 'trainyard_job_{number}_down'")  # it is the first now
    form.driver.find_element("id", f"trainyard_job_{first}_remove").send_keys(Keys.ENTER)
    form.until(f"{focused} === 'trainyard_job_{last}_remove'")  # what took its place
    form.write(name="row-4", steps="4000")
    form.driver.find_element("id", "trainyard_start").send_keys(Keys.ENTER)
    form.until(f"{state('row-2')} === 'running'")
    form.until(f"{focused} === 'trainyard_enqueue'")
    form.press("queue_dismiss")
    form.until("document.querySelector('dialog[open]')?.innerText.includes('all 2 that wait')")
    form.press("dialog_yes")
    waiting = "trainyard.status.jobs.filter((job) => job.state === 'queued').length"
    form.until(f"{waiting} === 0")
    assert form.script(f"return {state('row-2')}") == "running"
    form.awaited(f"return trainyard.ask('jobs/{number}/stop', {{save: false}})")
    form.until(f"{state('row-2')} === 'cancelled'")
