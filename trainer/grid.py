"""Draws LoRA files at several strengths on the same prompts and seeds, as one picture."""

from __future__ import annotations

import dataclasses
import io
import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from .atomic import sweep_abandoned, write_bytes
from .control import Control, Request
from .errors import BadInput, Problem
from .evaluate.draw import draw_pictures
from .evaluate.sheet import Block, labelled_sheet
from .events import Notice, PhaseProgress, PhaseStarted, Saved, Sink
from .hosts.protocol import Host
from .lock import FileLock, sweep_locks
from .models.model import DiffusionModel
from .networks import kohya
from .networks.network import Network
from .networks.opening import open_network
from .networks.targets import every_target
from .paths import as_unicode, is_there
from .run import memory_answered, on_loan
from .settings.grid import GridSettings, numbers, pictures, seed_numbers
from .settings.names import GRID_FOLDER, GRID_SUFFIX
from .training.plan import check_lora, check_writable, free_name

log = logging.getLogger(__name__)


Cell = tuple[str, float, str, int]
"""File, strength, prompt, seed."""
NAMED_ALONE = ("checkpoint", "vae", "loras")
"""Files of which a picture, which may be shared, tells no folder."""


def grid_file(host: Host, name: str) -> Path:
    """Where a grid of that name lies."""
    return host.log_dir / GRID_FOLDER / f"{name}{GRID_SUFFIX}"


def draw_grid(settings: GridSettings, host: Host, *, control: Control, sink: Sink) -> Path | None:
    """Draws every cell on the borrowed model and saves the sheet.

    Returns:
        The picture; None when it was stopped without saving, or before the first cell.

    Raises:
        BadInput: a file is missing or not for this model, the name is taken, if only by another
            program that draws it now, or the picture cannot be written.
        OutOfMemory: the pictures are too large for this machine.
    """
    sink(PhaseStarted("Checking the files"))
    path = grid_file(host, settings.name)
    check_grid(settings, host)
    settings = _with_paths(settings, host)
    cure = "use another name, or let it finish or stop it there"
    with FileLock(path.with_name(f".{settings.name}.lock"), f"drawing {settings.name!r}", cure):
        sweep_locks(path.parent)
        sweep_abandoned(path.parent)
        return _drawn(settings, host, path, control=control, sink=sink)


def _drawn(
    settings: GridSettings, host: Host, path: Path, *, control: Control, sink: Sink
) -> Path | None:
    drawn: dict[Cell, Image.Image] = {}
    sink(PhaseStarted("Loading the checkpoint"))
    cure = "lower size_px, or set base_precision to bf16 or fp16"

    def draw(model: DiffusionModel) -> None:
        sink(PhaseStarted("Drawing", pictures(settings)))
        for cell, picture in _cells(settings, model, control):
            drawn[cell] = picture
            sink(PhaseProgress(len(drawn)))

    with memory_answered(lambda error: f"the memory was not enough to draw - {cure}"):
        on_loan(host.borrow(settings, control), draw)
    if control.request is Request.STOP or not drawn:
        return None
    if len(drawn) < pictures(settings):
        sink(Notice(f"Stopped after {len(drawn)} of {pictures(settings)} pictures"))
    _save(labelled_sheet(_blocks(settings, drawn), settings.size_px), path, settings)
    sink(Saved(path, len(drawn), final=True))
    return path


def check_grid(settings: GridSettings, host: Host) -> None:
    """Checks a grid that begins, against files and folders; loads nothing.

    Raises:
        BadInput: with every problem of checkpoint, LoRA files, name and folder at once.
    """
    path = grid_file(host, settings.name)
    checks: list[Callable[[], object]] = [
        lambda: host.check_model(settings),
        *(partial(check_lora, "loras", file, host) for file in settings.files),
        lambda: check_writable(path.parent, "log folder"),
    ]
    problems: list[Problem] = []
    for check in checks:
        try:
            check()
        except BadInput as error:
            problems += error.problems
    if is_there(path):
        cure = f"use another name, for example {free_name(settings.name, path.parent, GRID_SUFFIX)}"
        problems.append(Problem("name", f"{path} exists already", cure))
    if problems:
        raise BadInput(problems)


