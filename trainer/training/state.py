"""Where a training stands, on disk, so that it can go on after whatever ended it.

A state is one `.safetensors` file: the tensors of network, optimizer and random numbers, and one
JSON text with everything else.  No pickle, and a crash leaves the former file or the new one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open  # type: ignore[attr-defined]
from torch import Tensor, nn

from ..atomic import write_bytes
from ..errors import BadInput, Problem, TrainyardError
from ..settings.schema import SECOND_PASS, second_pass_of
from .beginning import Beginning
from .loop import Loop
from .unfinished import BEGINNING_FILE, clear, place, state_file, state_files

log = logging.getLogger(__name__)

VERSION = 1
HEADER = "trainyard_state"
NETWORK, OPTIMIZER, RANDOM = "network.", "optimizer.", "random"


class Positioned(Protocol):
    """Something endless whose place can be noted and found again, such as a `BatchOrder`."""

    def state(self) -> dict[str, int]: ...
    def restore(self, state: Mapping[str, int]) -> None: ...
    def skip(self) -> None:
        """Goes on by one batch, which another process takes."""


class StateError(TrainyardError):
    """A state cannot be written or read."""


@dataclass(frozen=True)
class Part:
    """One pass of a method: most have one, Difference has two."""

    network: nn.Module
    loop: Loop
    generator: torch.Generator
    order: Positioned | None


@dataclass(frozen=True)
class State:
    """What a file holds.

    Attributes:
        part: the pass that it was saved in, counted from 0.
        tensors: by name; `network.<part>.` holds the weights of that pass's network.
        values: everything that is no tensor.
        settings: of the job that was saved; it must be continued with these.
    """

    part: int
    tensors: dict[str, Tensor]
    values: dict[str, Any]
    settings: dict[str, object]
    beginning: Beginning


class StateFolder:
    """The states of one job; the newest few are kept."""

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder = folder
        self._keep = keep

    def write(self, state: State) -> Path:
        """Writes a state, then removes the oldest, and those ahead of it that were passed over.

        Raises:
            StateError: the disk is full or the folder cannot be written to.
        """
        path = state_file(self.folder, state.part, state.values["step"])
        header = {
            "version": VERSION,
            "part": state.part,
            "values": state.values,
            "settings": state.settings,
            "beginning": dataclasses.asdict(state.beginning),
        }
        try:
            write_bytes(path, safetensors.torch.save(state.tensors, {HEADER: json.dumps(header)}))
        except OSError as error:
            raise StateError(f"{path} cannot be written: {error.strerror or error}") from error
        found = state_files(self.folder)
        kept = [one for one in found if place(one) <= place(path)][-self._keep :]
        for other in found:
            if other not in kept:
                with contextlib.suppress(OSError):
                    other.unlink()
        return path

    def newest(self) -> State | None:
        """The newest state that can be read; None when there is none."""
        for path in reversed(state_files(self.folder)):
            try:
                return _read(path)
            except StateError as error:
                log.warning("%s", error)
        return None

    def any(self) -> bool:
        """Whether a state lies here, readable or not."""
        return bool(state_files(self.folder))

    def begin(self, beginning: Beginning) -> None:
        """Notes what a run has drawn, for the time before its first state; if it can be written."""
        text = json.dumps(dataclasses.asdict(beginning))
        with contextlib.suppress(OSError):
            write_bytes(self._beginning, text.encode("ascii"))

    def beginning(self) -> Beginning | None:
        """What a run noted here that came to no state; None where there is nothing to read."""
        try:
            return Beginning.read(json.loads(self._beginning.read_text("ascii")))
        except (OSError, ValueError, TypeError, KeyError):
            return None

    @property
    def _beginning(self) -> Path:
        return self.folder / BEGINNING_FILE

    def clear(self) -> None:
        """Removes every state, and the folder when nothing else lies in it."""
        clear(self.folder)


class Recorder:
    """Saves the states of one run, and begins it where an earlier one ended.

    Shared by all passes of a method: each calls `enter` once, then `after_step` at every step.
    """

    def __init__(
        self,
        folder: StateFolder,
        settings: Mapping[str, object],
        beginning: Beginning,
        *,
        every_steps: int,
        every_s: float = 0.0,
        resume: State | None = None,
    ) -> None:
        """Reads and writes nothing yet.

        Args:
            settings: the job's, as JSON values.
            every_steps: a state is written every so many steps; 0 never.
            every_s: and whenever the last one is that old, in seconds; 0 never.
            resume: the state to go on from.

        Raises:
            BadInput: that state is of a job with other settings.
        """
        self._folder = folder
        self._settings = dict(settings)
        self._beginning = beginning
        self._every_steps = every_steps
        self._every_s = every_s
        self._written_s = time.monotonic()  # a clock that is set back changes nothing
        self._from = resume
        self._part = -1
        self._current: Part | None = None
        self._finished: dict[str, Tensor] = {}
        if resume is not None:
            check_same(resume.settings, self._settings)

    def enter(self, part: Part) -> bool:
        """Begins the next pass, at its saved place if there is one.

        Returns:
            Whether this pass was complete already: its network has its weights, train nothing.

        Raises:
            StateError: the state does not fit network or optimizer.
        """
        if self._current is not None:
            self._finished |= _weights(self._current.network, self._part)
        self._part += 1
        self._current = part
        saved = self._from
        if saved is None or saved.part < self._part:
            return False
        try:
            _restore_weights(part.network, saved.tensors, f"{NETWORK}{self._part}.")
            if saved.part > self._part:
                return True
            part.loop.restore(_below(saved.tensors, OPTIMIZER), saved.values)
        except (RuntimeError, ValueError, KeyError) as error:
            cure = "begin anew, or go on with the version of Trainyard that saved it"
            raise StateError(f"the saved state does not fit this job: {error} - {cure}") from error
        # One of a GPU fits no CPU, nor the reverse; a batch's seed follows from its number anyway.
        with contextlib.suppress(RuntimeError):
            part.generator.set_state(saved.tensors[RANDOM])
        if part.order is not None and saved.values.get("order") is not None:
            part.order.restore(saved.values["order"])
        return False

    def after_step(self, step: int, check: Callable[[], None]) -> None:
        """Writes a state when it is time.

        Args:
            check: called before; raises when what was learned is not worth keeping.
        """
        steps_due = self._every_steps and step % self._every_steps == 0
        time_due = self._every_s and time.monotonic() - self._written_s >= self._every_s
        if steps_due or time_due:
            check()
            self._try_to_write()

    def at_stop(self, *, always: bool = False) -> bool:
        """Writes a state, so that a stopped job can go on later; whether there is one now.

        Args:
            always: also where states are switched off.
        """
        return bool(always or self._every_steps or self._every_s) and self._try_to_write()

    def _try_to_write(self) -> bool:
        """A disk that is full does not end the training."""
        self._written_s = time.monotonic()
        try:
            self.write()
        except StateError as error:
            log.warning("%s", error)
            return False
        return True

    def write(self) -> None:
        """Writes the state of now.

        Raises:
            StateError: it cannot be written, or this optimizer's state is no plain data.
        """
        part = self._current
        assert part is not None
        tensors, values = part.loop.state()
        tensors = {OPTIMIZER + name: tensor for name, tensor in tensors.items()}
        tensors |= self._finished | _weights(part.network, self._part)
        tensors[RANDOM] = part.generator.get_state()
        values["order"] = None if part.order is None else part.order.state()
        try:
            json.dumps(values)
        except TypeError as error:
            raise StateError(f"this optimizer's state cannot be saved: {error}") from error
        held = {name: t.detach().to("cpu", copy=True).contiguous() for name, t in tensors.items()}
        self._folder.write(State(self._part, held, values, self._settings, self._beginning))

    def done(self) -> None:
        """The result is saved: the states are needed no more."""
        self._folder.clear()


FREE_TO_CHANGE = frozenset(
    {
        *("sample_prompts", "sample_every_steps", "sample_seed"),
        *("sample_denoise_steps", "sample_guidance"),
        *("cache_memory_mb", "cache_disk_mb", "cache_folder"),
        *("name", "overwrite", "save_every_steps", "save_every_epochs", "save_precision"),
        *(
            "log_csv",
            "author",
            "description",
            "save_state_every_steps",
            "save_state_every_minutes",
            "keep_states",
            "seed",
            "save_preview",
        ),
    }
)
"""What may differ between a job and the state that it goes on from."""


def check_same(saved: Mapping[str, object], now: Mapping[str, object]) -> None:
    """Checks that a job is the one that a state was saved in.

    A parameter that only one of them knows came or went with an update, and is no change.

    Raises:
        BadInput: naming every setting that was changed.
    """
    common = [name for name in saved if name in now and name not in FREE_TO_CHANGE]
    compared = [(name, saved[name], now[name]) for name in common if name != SECOND_PASS]
    before, after = second_pass_of(saved), second_pass_of(now)
    compared += [
        (f"{SECOND_PASS}.{name}", before.get(name, saved[name]), after.get(name, now[name]))
        for name in common
        if name in before or name in after
    ]
    problems = [
        Problem(
            name,
            f"is {value!r}, but was {former!r} when the state was saved",
            "set it back, or begin anew",
        )
        for name, former, value in compared
        if value != former
    ]
    if problems:
        raise BadInput(problems)


def _read(path: Path) -> State:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:  # type: ignore[no-untyped-call,attr-defined]
            header = json.loads((file.metadata() or {}).get(HEADER, "{}"))
            if header.get("version") != VERSION:
                raise StateError(f"{path} is no state of version {VERSION}")
            # Copied, not mapped: Windows could neither remove nor replace a file that is mapped.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        beginning = Beginning.read(header["beginning"])
        return State(header["part"], tensors, header["values"], header["settings"], beginning)
    except (SafetensorError, OSError, ValueError, TypeError, KeyError) as error:
        raise StateError(f"{path} cannot be read: {error}") from error


def _weights(network: nn.Module, part: int) -> dict[str, Tensor]:
    return {f"{NETWORK}{part}.{name}": t for name, t in network.state_dict().items()}


def _restore_weights(network: nn.Module, tensors: Mapping[str, Tensor], prefix: str) -> None:
    with torch.no_grad():
        network.load_state_dict(_below(tensors, prefix))


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) :]: t for name, t in tensors.items() if name.startswith(prefix)}
