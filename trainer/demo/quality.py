"""How well the methods work on the embedded world: `python -m trainer bench --quality`."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ..control import Control
from ..evaluate.draw import draw_pictures
from ..evaluate.measures import (
    Dose,
    Draw,
    Point,
    collateral,
    doses,
    effect,
    pixels,
    slider,
    time_to_effect,
)
from ..events import Event, Saved
from ..hosts.standalone import StandaloneHost
from ..methods import TRAIN, Method
from ..settings.groups import ModelSettings, TrainingSettings
from ..settings.schema import JobSettings, parse
from ..training.plan import make_plan
from ..training.session import Session
from .task import CASES, PICTURES_PX, Task

BASELINES = Path(__file__).resolve().parents[2] / "tests" / "baselines"
CASES_ON_THE_WAY = 8
DRAWN_AT_ONCE = 32
POINTS = 5
Pictures = Sequence[Image.Image]
Kept = dict[tuple[str, int], Image.Image]
"""Pictures by prompt and seed."""


@dataclass(frozen=True)
class Peer:
    """Another way to train a method, with its own settings."""

    name: str
    train: Method
    settings: Mapping[str, object]


@dataclass(frozen=True)
class Result:
    """What one training of a task reached."""

    task: str
    who: str
    seed: int
    steps: int
    seconds: float
    passes: int
    effect: float
    effect_before: float
    effect_at_best: float | None
    """What the bare checkpoint makes of prompts that ask for the effect outright."""
    collateral: float
    change: float
    """Mean absolute change of a latent on the collateral cases; latents have unit variance."""
    removal: float | None
    """Share of the removal cases that are right at strength -1."""
    slider: tuple[float, ...] | None
    """Means of the task's property at strengths -1, -0.5, 0, 0.5, 1."""
    course: tuple[Point, ...]
    doses: tuple[Dose, ...] = ()
    """What other strengths do, where they were asked for."""

    @property
    def monotone(self) -> bool:
        """Whether the property never falls as the strength rises."""
        return self.slider is not None and list(self.slider) == sorted(self.slider)

    @property
    def reached(self) -> Point | None:
        """When it was done; None if it was not."""
        return time_to_effect(self.course)


