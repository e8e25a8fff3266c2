"""Saving a network: where to, with what metadata, and what becomes of it when that fails."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..errors import BadInput, Problem
from ..events import Notice, Saved
from ..models.model import DTYPES
from ..networks import kohya
from ..networks.metadata import build_metadata
from ..networks.network import Network
from ..paths import is_there
from ..settings.groups import OutputSettings
from .loop import Loop
from .run_facts import run_facts
from .training_data import TrainingData

if TYPE_CHECKING:
    from .session import Session

RESCUED = "rescued"
"""Folder among the logs for results whose own folder cannot be written to."""


@dataclass(frozen=True)
class Saving:
    """Where a network goes."""

    file: Path
    points: Mapping[int, Path] = field(default_factory=dict)
    """Step -> file, for copies on the way."""
    at_end: bool = True
    """False: only when the user stops and saves."""
    strength: float = 1.0
    """Is worked into what is saved."""


def save(
    session: Session,
    network: Network,
    path: Path,
    loop: Loop,
    data: TrainingData | None,
    strength: float,
    *,
    final: bool,
) -> Path:
    """Saves the network as it is now at a strength, with the facts of the run; returns the file.

    No file of another run is replaced unless files may be overwritten: this one then takes the
    next free name.

    Raises:
        BadInput: the result cannot be written to its place; it then says where it lies instead. A
            copy on the way that fails is only told of.
    """
    output = session.settings[OutputSettings]
    with loop.averaged():
        tensors = network.tensors(DTYPES[output.save_precision], strength)
    metadata = build_metadata(
        session.settings, run_facts(session, network, loop, data), session.job
    )
    if not output.overwrite:
        path = _own_place(session, path)
    try:
        kohya.save(path, tensors, metadata)
    except BadInput as error:
        if final:
            raise _rescued(session, path, tensors, metadata, error) from error
        session.sink(Notice(f"This copy is missing: {error}"))
    else:
        session.sink(Saved(path, loop.step, final))
    return path


def _own_place(session: Session, path: Path) -> Path:
    """`path`, or with the first number behind it under which no file of another run lies."""
    number, place = 1, path
    while is_there(place) and not _of_this_run(session, place):
        number += 1
        place = path.with_name(f"{path.stem}-{number}{path.suffix}")
    if place != path:
        what = f"{path.name} is of another training and stays; this one becomes {place.name}"
        session.sink(Notice(what))
    return place


def _of_this_run(session: Session, file: Path) -> bool:
    """Whether this run has saved that file: it may have been stopped there, and gone on."""
    try:
        _, metadata = kohya.load(file)
    except BadInput:
        return False
    return metadata.get("ss_session_id") == str(session.beginning.session_id)


def _rescued(
    session: Session,
    path: Path,
    tensors: Mapping[str, torch.Tensor],
    metadata: Mapping[str, str],
    error: BadInput,
) -> BadInput:
    """Saves a result that cannot go to its place elsewhere; the error that tells of it."""
    for folder in _other_folders(session):
        elsewhere = _own_place(session, folder / path.name)
        with suppress(BadInput):
            kohya.save(elsewhere, tensors, metadata)
            cure = f"it was saved as {elsewhere}: move it to its place"
            return BadInput([Problem(p.where, p.what, cure) for p in error.problems])
    return error


def _other_folders(session: Session) -> Iterator[Path]:
    """Where a result may lie until its own folder can be written to, the best first."""
    yield session.host.log_dir / RESCUED
    with suppress(OSError):  # often another disk
        yield Path(tempfile.mkdtemp(prefix="trainyard-"))
