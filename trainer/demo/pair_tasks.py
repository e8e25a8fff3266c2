"""What the pair methods are measured on: a hole that pictures of a pair differ in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from ..evaluate.measures import Check
from ..settings.groups import BLOCKS
from . import judge
from .task import CASES, FRAMES, PICTURES_PX, Task, cases, scenes, shows
from .world import Scene, draw, random_placement, sentence, tags

PAIR = Scene("circle", "red", "white")
SIX = (
    PAIR,
    Scene("square", "blue", "yellow"),
    Scene("star", "green", "black"),
    Scene("heart", "purple", "orange"),
    Scene("triangle", "yellow", "blue"),
    Scene("cross", "white", "red"),
)
TOLD = (
    PAIR,
    Scene("square", "purple", "green"),
    Scene("triangle", "blue", "yellow"),
    Scene("star", "yellow", "red"),
    Scene("cross", "white", "green"),
    Scene("heart", "white", "red"),
    Scene("circle", "white", "orange"),
    Scene("square", "black", "blue"),
    Scene("triangle", "green", "orange"),
    Scene("star", "black", "orange"),
    Scene("cross", "black", "purple"),
    Scene("heart", "purple", "yellow"),
    *(
        replace(scene, holed=True)
        for scene in (
            Scene("star", "yellow", "red"),
            Scene("cross", "white", "green"),
            Scene("heart", "white", "red"),
            Scene("circle", "white", "orange"),
        )
    ),
)
PROMPTS = "\n".join((sentence, tags)[number % 2](scene) for number, scene in enumerate(TOLD))
"""The pair's own caption, what else the change is learnt under, and prompts that name it already:
under these the negative strength learns to take it away."""

MEANING: dict[str, object] = {
    "blocks": "BASE",
    "rank": 16,
    "alpha": 8,
    "steps": 100,
    "batch_size": 8,
    "min_timestep": 300,
    "learning_rate": 5e-3,
}
"""Only the text encoder learns, so that the change is one of meaning and carries over; where all
layers learn, it becomes a pattern in one place and colour.  The lowest noise levels, at which a
picture is already decided, teach nothing.  A rank of 4 would leave too much to the random weights
that a training begins with: how strong its result is would follow from the seed."""


def is_holed(scene: Scene) -> Check:
    del scene
    return lambda picture: judge.read(picture).holed


def is_whole(scene: Scene) -> Check:
    """The shape is there, without a hole."""
    return lambda picture: not (seen := judge.read(picture)).holed and seen.shape == scene.shape


def hole(picture: Image.Image) -> float:
    return float(judge.read(picture).holed)


def save_pair(folder: Path, name: str, scene: Scene) -> tuple[Path, Path]:
    """A picture of the scene, and the same one with a hole."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(17)
    placement = random_placement(rng, scene.size, PICTURES_PX, PICTURES_PX)
    before, after = folder / f"{name}.png", folder / f"{name}_holed.png"
    draw(scene, PICTURES_PX, PICTURES_PX, placement=placement).save(before)
    holed = replace(scene, holed=True)
    draw(holed, PICTURES_PX, PICTURES_PX, placement=placement).save(after)
    return before, after


def _one_pair(folder: Path) -> dict[str, object]:
    before, after = save_pair(folder, "pair", PAIR)
    return {
        "original_image": str(before),
        "target_image": str(after),
        "original_prompt": PROMPTS,
        "placements": 16,
        **FRAMES,
    }


def _difference(folder: Path) -> dict[str, object]:
    """A copier of all layers, as it has to copy; then a network that learns what is new.

    At its full strength the second network draws more of the circle along; two thirds of it
    are saved.
    """
    unet = ",".join(block for block in BLOCKS if block != "BASE")
    copier = {"blocks": unet, "learning_rate": 5e-3, "steps": 90, "batch_size": 4}
    second = {**MEANING, "batch_size": 4, "learning_rate": 2e-3, "network_strength": 0.65}
    return {**_one_pair(folder), **copier, "second_pass": second}


def _addift(folder: Path) -> dict[str, object]:
    return {**_one_pair(folder), **MEANING, "direction_strength": 0.55}


def _six_pairs(folder: Path) -> dict[str, object]:
    for number, scene in enumerate(SIX):
        save_pair(folder / "pairs", str(number), scene)
        (folder / "pairs" / f"{number}.txt").write_text(sentence(scene), "utf-8")
    pairs = {"images": str(folder / "pairs"), "pair_suffix": "_holed", "placements": 4}
    return {**pairs, **FRAMES, **MEANING, "direction_strength": 0.5}


_OTHERS = scenes(
    CASES,
    1,
    lambda scene: scene.shape != "circle" and scene.colour != "red" and scene not in (*SIX, *TOLD),
)
_HOLED = [
    replace(scene, holed=True) for scene in scenes(CASES, 6, lambda s: s not in (*SIX, *TOLD))
]


def _task(name: str, title: str, job: Callable[[Path], dict[str, object]]) -> Task:
    return Task(
        name,
        name,
        title,
        job,
        effect=cases(_OTHERS, is_holed),
        ideal=cases(_OTHERS, is_holed, said=lambda scene: replace(scene, holed=True)),
        collateral=cases(_OTHERS, shows),
        removal=cases(_HOLED, is_whole),
        grade=hole,
    )


PAIR_TASKS = (
    _task("difference", "Difference: a hole from one pair", _difference),
    _task("addift", "ADDifT: a hole from one pair", _addift),
    _task("multi_addift", "Multi-ADDifT: a hole from six pairs", _six_pairs),
)
