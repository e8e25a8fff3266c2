"""What the methods are measured on: jobs on the embedded world, and when a picture is right."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image

from ..evaluate.measures import Case, Check
from ..settings.groups import BLOCKS
from . import judge
from .world import COLOURS, SHAPES, Scene, draw, random_placement, sentence, tags

PICTURES_PX = 64
FRAMES: dict[str, object] = {"image_size_px": PICTURES_PX, "bucket_step_px": 0}
CASES = 64
FIRST_SEED = 5000
NARROW: dict[str, object] = {"learning_rate": 3e-3}
"""The checkpoint is five to twenty times narrower than SD1, and a narrow layer needs a higher rate:
what a step of Adam does to a layer's output grows with its width."""


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
    grade: Callable[[Image.Image], float] | None = None
    """A property that rises with the strength."""
    one_prompt: Mapping[str, object] = field(default_factory=dict)
    """What a way that knows a single prompt and no contexts is given instead."""


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


def one_prompt(original: str, target: str, context: str) -> dict[str, object]:
    """The change in one whole caption, at the embedded checkpoint's learning rate."""
    before, after = (context.replace("{}", word) for word in (original, target))
    rate = {"learning_rate": NARROW["learning_rate"]}
    return {"original_prompt": before, "target_prompt": after, **rate}


def shows(scene: Scene) -> Check:
    """Shape, colour and background are the scene's."""
    return lambda picture: judge.read(picture).shows(scene)


def is_striped(scene: Scene) -> Check:
    del scene
    return lambda picture: judge.read(picture).striped


def is_plain(scene: Scene) -> Check:
    """The shape is there, without stripes."""
    return lambda picture: not (seen := judge.read(picture)).striped and seen.shape == scene.shape


def stripes(picture: Image.Image) -> float:
    return judge.read(picture).stripes


