"""The form in a browser: what was typed stays, and what was not follows the method."""

from __future__ import annotations

import time

import pytest

from .conftest import Page

pytestmark = pytest.mark.slow


def through(page: Page, *methods: str) -> None:
    for method in methods:
        page.awaited("return trainyard.chooseMethod(arguments[0])", method)


def test_arrow_keys_go_through_the_methods_as_fast_as_they_repeat(form: Page) -> None:
    form.script("""
        document.getElementById('trainyard_method_lora').focus();
        const key = {key: 'ArrowRight', bubbles: true};
        for (let i = 0; i < 3; i += 1) {
            document.activeElement.dispatchEvent(new KeyboardEvent('keydown', key));
        }
    """)
    form.until("trainyard.method === 'addift'")
    time.sleep(2)
    values = {name: form.read(name) for name in ("steps", "learning_rate", "rank")}
    assert values == {"steps": "50", "learning_rate": "0.0001", "rank": "2"}


def test_what_was_never_changed_follows_the_method_that_last_had_it(form: Page) -> None:
    through(form, "ileco", "difference", "lora")
    assert form.read("preserve_share") == "0.33", "iLECO's 0.5, which Difference does not have"
    through(form, "multi_addift", "ileco")
    assert form.read("truncate_prompts") is False
    through(form, "lora")
    form.write(preserve_share="0.5")
    through(form, "difference", "lora")
    assert form.read("preserve_share") == "0.5", "what was changed stays"


def test_settings_of_another_job_bring_their_own_second_pass_or_none(form: Page) -> None:
    fill_in = "return trainyard.ask('presets/load', {name: arguments[0]}).then("
    fill_in += "({values}) => trainyard.fillIn(values))"
    form.awaited(fill_in, "Difference second pass")
    assert form.read("second_pass.rank") == "4"
    through(form, "lora")
    form.awaited(fill_in, "LoRA")
    assert form.read("second_pass.rank") == "4", "LoRA has none"
    form.awaited(fill_in, "Difference")
    assert form.read("second_pass.rank") == ""


def test_a_reload_keeps_the_form_also_where_the_server_answers_late_or_not(form: Page) -> None:
    form.write(trigger_word="ohwx", name="before")
    form.open_with("""
        if (String(asked[0]).includes('/choices')) return new Promise(() => {});
        return real(...asked);
    """)
    assert form.read("trigger_word") == "ohwx"
    form.type("name", "after")
    time.sleep(1)
    form.open()
    assert (form.read("trigger_word"), form.read("name")) == ("ohwx", "after")
