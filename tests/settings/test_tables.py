"""The README's tables."""

from __future__ import annotations

import pytest

from trainer.settings.schema import PARAMETERS
from trainer.settings.tables import BEGIN, END, tables, with_tables


def test_every_parameter_has_one_row_of_four_cells() -> None:
    rows = [line for line in tables().splitlines() if line.startswith("| `")]
    assert [row.split("`")[1] for row in rows] == list(PARAMETERS)
    assert {row.replace("\\|", "").count("|") for row in rows} == {5}


@pytest.mark.parametrize(
    "row",
    [
        "| `checkpoint` | required | text |",
        "| `rank` | 16 | 1 to 1024 |",
        "| `learning_rate` | 0.0001 | 1e-09 to 10 |",
        "| `text_encoder_learning_rate` | as learning_rate | 1e-09 to 10 |",
        "| `blocks` | all | BASE ... OUT11 |",
        "| `image_size_px` | 512,512 | height,width; 64 to 8192 px |",
        "| `mirror` | false | true, false |",
        "| `loss` | MSE | MSE, L1, Smooth-L1, Huber, Pseudo-L1 |",
    ],
)
def test_rows(row: str) -> None:
    assert row in tables()


def test_the_part_between_the_marks_is_replaced_and_the_rest_kept() -> None:
    old = f"before\n{BEGIN}\noutdated\n{END}\nafter\n"
    new = with_tables(old)
    assert new.startswith(f"before\n{BEGIN}\n")
    assert new.endswith(f"{END}\nafter\n")
    assert tables() in new
    assert "outdated" not in new
    assert with_tables(new) == new


@pytest.mark.parametrize("text", ["", BEGIN, END, f"{END}{BEGIN}", f"{BEGIN}{BEGIN}{END}"])
def test_missing_marks_are_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="once each"):
        with_tables(text)