def _with_paths(settings: GridSettings, host: Host) -> GridSettings:
    """The same with the files' paths where names stood."""
    found = (str(kohya.find(file, host.output_dir)) for file in settings.files)
    return dataclasses.replace(settings, loras="\n".join(found))


def _cells(
    settings: GridSettings, model: DiffusionModel, control: Control
) -> Iterator[tuple[Cell, Image.Image]]:
    """Every cell, one picture after the other, until it is stopped.

    One at a time, so that it needs no more memory than drawing in the webui; the bare checkpoint
    is drawn once for all files.  A file that is not for this model is found before the first.
    """
    targets = every_target(model.unet, model.text_encoders, model.family.name)
    for file in settings.files:
        open_network(Path(file), targets)
    seeds = seed_numbers(settings.seeds)
    wanted = [(prompt, seed) for prompt in settings.lines for seed in seeds]
    bare: dict[tuple[str, int], Image.Image] = {}
    for file in settings.files:
        network = open_network(Path(file), targets)
        with network:
            for strength in numbers(settings.strengths):
                for prompt, seed in wanted:
                    if control.checkpoint() is not Request.CONTINUE:
                        return
                    picture = bare.get((prompt, seed)) if strength == 0 else None
                    picture = picture or _draw(settings, model, network, strength, prompt, seed)
                    if strength == 0:
                        bare[prompt, seed] = picture
                    yield (file, strength, prompt, seed), picture


def _draw(
    settings: GridSettings,
    model: DiffusionModel,
    network: Network,
    strength: float,
    prompt: str,
    seed: int,
) -> Image.Image:
    with network.at(strength):
        (picture,) = draw_pictures(
            model,
            [prompt],
            [seed],
            negative_prompt=settings.negative_prompt,
            size_px=settings.size_px,
            steps=settings.denoise_steps,
            guidance_scale=settings.guidance,
        )
    return picture


def _blocks(settings: GridSettings, drawn: dict[Cell, Image.Image]) -> list[Block]:
    """A block for each prompt and seed: files from top to bottom, strengths from left to right."""
    strengths, seeds = numbers(settings.strengths), seed_numbers(settings.seeds)
    return [
        Block(
            title=f"{prompt or '(no prompt)'}   seed {seed}",
            corner="strength",
            columns=[f"{strength:g}" for strength in strengths],
            rows=_labels(settings.files),
            pictures=[
                [drawn.get((file, strength, prompt, seed)) for strength in strengths]
                for file in settings.files
            ],
        )
        for prompt in settings.lines
        for seed in seeds
    ]


def _labels(files: Sequence[str]) -> list[str]:
    """The files' names; of those that share one, with their folders."""
    paths = [Path(file) for file in files]
    stems = [path.stem for path in paths]
    return [
        path.stem if stems.count(path.stem) == 1 else f"{path.parent.name}/{path.stem}"
        for path in paths
    ]


def _names(paths: str) -> str:
    """One path a line, without their folders."""
    return "\n".join(Path(path).name for path in paths.splitlines())


def _save(sheet: Image.Image, path: Path, settings: GridSettings) -> None:
    """Writes the sheet whole or not at all; it says in itself how it was drawn.

    Raises:
        BadInput: it cannot be written.
    """
    info = PngInfo()
    values = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    values |= {name: _names(str(values[name])) for name in NAMED_ALONE}
    lines = "\n".join(f"{name}: {value}" for name, value in values.items())
    info.add_itxt("trainyard_grid", as_unicode(lines))
    drawn = io.BytesIO()
    sheet.save(drawn, "PNG", pnginfo=info)
    try:
        write_bytes(path, drawn.getvalue())
    except OSError as error:
        what = f"cannot be written: {error.strerror or error}"
        cure = "check the folder, its permissions and the space on the disk; then draw it again"
        raise BadInput([Problem(str(path), what, cure)]) from error
