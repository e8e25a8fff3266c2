"""What a job will do, worked out and checked before anything is trained."""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ..data.batches import BatchOrder, filling
from ..data.folder import TrainingImage
from ..data.pairs import PairView
from ..data.views import View
from ..errors import BadInput, Problem
from ..hosts.protocol import Host
from ..models.families import Family
from ..networks import kohya
from ..optim.optimizers import check_optimizer, warnings_of
from ..optim.schedules import check_schedule
from ..optim.trial import try_out
from ..paths import is_there, next_name
from ..settings.groups import (
    BLOCKS,
    CopierSettings,
    ModelSettings,
    NetworkSettings,
    OptimizerSettings,
    OutputSettings,
    SizeSettings,
    TrainingSettings,
)
from ..settings.methods import METHODS
from ..settings.schema import SECOND_PASS, JobSettings
from .compiling import obstacle
from .estimate import peak_mb
from .sources import find_pictures, long_prompts
from .unfinished import owner_of, state_files, state_folder, stopped_at

SMALLER_MADE_PX = 768
"""Families made for sizes up to this have checkpoints for 512 px too."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class Plan:
    """A job that has passed every check that needs no computation."""

    model_title: str
    images: tuple[TrainingImage, ...]
    views: tuple[View, ...]
    frames: Mapping[tuple[int, int], int]
    """Samples in each frame (height, width), repeats included."""
    steps: int
    """Of the pass whose network is the result."""
    steps_per_epoch: float
    """Of that pass, as the function of this name."""
    output_file: Path
    save_points: Mapping[int, Path]
    """Step -> file, for the copies saved on the way."""
    warnings: tuple[str, ...]
    pairs: tuple[PairView, ...] = ()
    """For methods that learn from pairs; `images` and `views` then hold those before the change."""
    folder_name: str = ""
    """Of the pictures, without its parents."""
    blocks: tuple[str, ...] = BLOCKS
    """Which of the 26 blocks the model has."""
    estimated_mb: float | None = None
    """About how much memory the device needs at most; None: nobody has estimated it."""

    @property
    def epochs(self) -> int:
        """Epochs begun by the last step, at least 1."""
        return max(1, math.ceil(self.steps / self.steps_per_epoch))


def make_plan(
    settings: JobSettings, host: Host, *, decode_pictures: bool = False, owner: str = ""
) -> Plan:
    """Checks a job that begins, against files and folders.

    Args:
        decode_pictures: read every picture whole instead of its header; training itself does so
            before its first step.
        owner: the queue's job that begins, whose own states do not keep it from that; "": none.

    Raises:
        BadInput: with every problem of checkpoint, pictures, optimizer and output at once.
    """
    problems: list[Problem] = []
    warnings: list[str] = []

    def collect(check: Callable[[], Result]) -> Result | None:
        try:
            return check()
        except BadInput as error:
            problems.extend(error.problems)
            return None

    model = collect(lambda: host.check_model(settings[ModelSettings]))
    last = settings.passes()[-1]
    steps = last[TrainingSettings].steps
    for field, name in files_to_continue(settings):
        collect(lambda field=field, name=name: check_lora(field, name, host))  # type: ignore[misc]
    for rates in dict.fromkeys((settings[OptimizerSettings], last[OptimizerSettings])):
        collect(lambda rates=rates: check_optimizer(rates))  # type: ignore[misc]
        collect(lambda rates=rates: check_schedule(rates))  # type: ignore[misc]
        if not problems:
            collect(lambda rates=rates: try_out(rates, steps))  # type: ignore[misc]
        warnings += warnings_of(rates)
    problems += [*_obstacles(settings), *long_prompts(settings)]
    pictures = find_pictures(settings, decode_pictures, problems, warnings)
    samples = pictures.views
    per_epoch = steps_per_epoch(last[TrainingSettings], samples, paired=bool(pictures.pairs))
    output = settings[OutputSettings]
    output_file = host.output_dir / f"{output.name}.safetensors"
    collect(lambda: _check_name(output, output_file, host, owner))
    save_points = _save_points(output, output_file, steps, per_epoch, problems)
    if problems or model is None or model.family is None:
        raise BadInput(problems)
    frames = Counter(view.frame_px for view in samples)
    return Plan(
        model_title=model.title,
        images=pictures.images,
        views=samples,
        frames=frames,
        steps=steps,
        steps_per_epoch=per_epoch,
        output_file=output_file,
        save_points=save_points,
        warnings=(*_unfit(settings, model.family), *warnings),
        pairs=pictures.pairs,
        folder_name=pictures.images[0].path.parent.name if pictures.images else "",
        blocks=model.family.blocks,
        estimated_mb=max(peak_mb(one, model, tuple(frames)) for one in settings.passes()),
    )


def _obstacles(settings: JobSettings) -> Iterator[Problem]:
    """What is asked of torch that it cannot do here."""
    compiles = any(one[TrainingSettings].torch_compile for one in settings.passes())
    if compiles and (problem := obstacle()) is not None:
        yield problem


def _unfit(settings: JobSettings, family: Family) -> Iterator[str]:
    """What is set, and means nothing or little good for the model's family."""
    if settings[ModelSettings].clip_skip > 1 and not family.takes_clip_skip:
        yield f"clip_skip is passed over: {family.title} only follows the webui's own settings"
    if settings[ModelSettings].vae_precision == "fp16" and family.vae_needs_range:
        yield f"vae_precision: most VAEs of {family.title} give NaN in fp16 - use bf16 or fp32"
    absent = [name for name in settings[NetworkSettings].blocks if name not in family.blocks]
    if absent and settings[NetworkSettings].blocks != BLOCKS:
        yield f"{family.title} has no blocks {', '.join(absent)}; the others are trained"
    height, width = settings[SizeSettings].image_size_px
    usual = family.resolution_px if family.resolution_px > SMALLER_MADE_PX else 0
    if height * width < usual**2 / 2:
        yield (
            f"{family.title} was made for {usual} px a side; at {height}x{width} px it draws badly,"
            " and learns as badly"
        )


