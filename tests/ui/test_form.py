"""The form in a browser: what was typed stays, and what was not follows the method."""

from __future__ import annotations

import time

import pytest

from .conftest import Page

pytestmark = pytest.mark.slow


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
