"""The measuring itself: every work on every model and size."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import NamedTuple

import torch
from diffusers import UNet2DConditionModel

from ..control import Control
from ..data.buckets import LATENT_CELL_PX
from ..events import Sink, ignore
from ..methods import TRAIN
from ..models.model import DiffusionModel
from ..networks.network import Network
from ..settings.groups import (
    ConceptPoolSettings,
    ModelSettings,
    SizeSettings,
    TrainingSettings,
)
from ..settings.schema import JobSettings
from ..training.plan import make_plan
from .clock import Moment
from .course import BenchSession, Course
from .models import FULL, MODELS, WORLD, BenchHost
from .report import Row
from .rivals import Step, plain_unet, rivals
from .works import WHOLE_POOL, WORKS, Work, job

SIZES_PX: Mapping[str, tuple[int, ...]] = {WORLD: (64,), FULL: (64, 128)}
RUN_STEPS = 500
"""Length of a run over which a label pool has to pay."""


@dataclass(frozen=True)
class Setup:
    """How everything is measured."""

    device: torch.device
    precisions: tuple[str, ...] = ("fp32",)
    batch: int = 1
    rounds: int = 5
    sink: Sink = ignore
    """Hears what the jobs tell their user."""


class Place(NamedTuple):
    """On what a work is measured."""

    checkpoint: str
    precision: str
    size_px: int


def measure_all(
    works: Iterable[str], places: Iterable[tuple[str, Sequence[int]]], setup: Setup
) -> Iterator[Row]:
    """Measures every work on every model at every size in every precision."""
    names = list(works)
    for (name, sizes), precision in product(places, setup.precisions):
        model = MODELS[name](setup.device, precision)
        plain = plain_unet(model.unet)
        for work, size_px in _due([WORKS[name] for name in names], sizes):
            yield measure(work, model, plain, Place(name, precision, size_px), setup)


def _due(works: Sequence[Work], sizes: Iterable[int]) -> list[tuple[Work, int]]:
    """What is measured, each once; what a work is compared with comes before it."""
    due: dict[tuple[str, int], Work] = {}
    for size_px in sizes:
        for work in works:
            at_px = max(size_px, work.least_px)
            for name in filter(None, (work.against, work.name)):
                due.setdefault((name, at_px), WORKS[name])
    return [(work, size_px) for (_, size_px), work in due.items()]


def measure(
    work: Work,
    model: DiffusionModel,
    plain: UNet2DConditionModel,
    place: Place,
    setup: Setup,
) -> Row:
    """Trains a few steps of a job, the rivals' steps in between.

    Args:
        plain: the model's UNet for the rivals, see `plain_unet`.

    Raises:
        BadInput: the job cannot be done on that model.
    """
    cells = place.size_px // LATENT_CELL_PX
    latents_shape = (setup.batch, 4, cells, cells)
    latents = torch.randn(latents_shape, generator=torch.Generator().manual_seed(0))
    labelled = work.method in ("ileco", "addift")

    def make_rivals(network: Network) -> dict[str, Step]:
        values = settings.values
        on_device = latents.to(setup.device)
        loop = work.method == "lora"
        return rivals(model, plain, network, on_device, values, forward=labelled, plain=loop)

    course = Course(setup.device, setup.rounds, make_rivals, work.passes)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        settings = job(
            work,
            folder / "pictures",
            checkpoint=place.checkpoint,
            size_px=place.size_px,
            batch=setup.batch,
            steps=Course.steps(setup.rounds),
            precision=place.precision,
        )
        host, control = BenchHost(model, folder / "out"), Control()
        began = Moment.now(setup.device)
        plan = make_plan(settings, host)
        session = BenchSession(settings, plan, model, host, control=control, sink=setup.sink)
        session.watch_with(course)
        TRAIN[work.method](session)
    return _row(work, course, settings, began, setup)


def _row(work: Work, course: Course, settings: JobSettings, began: Moment, setup: Setup) -> Row:
    spent = course.medians()
    ours, floor, plain = spent["ours"], spent["floor"], spent.get("plain")
    parts = course.split()
    return Row(
        work=work.name,
        checkpoint=settings[ModelSettings].checkpoint,
        size_px=settings[SizeSettings].image_size_px[0],
        precision=settings[ModelSettings].base_precision,
        batch=setup.batch,
        seconds=ours.wall_s,
        floor_seconds=floor.wall_s,
        ratio=ours.wall_s / floor.wall_s,
        peak_mb=course.peak_mb["ours"],
        floor_peak_mb=course.peak_mb["floor"],
        busy_ratio=ours.busy_s / floor.busy_s,
        plain_seconds=plain.wall_s if plain else None,
        run_ratio=_run_ratio(work, course, settings),
        start_steps=course.start_s(began) / ours.busy_s,
        forward_s=parts["forward"],
        backward_s=parts["backward"],
        optimizer_s=parts["optimizer"],
        data_s=parts["data"],
    )


def _run_ratio(work: Work, course: Course, settings: JobSettings) -> float | None:
    """A run with its labels, to one with a frozen prediction at every step."""
    seconds, answers = course.labels
    spent = course.medians()
    if "forward" not in spent:
        return None
    if work.method == "ileco":  # a pool, however long the run is
        labels_s = seconds / settings[ConceptPoolSettings].pool_size * WHOLE_POOL
    else:
        labels_s = seconds / answers * RUN_STEPS * settings[TrainingSettings].batch_size
    floor_s = RUN_STEPS * (spent["floor"].busy_s + spent["forward"].busy_s)
    return (RUN_STEPS * spent["ours"].busy_s + labels_s) / floor_s