def files_to_continue(settings: JobSettings) -> Iterator[tuple[str, str]]:
    """The LoRA files that the job reads, each once: the field, and what stands there."""
    first = settings[NetworkSettings].resume_from
    second = settings.passes()[-1][NetworkSettings].resume_from
    if first:
        yield "resume_from", first
    if second and second != first:
        yield f"{SECOND_PASS}.resume_from", second
    if METHODS[settings.method].uses(CopierSettings) and settings[CopierSettings].copier_file:
        yield "copier_file", settings[CopierSettings].copier_file


def check_lora(field: str, name: str, host: Host) -> None:
    """Reads a LoRA file that a field names.

    Raises:
        BadInput: it cannot be used; the field is named, and in what is wrong the file.
    """
    try:
        kohya.load(kohya.find(name, host.output_dir))
    except BadInput as error:
        raise BadInput(
            [Problem(field, f"{p.where} {p.what}", p.cure) for p in error.problems]
        ) from error


def steps_per_epoch(
    training: TrainingSettings, samples: tuple[View, ...], *, paired: bool
) -> float:
    """Optimizer updates of a pass in an epoch; infinite for a method without pictures."""
    if not samples:
        return math.inf
    frames_px = [view.frame_px for view in samples]
    if paired:
        frames_px = filling(frames_px, training.batch_size)
    order = BatchOrder(frames_px, training.batch_size, seed=0)
    return order.batches_per_epoch / training.gradient_accumulation_steps


def _check_name(output: OutputSettings, file: Path, host: Host, owner: str) -> None:
    """Checks that what is there under this name is not lost.

    Raises:
        BadInput: a training of it can go on, the file exists already, or a folder cannot be
            written to.
    """
    _check_unfinished(output, host, owner)
    if is_there(file) and not output.overwrite:
        free = free_name(output.name, host.output_dir, log_dir=host.log_dir)
        raise BadInput(
            [
                Problem(
                    "name",
                    f"{file} exists already",
                    f"use another name, for example {free}, or set overwrite",
                    free,
                )
            ]
        )
    check_writable(file.parent)
    check_writable(host.log_dir, "log folder")


def check_writable(folder: Path, what_for: str = "output folder") -> None:
    """Makes the folder where it is absent.

    Raises:
        BadInput: it cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        what = f"{folder} cannot be written to: {error.strerror or error}"
        cure = "choose another folder, or change its permissions"
        raise BadInput([Problem(what_for, what, cure)]) from error


def _check_unfinished(output: OutputSettings, host: Host, owner: str) -> None:
    """Raises: BadInput: another training of this name can go on, and would be lost."""
    folder = state_folder(host.log_dir, output.name)
    step = stopped_at(folder)
    if step is None or output.overwrite or (owner and owner_of(folder) == owner):
        return
    free = free_name(output.name, host.output_dir, log_dir=host.log_dir)
    raise BadInput(
        [
            Problem(
                "name",
                f"a training of this name is unfinished; it was saved at step {step}",
                "let it go on (Go on in the queue, --resume on the command line), use another"
                f" name, for example {free}, or set overwrite to begin anew"
                " without what it has learnt",
                free,
            )
        ]
    )


def free_name(
    name: str, folder: Path, suffix: str = ".safetensors", log_dir: Path | None = None
) -> str:
    """`name` with the next number at its end for which the folder holds no file.

    Args:
        log_dir: where a state takes a name, too.
    """

    def is_taken(other: str) -> bool:
        unfinished = log_dir is not None and state_files(state_folder(log_dir, other))
        return is_there(folder / f"{other}{suffix}") or bool(unfinished)

    return next_name(name, is_taken)


def _save_points(
    output: OutputSettings,
    file: Path,
    steps: int,
    per_epoch: float,
    problems: list[Problem],
) -> dict[int, Path]:
    """The copies on the way, named as sd-scripts names them; the last step is the final file."""
    points: dict[int, Path] = {}
    if output.save_every_epochs and math.isfinite(per_epoch):
        epochs = steps / per_epoch
        if output.save_every_epochs >= epochs:
            problems.append(
                Problem(
                    "save_every_epochs",
                    f"{output.save_every_epochs} never fires: {steps} steps are"
                    f" {epochs:.1f} epochs",
                    f"use at most {max(1, math.ceil(epochs) - 1)}, or 0 to save only at the end",
                )
            )
        for epoch in range(output.save_every_epochs, math.ceil(epochs), output.save_every_epochs):
            step = math.ceil(epoch * per_epoch)
            points[step] = file.with_name(f"{output.name}-{epoch:06d}.safetensors")
    if output.save_every_steps:
        for step in range(output.save_every_steps, steps, output.save_every_steps):
            points[step] = file.with_name(f"{output.name}-step{step:08d}.safetensors")
    return {step: path for step, path in sorted(points.items()) if step < steps}
