"""Which fonts a text is written with."""

from __future__ import annotations

import pytest

from trainer.evaluate.fonts import Font, fonts_for, runs

pytest.importorskip("matplotlib")


def test_what_the_first_font_lacks_another_has(flower_font: str) -> None:
    fonts = fonts_for("a 花 pot")
    assert fonts[0].letters == frozenset("a pot")
    held = [font.family for font in fonts[1:] if "花" in font.letters]
    assert held[:1] and all(not font.letters & frozenset("apot") for font in fonts[1:])


def test_a_letter_that_no_font_has_does_no_harm() -> None:
    nobodys = chr(0x10FFFD)
    fonts = fonts_for(f"a{nobodys}\n")
    assert [font.letters for font in fonts] == [frozenset("a")]
    assert list(runs(f"a{nobodys}", fonts)) == [(0, f"a{nobodys}")]


def test_a_text_is_cut_where_the_font_changes() -> None:
    fonts = [Font("one", "", frozenset("ab ")), Font("two", "", frozenset("花"))]
    assert list(runs("a 花花b", fonts)) == [(0, "a "), (1, "花花"), (0, "b")]
