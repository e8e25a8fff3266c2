"""The measures, on pictures whose every property is known: a grey level that the strength moves."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from PIL import Image

from trainer.evaluate.measures import (
    Case,
    Point,
    collateral,
    effect,
    slider,
    time_to_effect,
)


def drawing(moves: Callable[[str, float], int]) -> Callable[..., list[Image.Image]]:
    def draw(prompts: Sequence[str], seeds: Sequence[int], strength: float) -> list[Image.Image]:
        assert len(prompts) == len(seeds)
        return [Image.new("RGB", (8, 8), (moves(p, strength),) * 3) for p in prompts]

    return draw


def level(picture: Image.Image) -> int:
    return int(picture.getpixel((0, 0))[0])


def bright(picture: Image.Image) -> bool:
    return level(picture) > 100


def cases(*prompts: str) -> list[Case]:
    return [Case(prompt, seed, bright) for seed, prompt in enumerate(prompts)]


def test_effect_counts_before_and_after() -> None:
    draw = drawing(lambda prompt, strength: 200 if prompt == "moved" and strength == 1 else 50)
    found = effect(draw, cases("moved", "moved", "moved", "deaf"))
    assert (found.share, found.before, found.count) == (0.75, 0.0, 4)


def test_collateral_is_what_was_right_and_is_not() -> None:
    levels = {"kept": (200, 200), "lost": (200, 98), "never": (50, 50), "gained": (50, 200)}
    draw = drawing(lambda prompt, strength: levels[prompt][int(strength)])
    found = collateral(draw, cases("kept", "kept", "kept", "lost", "never", "gained"))
    assert (found.share, found.count) == (0.25, 4)
    assert found.change == pytest.approx((102 + 150) / 255 / 6)


def test_the_change_may_be_measured_on_what_pictures_are_seen_as() -> None:
    draw = drawing(lambda prompt, strength: 100 + int(50 * strength))
    seen = collateral(draw, cases("a", "b"), see=lambda some: np.array([level(s) for s in some]))
    assert seen.change == 50


def test_slider_is_monotone_or_not() -> None:
    rising = drawing(lambda prompt, strength: int(100 + 50 * strength))
    found = slider(rising, ["a"], [1], level)
    assert found.means == (50, 75, 100, 125, 150)
    assert found.monotone
    turning = drawing(lambda prompt, strength: int(100 - 50 * abs(strength)))
    assert not slider(turning, ["a"], [1], level).monotone


def test_time_to_effect_is_when_it_begins_to_stay() -> None:
    figures = [(0.0, 0.0), (0.95, 0.0), (0.95, 0.06), (0.90, 0.05), (0.99, 0.0)]
    course = [Point(n, n * 1.0, n, *figure) for n, figure in enumerate(figures)]
    assert time_to_effect(course) == course[3]
    assert time_to_effect(course[:3]) is None
    assert time_to_effect([]) is None
