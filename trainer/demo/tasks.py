"""What the methods are measured on: jobs on the embedded world."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from ..settings.presets import SHIPPED, read_preset
from .pair_tasks import PAIR_TASKS
from .task import CASES, NARROW, PICTURES_PX, Task, blueness, cases, is_plain, scenes, shows


def one_prompt(original: str, target: str, context: str) -> dict[str, object]:
    """The change in one whole caption, at the embedded checkpoint's learning rate."""
    before, after = (context.replace("{}", word) for word in (original, target))
    rate = {"learning_rate": NARROW["learning_rate"]}
    return {"original_prompt": before, "target_prompt": after, **rate}


def _ileco(
    preset: str, original: str, target: str, contexts: Sequence[str], preserve: Sequence[str]
) -> Callable[[Path], dict[str, object]]:
    """A shipped preset with the prompts, and the learning rate of a narrow checkpoint.

    The checkpoint knows whole captions alone, so the words are trained in such phrases.
    """
    values: dict[str, object] = {
        **read_preset(SHIPPED / f"{preset}.json"),
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


_NOT_RED = scenes(CASES, 2, lambda scene: "red" not in (scene.colour, scene.background))
_RED = scenes(
    CASES,
    3,
    lambda s: s.colour == "red" and s.background != "blue" and s.shape not in ("circle", "star"),
)
_TO_BLUE = [replace(scene, colour="blue") for scene in _RED]
_NO_CIRCLES = scenes(CASES, 4, lambda scene: scene.shape != "circle")
_CIRCLES = scenes(CASES, 5, lambda scene: scene.shape == "circle")
_TO_SQUARES = [replace(scene, shape="square") for scene in _CIRCLES]
_STRIPED = [replace(scene, striped=True) for scene in scenes(CASES, 6, lambda scene: True)]
_PLAIN = scenes(CASES, 7, lambda scene: True)


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            "ileco",
            "ileco",
            "iLECO: red becomes blue",
            _ileco("iLECO", "red", "blue", COLOUR_CONTEXTS, COLOUR_NEIGHBOURS),
            effect=cases(_TO_BLUE, shows, said=lambda scene: replace(scene, colour="red")),
            ideal=cases(_TO_BLUE, shows),
            collateral=cases(_NOT_RED, shows),
            grade=blueness,
            one_prompt=one_prompt("red", "blue", COLOUR_CONTEXTS[0]),
        ),
        Task(
            "ileco_shape",
            "ileco",
            "iLECO: circles become squares",
            _ileco("iLECO", "circle", "square", SHAPE_CONTEXTS, SHAPE_NEIGHBOURS),
            effect=cases(_TO_SQUARES, shows, said=lambda scene: replace(scene, shape="circle")),
            ideal=cases(_TO_SQUARES, shows),
            collateral=cases(_NO_CIRCLES, shows),
            one_prompt=one_prompt("circle", "square", SHAPE_CONTEXTS[0]),
        ),
        Task(
            "ileco_erase",
            "ileco",
            "iLECO: stripes are erased",
            _ileco("iLECO erase", "striped", "", STRIPE_CONTEXTS, STRIPE_NEIGHBOURS),
            effect=cases(_STRIPED, is_plain),
            ideal=cases(_STRIPED, is_plain, said=lambda scene: replace(scene, striped=False)),
            collateral=cases(_PLAIN, shows),
            one_prompt=one_prompt("striped ", "", STRIPE_CONTEXTS[0].replace("{} ", "{}")),
        ),
        *PAIR_TASKS,
    )
}
