"""What the demonstration trains: for each method a job and how its success is judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ..evaluate.measures import Case
from ..settings.schema import JobSettings, parse
from . import judge
from .checkpoint import CHECKPOINT
from .task import Task
from .tasks import TASKS
from .world import COLOURS, SHAPES, Scene, draw, random_scene, sentence


@dataclass(frozen=True)
class Example:
    """One demonstration."""

    name: str
    """Also the file's name."""
    title: str
    prepare: Callable[[Path], JobSettings]
    """Writes what the job needs under a folder and returns the job."""
    held_out: tuple[Case, ...]
    """Prompts that should show what was learnt; none of them was trained on."""
    unrelated: tuple[Case, ...]
    """Prompts that should stay what they were."""

    @property
    def shown(self) -> tuple[Case, ...]:
        """The columns of the contact sheet."""
        return self.held_out[:6] + self.unrelated[-4:]


def case(scene: Scene, seed: int, noun: str | None = None) -> Case:
    """A prompt for the scene; right is a picture in which the judge reads it."""

    def right(picture: Image.Image) -> bool:
        return judge.read(picture).shows(scene)

    return Case(sentence(scene, noun), seed, right)


TRIGGER = "zibble"
TAUGHT = "crescent"
PICTURES_PX = 64
TAUGHT_COLOURS = (
    ("red", "white"),
    ("blue", "yellow"),
    ("green", "black"),
    ("purple", "orange"),
    ("yellow", "blue"),
    ("white", "red"),
    ("black", "green"),
    ("orange", "purple"),
)
"""Colour and background of the eight pictures."""


HELD_PROMPTS = 48


def prepare_lora(out: Path) -> JobSettings:
    """Eight captioned pictures of a shape that the checkpoint does not know.

    Prompts for its other shapes are held, so that the word keeps to its own.
    """
    folder = out / "pictures"
    rng = np.random.default_rng(8)
    for number, (colour, background) in enumerate(TAUGHT_COLOURS, 1):
        _captioned(folder, number, Scene(TAUGHT, colour, background), rng, TRIGGER)
    return parse(
        {
            "method": "lora",
            "checkpoint": str(CHECKPOINT),
            "images": str(folder),
            "name": "lora",
            "overwrite": True,
            "steps": 600,
            "batch_size": 4,
            "learning_rate": 1e-3,
            "rank": 8,
            "alpha": 8,
            "image_size_px": [PICTURES_PX, PICTURES_PX],
            "bucket_step_px": 0,
            "min_length_px": PICTURES_PX,
            "preserve_prompts": "\n".join(_held_prompts()),
            "preserve_share": 0.7,
            "pool_size": 1024,
            "pool_guidance": 5.0,
            "pool_denoise_steps": 20,
            "seed": 1,
        }
    )


def _held_prompts() -> list[str]:
    """Every shape in turn, in colours that differ from those of the unrelated prompts."""
    asked = {case.prompt for case in UNRELATED_TO_CRESCENTS}
    rng = np.random.default_rng(77)
    prompts: list[str] = []
    while len(prompts) < HELD_PROMPTS:
        colour, background = rng.choice(list(COLOURS), size=2, replace=False)
        prompt = sentence(Scene(SHAPES[len(prompts) % len(SHAPES)], str(colour), str(background)))
        if prompt not in asked and prompt not in prompts:
            prompts.append(prompt)
    return prompts


def _captioned(
    folder: Path, number: int, scene: Scene, rng: np.random.Generator, noun: str | None = None
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    draw(scene, PICTURES_PX, PICTURES_PX, rng).save(folder / f"{number}.png")
    (folder / f"{number}.txt").write_text(sentence(scene, noun), "utf-8")


def _held_out_crescents() -> tuple[Case, ...]:
    scenes = [
        Scene(TAUGHT, colour, background)
        for colour in COLOURS
        for background in COLOURS
        if colour != background and (colour, background) not in TAUGHT_COLOURS
    ]
    order = np.random.default_rng(2).permutation(len(scenes))
    return tuple(case(scenes[i], 1000 + number, TRIGGER) for number, i in enumerate(order))


def _unrelated(count: int, seed: int) -> tuple[Case, ...]:
    rng = np.random.default_rng(seed)
    return tuple(case(random_scene(rng), 2000 + number) for number in range(count))


UNRELATED_TO_CRESCENTS = _unrelated(100, seed=3)
HELD_OUT, UNRELATED = 32, 32
"""So many cases tell enough; `bench --quality` judges twice as many, on several seeds."""


def _example(task: Task) -> Example:
    """A task of the measurements as a demonstration."""

    def prepare(out: Path) -> JobSettings:
        job: dict[str, object] = {
            "method": task.method,
            "checkpoint": str(CHECKPOINT),
            "name": task.name,
            "overwrite": True,
            "seed": 1,
        }
        return parse({**task.job(out / "pairs"), **job})

    effect, collateral = task.effect[:HELD_OUT], task.collateral[:UNRELATED]
    return Example(task.name, task.title, prepare, effect, collateral)


EXAMPLES: dict[str, Example] = {
    "lora": Example(
        name="lora",
        title=f"LoRA: eight pictures teach the word {TRIGGER}, a shape the checkpoint never saw",
        prepare=prepare_lora,
        held_out=_held_out_crescents(),
        unrelated=UNRELATED_TO_CRESCENTS,
    ),
    **{name: _example(task) for name, task in TASKS.items()},
}
