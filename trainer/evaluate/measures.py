"""Effect, collateral, slider and time to effect of a trained network.

Every measure looks at pictures alone: it is given a function that draws prompts with seeds at a
strength, and one that says whether a picture is right.  On the embedded world the judge says so;
elsewhere a classifier may.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Draw = Callable[[Sequence[str], Sequence[int], float], Sequence[Image.Image]]
"""(prompts, seeds, strength) -> a picture for each; strength 0 is the bare model."""
Check = Callable[[Image.Image], bool]
See = Callable[[Sequence[Image.Image]], NDArray[np.floating[Any]]]
"""Pictures as what their change is measured on, such as latents: [n, ...]."""

EFFECTIVE, HARMLESS = 0.90, 0.05
"""Effect that must be reached, and collateral that must not be passed, to count as done."""
SLIDER_STRENGTHS = (-1.0, -0.5, 0.0, 0.5, 1.0)


@dataclass(frozen=True)
class Case:
    """A prompt, the seed of its picture, and what is right of that picture."""

    prompt: str
    seed: int
    right: Check


@dataclass(frozen=True)
class Effect:
    """How often what was learnt appears."""

    share: float
    """Cases that are right at strength 1, 0 to 1."""
    before: float
    """The same without the network."""
    count: int


@dataclass(frozen=True)
class Collateral:
    """What was lost where nothing should have changed."""

    share: float
    """Of the cases that were right without the network, those that are wrong with it."""
    change: float
    """Mean absolute change over all cases: of a pixel, 0 to 1, or of what they were seen as."""
    count: int
    """Cases that were right without the network."""


def effect(draw: Draw, cases: Sequence[Case], strength: float = 1.0) -> Effect:
    """The success on prompts and seeds that were not trained on."""
    before, after = (_right(cases, _drawn(draw, cases, at)) for at in (0.0, strength))
    return Effect(_share(after), _share(before), len(cases))


def pixels(pictures: Sequence[Image.Image]) -> NDArray[np.floating[Any]]:
    """Pictures of one size as float32 [n, h, w, 3], 0 to 1."""
    return np.stack([np.asarray(one.convert("RGB"), np.float32) / 255 for one in pictures])


def collateral(
    draw: Draw, cases: Sequence[Case], strength: float = 1.0, see: See = pixels
) -> Collateral:
    """The success lost on prompts that should not move, and how far their pictures moved."""
    bare, trained = (_drawn(draw, cases, at) for at in (0.0, strength))
    was, still = _right(cases, bare), _right(cases, trained)
    lost = [before and not after for before, after in zip(was, still, strict=True)]
    change = float(np.abs(see(bare) - see(trained)).mean()) if cases else 0.0
    return Collateral(sum(lost) / max(1, sum(was)), change, sum(was))


@dataclass(frozen=True)
class Slider:
    """A graded property at several strengths."""

    strengths: tuple[float, ...]
    means: tuple[float, ...]
    """Mean of the property over all cases."""

    @property
    def monotone(self) -> bool:
        """Whether the mean never moves back as the strength rises."""
        return all(a <= b for a, b in zip(self.means, self.means[1:], strict=False))


def slider(
    draw: Draw,
    prompts: Sequence[str],
    seeds: Sequence[int],
    grade: Callable[[Image.Image], float],
    strengths: Sequence[float] = SLIDER_STRENGTHS,
) -> Slider:
    """How a property that rises with what was learnt answers to the strength."""
    means = [
        float(np.mean([grade(picture) for picture in draw(prompts, seeds, strength)]))
        for strength in strengths
    ]
    return Slider(tuple(strengths), tuple(means))


@dataclass(frozen=True)
class Dose:
    """What a strength does."""

    strength: float
    effect: float
    collateral: float
    removal: float | None
    """Cases that are right at the same strength below 0; None: there are none."""


def doses(
    draw: Draw,
    strengths: Sequence[float],
    *,
    wanted: Sequence[Case],
    unwanted: Sequence[Case],
    removed: Sequence[Case] = (),
) -> tuple[Dose, ...]:
    """Effect against collateral: the curve on which a strength, or a rate, is chosen.

    Args:
        wanted: the cases of the effect.
        unwanted: those of the collateral.
        removed: those that should be right below 0.
    """
    return tuple(
        Dose(
            strength,
            effect(draw, wanted, strength).share,
            collateral(draw, unwanted, strength).share,
            effect(draw, removed, -strength).share if removed else None,
        )
        for strength in strengths
    )


@dataclass(frozen=True)
class Point:
    """The state of a training at one moment."""

    step: int
    seconds: float
    """Of training and preparation, without measuring."""
    passes: int
    """Pictures that went through the UNet, forward with a graph counted three times."""
    effect: float
    collateral: float

    @property
    def done(self) -> bool:
        """Whether it works without harm."""
        return self.effect >= EFFECTIVE and self.collateral <= HARMLESS


def time_to_effect(course: Sequence[Point]) -> Point | None:
    """The first moment from which on it works without harm; None if the end does not."""
    reached = None
    for point in reversed(course):
        if not point.done:
            break
        reached = point
    return reached


def _drawn(draw: Draw, cases: Sequence[Case], strength: float) -> Sequence[Image.Image]:
    return draw([case.prompt for case in cases], [case.seed for case in cases], strength)


def _right(cases: Sequence[Case], pictures: Sequence[Image.Image]) -> list[bool]:
    return [case.right(picture) for case, picture in zip(cases, pictures, strict=True)]


def _share(right: Sequence[bool]) -> float:
    return sum(right) / max(1, len(right))
