"""The settings of a grid: what is read, and what is refused."""

from __future__ import annotations

import pytest

from trainer.errors import BadInput
from trainer.settings.grid import GRID, numbers, parse_grid, pictures, seed_numbers

JOB = {"checkpoint": "model", "loras": "a.safetensors\n b.safetensors\n", "prompts": "one\n\ntwo"}


def test_every_combination_is_a_picture() -> None:
    settings = parse_grid({**JOB, "method": GRID, "strengths": "0, .5;1", "seeds": "1,2"})
    assert settings.files == ("a.safetensors", "b.safetensors")
    assert numbers(settings.strengths) == (0, 0.5, 1)
    assert seed_numbers(settings.seeds) == (1, 2)
    assert pictures(settings) == 2 * 3 * 2 * 2
    assert parse_grid(settings.as_dict()) == settings


@pytest.mark.parametrize(
    ("name", "raw", "what"),
    [
        ("loras", "", "is missing"),
        ("prompts", " ", "is missing"),
        ("strengths", "0, much", "is no number"),
        ("strengths", "0, inf", "is no number"),
        ("strengths", " , ", "is empty"),
        ("strengths", "0,5; 1", "a comma"),
        ("seeds", "1.5", "is no seed"),
        ("seeds", "-1", "is no seed"),
        ("name", "../grid", "folder separator"),
        ("size_px", 65, "not a multiple of 8"),
        ("checkpoint", "", "is missing"),
        ("rank", 4, "unknown"),
    ],
)
def test_what_is_wrong_is_named(name: str, raw: object, what: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse_grid({**JOB, name: raw})
    (problem,) = caught.value.problems
    assert problem.where == name
    assert what in problem.what


def test_a_grid_has_an_end() -> None:
    with pytest.raises(BadInput, match="2020 pictures; 1000 are allowed"):
        parse_grid({**JOB, "strengths": "1", "seeds": ",".join(map(str, range(505)))})
