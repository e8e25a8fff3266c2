"""Results as an artist looks at them: curves and grids, in a real browser."""

from __future__ import annotations

import time

import pytest

from .conftest import Page, start, state

pytestmark = pytest.mark.slow


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
    sizes = form.awaited("""
        const links = [...document.querySelectorAll('#trainyard_results a')].map((one) => one.href);
        return Promise.all(links.map(async (link) => {
            const answer = await fetch(link);
            const kind = answer.headers.get('content-type').split(';')[0];
            return [kind, (await answer.blob()).size > 60];
        }));
    """)
    assert sizes == [["image/png", True], ["text/csv", True], ["text/csv", True]]


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


def test_results_are_asked_for_anew_when_they_come_into_sight(form: Page) -> None:
    form.script("document.getElementById('trainyard_form').scrollIntoView()")
    form.script("document.getElementById('trainyard_results').style.display = 'none'")
    time.sleep(0.5)
    form.script("""
        window.asked = 0;
        const real = window.fetch;
        window.fetch = (...given) => {
            asked += String(given[0]).endsWith('/runs');
            return real(...given);
        };
    """)
    time.sleep(0.5)
    assert form.script("return asked") == 0
    form.script("document.getElementById('trainyard_results').style.display = ''")
    form.script("document.getElementById('trainyard_results').scrollIntoView()")
    form.until("asked === 1")