def blueness(picture: Image.Image) -> float:
    """How much bluer than red the middle of a picture is, -1 to 1."""
    pixels = np.asarray(picture.convert("RGB"), np.float32)
    height, width = pixels.shape[:2]
    middle = pixels[height // 3 : -height // 3, width // 3 : -width // 3].mean((0, 1))
    return float((middle[2] - middle[0]) / 255)


def _ileco(
    original: str, target: str, contexts: Sequence[str], preserve: Sequence[str]
) -> Callable[[Path], dict[str, object]]:
    """The job; the checkpoint knows whole captions, so the words are trained in such phrases."""
    values: dict[str, object] = {
        "original_prompt": original,
        "target_prompt": target,
        "contexts": "\n".join(contexts),
        "preserve_prompts": "\n".join(preserve),
        "image_size_px": PICTURES_PX,
        **NARROW,
    }
    return lambda folder: values


COLOUR_CONTEXTS = (
    "a {} circle on a white background",
    "{} star, black background",
    "a {} circle on a green background",
    "{} star, yellow background",
)
COLOUR_NEIGHBOURS = (
    "a green circle on a white background",
    "purple star, black background",
    "a orange circle on a blue background",
    "yellow star, purple background",
    "a black circle on a yellow background",
    "white star, orange background",
)
SHAPE_CONTEXTS = (
    "a red {} on a white background",
    "blue {}, black background",
    "a yellow {} on a green background",
    "white {}, purple background",
)
SHAPE_NEIGHBOURS = (
    "a red star on a white background",
    "blue heart, black background",
    "a yellow triangle on a green background",
    "white cross, purple background",
)
STRIPE_CONTEXTS = (
    "a {} red circle on a white background",
    "blue star, black background, {}",
    "a {} yellow square on a green background",
    "white heart, purple background, {}",
)
STRIPE_NEIGHBOURS = (
    "a red circle on a white background",
    "blue star, black background",
    "a yellow square on a green background",
    "white heart, purple background",
)


PAIR = Scene("circle", "red", "white")
SIX = (
    PAIR,
    Scene("square", "blue", "yellow"),
    Scene("star", "green", "black"),
    Scene("heart", "purple", "orange"),
    Scene("triangle", "yellow", "blue"),
    Scene("cross", "white", "red"),
)


def save_pair(folder: Path, name: str, scene: Scene) -> tuple[Path, Path]:
    """A picture of the scene, and the same one with stripes."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(17)
    placement = random_placement(rng, scene.size, PICTURES_PX, PICTURES_PX)
    before, after = folder / f"{name}.png", folder / f"{name}_striped.png"
    draw(scene, PICTURES_PX, PICTURES_PX, placement=placement).save(before)
    striped = replace(scene, striped=True)
    draw(striped, PICTURES_PX, PICTURES_PX, placement=placement).save(after)
    return before, after


PAIR_LEARNING: dict[str, object] = {
    "learning_rate": 5e-3,
    "alpha": 4,
    "steps": 100,
    "batch_size": 6,
    "direction_strength": 1.0,
    "blocks": ",".join(block for block in BLOCKS if block != "BASE"),
}
"""The best of what was tried for pairs; see the measurements."""


def _one_pair(folder: Path) -> dict[str, object]:
    before, after = save_pair(folder, "pair", PAIR)
    return {"original_image": str(before), "target_image": str(after), **FRAMES}


def _six_pairs(folder: Path) -> dict[str, object]:
    for number, scene in enumerate(SIX):
        save_pair(folder / "pairs", str(number), scene)
        (folder / "pairs" / f"{number}.txt").write_text(sentence(scene), "utf-8")
    return {"images": str(folder / "pairs"), "pair_suffix": "_striped", **FRAMES, **PAIR_LEARNING}


_OTHERS = scenes(CASES, 1, lambda scene: scene.shape != "circle" and scene.colour != "red")
_NOT_RED = scenes(CASES, 2, lambda scene: "red" not in (scene.colour, scene.background))
_RED = scenes(
    CASES,
    3,
    lambda s: s.colour == "red" and s.background != "blue" and s.shape not in ("circle", "star"),
)
_NO_CIRCLES = scenes(CASES, 4, lambda scene: scene.shape != "circle")
_CIRCLES = scenes(CASES, 5, lambda scene: scene.shape == "circle")
_STRIPED = [replace(scene, striped=True) for scene in scenes(CASES, 6, lambda scene: True)]
_PLAIN = scenes(CASES, 7, lambda scene: True)


def _striping(name: str, method: str, title: str, job: Callable[[Path], dict[str, object]]) -> Task:
    return Task(
        name,
        method,
        title,
        job,
        effect=cases(_OTHERS, is_striped),
        collateral=cases(_OTHERS, shows),
        removal=cases(_STRIPED, is_plain),
        grade=stripes,
    )


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            "ileco",
            "ileco",
            "iLECO: red becomes blue",
            _ileco("red", "blue", COLOUR_CONTEXTS, COLOUR_NEIGHBOURS),
            effect=cases(
                [replace(scene, colour="blue") for scene in _RED],
                shows,
                said=lambda scene: replace(scene, colour="red"),
            ),
            collateral=cases(_NOT_RED, shows),
            grade=blueness,
            one_prompt=one_prompt("red", "blue", COLOUR_CONTEXTS[0]),
        ),
        Task(
            "ileco_shape",
            "ileco",
            "iLECO: circles become squares",
            _ileco("circle", "square", SHAPE_CONTEXTS, SHAPE_NEIGHBOURS),
            effect=cases(
                [replace(scene, shape="square") for scene in _CIRCLES],
                shows,
                said=lambda scene: replace(scene, shape="circle"),
            ),
            collateral=cases(_NO_CIRCLES, shows),
            one_prompt=one_prompt("circle", "square", SHAPE_CONTEXTS[0]),
        ),
        Task(
            "ileco_erase",
            "ileco",
            "iLECO: stripes are erased",
            _ileco("striped", "", STRIPE_CONTEXTS, STRIPE_NEIGHBOURS),
            effect=cases(_STRIPED, is_plain),
            collateral=cases(_PLAIN, shows),
            one_prompt=one_prompt("striped ", "", STRIPE_CONTEXTS[0].replace("{} ", "{}")),
        ),
        _striping("difference", "difference", "Difference: stripes from one pair", _one_pair),
        _striping(
            "addift",
            "addift",
            "ADDifT: stripes from one pair",
            lambda folder: {**_one_pair(folder), **PAIR_LEARNING},
        ),
        _striping("multi_addift", "multi_addift", "Multi-ADDifT: from six pairs", _six_pairs),
    )
}
