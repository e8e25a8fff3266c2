"""A labelled sheet: where the pictures are, and that it stays small enough to be looked at."""

from __future__ import annotations

import pytest
from PIL import Image

from trainer.evaluate import sheet
from trainer.evaluate.fonts import Font
from trainer.evaluate.sheet import GAP_PX, Block, labelled_sheet

RED, BLUE = (Image.new("RGB", (24, 40), colour) for colour in ("red", "blue"))


def block(pictures: list[list[Image.Image | None]], title: str = "a red hat") -> Block:
    columns = [str(number) for number in range(len(pictures[0]))]
    rows = [f"file-{number}" for number in range(len(pictures))]
    return Block(title, "strength", columns, rows, pictures)


def count(picture: Image.Image, colour: tuple[int, int, int]) -> int:
    return sum(one == colour for one in picture.getdata())


def test_every_picture_is_shown_whole_in_its_place() -> None:
    made = labelled_sheet([block([[RED, BLUE], [BLUE, None]]), block([[RED, RED]])], (40, 24))
    assert count(made, (255, 0, 0)) == 3 * 40 * 24
    assert count(made, (0, 0, 255)) == 2 * 40 * 24
    right = made.width - GAP_PX - 12
    column = [made.getpixel((right, y)) for y in range(made.height)]
    assert column.count((0, 0, 255)) == 40, "blue is right of red"
    assert column.index((0, 0, 255)) < column.index((255, 0, 0)), "and in the first block"


def test_labels_are_written() -> None:
    blank = labelled_sheet([Block("", "", [""], [""], [[RED]])], (40, 24))
    written = labelled_sheet([block([[RED]])], (40, 24))
    dark = [sum(max(one) < 128 for one in made.getdata()) for made in (blank, written)]
    assert dark[0] == 0
    assert dark[1] > 20


def test_a_long_title_ends_within_the_sheet() -> None:
    short, long = (labelled_sheet([block([[RED]], title)], (40, 24)) for title in ("a", "a " * 999))
    assert short.size == long.size


def test_very_many_cells_are_drawn_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sheet, "MOST_PIXELS", 40 * 24)
    made = labelled_sheet([block([[RED, RED], [RED, RED]])], (40, 24))
    assert count(made, (255, 0, 0)) == 4 * 20 * 12


def test_without_matplotlib_letters_are_pillows(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(text: str) -> tuple[Font, ...]:
        raise ImportError

    monkeypatch.setattr(sheet, "fonts_for", missing)
    made = labelled_sheet([block([[RED]], "花 hat")], (40, 24))
    assert count(made, (255, 0, 0)) == 40 * 24


def test_letters_that_the_first_font_lacks_are_written_with_another(flower_font: str) -> None:
    words = Block("花", "", [""], ["花花"], [[RED]])
    made = labelled_sheet([words], (40, 24))
    dark = sum(max(one) < 128 for one in made.getdata())
    size = 12  # of the smallest letters; the font's flower is a full square
    assert dark == pytest.approx(3 * size * size, rel=0.3)
