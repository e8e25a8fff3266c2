"""What a method is measured on: a job on the embedded world, and when a picture is right."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image

from ..evaluate.measures import Case, Check
from . import judge
from .world import COLOURS, SHAPES, Scene, sentence, tags

PICTURES_PX = 64
FRAMES: dict[str, object] = {"image_size_px": PICTURES_PX, "bucket_step_px": 0}
CASES = 40
FIRST_SEED = 5000
NARROW: dict[str, object] = {"learning_rate": 3e-3}
"""The checkpoint is five to twenty times narrower than SD1, and a narrow layer needs a higher rate:
what a step of Adam does to a layer's output grows with its width.  In 16 steps the preset's 5e-4
takes half of the difference between the answers to two prompts away at SD1's width, and a sixth of
it here; 3e-3 takes two thirds of it away here, and multiplies it by two to five there."""


@dataclass(frozen=True)
class Task:
    """One thing that a method is to learn."""

    name: str
    method: str
    title: str
    job: Callable[[Path], dict[str, object]]
    """Writes what the job needs under a folder; the settings that are not the method's defaults."""
    effect: tuple[Case, ...]
    collateral: tuple[Case, ...]
    """Cases that are right without the network and should stay so."""
    removal: tuple[Case, ...] = ()
    """Cases that should be right at strength -1."""
    ideal: tuple[Case, ...] = ()
    """The effect's cases in words that say outright what the effect is: what the bare checkpoint
    makes of these is the most that can be taught."""
    grade: Callable[[Image.Image], float] | None = None
    """A property that rises with the strength."""
    one_prompt: Mapping[str, object] = field(default_factory=dict)
    """What a way that knows a single prompt and no contexts is given instead."""

    def with_cases(self, count: int) -> Task:
        """The task with at most so many cases of each kind."""
        kinds = ("effect", "collateral", "removal", "ideal")
        return replace(self, **{kind: getattr(self, kind)[:count] for kind in kinds})


def scenes(count: int, seed: int, allowed: Callable[[Scene], bool]) -> list[Scene]:
    """Plain scenes of normal size that a condition allows."""
    rng = np.random.default_rng(seed)
    found: list[Scene] = []
    while len(found) < count:
        colour, background = rng.choice(list(COLOURS), size=2, replace=False)
        scene = Scene(str(rng.choice(SHAPES)), str(colour), str(background))
        if allowed(scene):
            found.append(scene)
    return found


def cases(
    wanted: Sequence[Scene],
    right: Callable[[Scene], Check],
    *,
    said: Callable[[Scene], Scene] = lambda scene: scene,
    seed: int = FIRST_SEED,
) -> tuple[Case, ...]:
    """A case for each scene, in turn as a sentence and as tags.

    Args:
        right: when a picture of the scene is right.
        said: what the prompt describes instead of the scene.
    """
    wordings = (sentence, tags, lambda scene: f"a picture of {sentence(scene)}")
    return tuple(
        Case(wordings[number % len(wordings)](said(scene)), seed + number, right(scene))
        for number, scene in enumerate(wanted)
    )


def shows(scene: Scene) -> Check:
    """Shape, colour and background are the scene's."""
    return lambda picture: judge.read(picture).shows(scene)


def is_plain(scene: Scene) -> Check:
    """The shape is there, without stripes."""
    return lambda picture: not (seen := judge.read(picture)).striped and seen.shape == scene.shape


def blueness(picture: Image.Image) -> float:
    """How much bluer than red the middle of a picture is, -1 to 1."""
    pixels = np.asarray(picture.convert("RGB"), np.float32)
    height, width = pixels.shape[:2]
    middle = pixels[height // 3 : -height // 3, width // 3 : -width // 3].mean((0, 1))
    return float((middle[2] - middle[0]) / 255)