class PassCounter:
    """Counts pictures that go through the UNet; one with a graph costs as much as three."""

    def __init__(self, unet: torch.nn.Module) -> None:
        self.passes = 0
        self._handle = unet.register_forward_pre_hook(self._count)

    def _count(self, module: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        del module
        self.passes += len(inputs[0]) * (3 if torch.is_grad_enabled() else 1)

    def remove(self) -> None:
        self._handle.remove()


class Easel:
    """Draws with a trained file attached; what the bare model draws is kept for the next file."""

    def __init__(self, session: Session, kept: Kept) -> None:
        self.session = session.second_pass()
        self.kept = kept

    def with_file(self, file: Path) -> Draw:
        """The `Draw` function of the measures; it draws nothing twice."""
        network = self.session.new_network(str(file))
        drawn: dict[float, Kept] = {0.0: self.kept}

        def draw(prompts: Sequence[str], seeds: Sequence[int], strength: float) -> Pictures:
            there = drawn.setdefault(strength, {})
            wanted = list(zip(prompts, seeds, strict=True))
            new = [one for one in dict.fromkeys(wanted) if one not in there]
            with network, network.at(strength):
                pictures = draw_pictures(
                    self.session.model,
                    [prompt for prompt, _ in new],
                    [seed for _, seed in new],
                    size_px=(PICTURES_PX, PICTURES_PX),
                )
            there.update(zip(new, pictures, strict=True))
            return [there[one] for one in wanted]

        return draw

    @torch.no_grad()
    def latents(self, pictures: Pictures) -> NDArray[np.floating[Any]]:
        """Pictures of one size as latents, float32 [n, c, h/8, w/8]."""
        shown = torch.from_numpy(pixels(pictures)).permute(0, 3, 1, 2) * 2 - 1
        parts = [self.session.model.encode_pixels(part) for part in shown.split(DRAWN_AT_ONCE)]
        return torch.cat(parts).float().cpu().numpy()


def measure(
    task: Task,
    checkpoint: Path,
    out: Path,
    seed: int,
    kept: Kept,
    *,
    who: str = "Trainyard",
    method: Method | None = None,
    changes: Mapping[str, object] | None = None,
    points: int = POINTS,
    cases: int = CASES,
    strengths: Sequence[float] = (),
) -> Result:
    """Trains a task once and measures what it reached, at the end and on the way.

    Args:
        kept: pictures of the bare model, shared by all trainings on one checkpoint.
        method: another training than the task's own.
        changes: settings other than the task's.
        points: how often it is measured on the way.
        cases: how many of the task's cases are drawn at the end, and at most on the way.
        strengths: at which it is judged too, beside 1.
    """
    task = task.with_cases(cases)
    settings = _settings(task, checkpoint, out, seed, changes or {}, points)
    host = StandaloneHost(checkpoint.parent, out)
    plan = make_plan(settings, host)
    files: list[tuple[Saved, float, int]] = []
    with host.borrow(settings[ModelSettings]) as model:
        counter = PassCounter(model.unet)
        started = time.perf_counter()

        def sink(event: Event) -> None:
            if isinstance(event, Saved):
                files.append((event, time.perf_counter() - started, counter.passes))

        session = Session(settings, plan, model, host, control=Control(), sink=sink)
        (method or TRAIN[task.method])(session)
        counter.remove()
        easel = Easel(session, kept)
        course = []
        for saved, seconds, passes in files:
            draw = easel.with_file(saved.path)
            course.append(_point(task, draw, saved.step, seconds, passes))
        return _result(task, easel, draw, who, seed, course, strengths)


def _settings(
    task: Task,
    checkpoint: Path,
    out: Path,
    seed: int,
    changes: Mapping[str, object],
    points: int,
) -> JobSettings:
    job: dict[str, object] = {
        **task.job(out / task.name),
        "method": task.method,
        "checkpoint": str(checkpoint),
        "name": f"{task.name}-{seed}",
        "overwrite": True,
        "log_csv": False,
        "seed": seed,
        **changes,
    }
    settings = parse(job)
    steps = min(one[TrainingSettings].steps for one in settings.passes())
    return settings.replace(save_every_steps=max(1, steps // points))


def _point(task: Task, draw: Draw, step: int, seconds: float, passes: int) -> Point:
    return Point(
        step,
        seconds,
        passes,
        effect(draw, task.effect[:CASES_ON_THE_WAY]).share,
        collateral(draw, task.collateral[:CASES_ON_THE_WAY]).share,
    )


def _result(
    task: Task,
    easel: Easel,
    draw: Draw,
    who: str,
    seed: int,
    course: list[Point],
    strengths: Sequence[float],
) -> Result:
    reached, lost = effect(draw, task.effect), collateral(draw, task.collateral, see=easel.latents)
    removed = effect(draw, task.removal, strength=-1.0) if task.removal else None
    graded = None
    if task.grade is not None:
        # Half of them show already what is learnt, where the task has such: it must go below 0.
        some = task.effect[:CASES_ON_THE_WAY:2] + task.removal[:CASES_ON_THE_WAY:2]
        prompts, seeds = [case.prompt for case in some], [case.seed for case in some]
        graded = slider(draw, prompts, seeds, task.grade)
    last = replace(course[-1], effect=reached.share, collateral=lost.share)
    return Result(
        task=task.name,
        who=who,
        seed=seed,
        steps=last.step,
        seconds=last.seconds,
        passes=last.passes,
        effect=reached.share,
        effect_before=reached.before,
        effect_at_best=effect(draw, task.ideal, strength=0.0).share if task.ideal else None,
        collateral=lost.share,
        change=lost.change,
        removal=removed.share if removed else None,
        slider=graded.means if graded else None,
        course=(*course[:-1], last),
        doses=doses(
            *(draw, strengths),
            wanted=task.effect,
            unwanted=task.collateral,
            removed=task.removal,
        ),
    )


def baselines(folder: Path = BASELINES) -> dict[str, Peer]:
    """The peers' ways of training, by method; none where the tests were not installed along."""
    if not folder.is_dir():
        return {}
    ileco, pairs = (_loaded(folder / f"{name}.py") for name in ("plain_ileco", "plain_pairs"))
    return {
        "ileco": Peer("plain", ileco.train, ileco.PRESET),
        "difference": Peer("plain", TRAIN["difference"], pairs.DIFFERENCE),
        "addift": Peer("plain", TRAIN["addift"], pairs.ADDIFT),
        "multi_addift": Peer("plain", TRAIN["multi_addift"], pairs.MULTI_ADDIFT),
    }


def _loaded(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
