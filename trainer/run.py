"""A job from its settings to its files."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch

from .atomic import sweep
from .control import Control, Request
from .errors import BadInput, Problem, Stopped, TrainyardError
from .events import Notice, PhaseStarted, Saved, Sink
from .hosts.protocol import Host
from .lock import FileLock, sweep_locks
from .methods import TRAIN
from .models.model import DiffusionModel
from .networks import kohya
from .networks.metadata import is_result_of
from .result import finish
from .samples import Sampler
from .settings.groups import ModelSettings, OutputSettings, TrainingSettings
from .settings.schema import JobSettings
from .training.beginning import Beginning, as_lent, taken_up
from .training.loop import Outcome
from .training.plan import Plan, make_plan
from .training.session import Session
from .training.state import Recorder, State, StateFolder
from .training.unfinished import belongs, state_folder

Result = TypeVar("Result")

OUT_OF_MEMORY = ("DefaultCPUAllocator", "MPS backend out of memory")
"""torch names these in its errors when the main memory is full, or that of a Mac's GPU."""


class OutOfMemory(TrainyardError):
    """The job needs more memory than there is."""


class SystemRefused(TrainyardError):
    """A file could not be read or written: the disk is full, a folder or a right is gone."""

    def __init__(self, error: OSError) -> None:
        named = f": {error.filename}" if error.filename else ""
        super().__init__(
            f"the system refused a file ({error.strerror or error}{named}) - make room, or put"
            " the file or the permission back; then let the job go on from its last state"
        )


def run_job(
    settings: JobSettings,
    host: Host,
    *,
    control: Control,
    sink: Sink,
    resume: bool = False,
    owner: str = "",
) -> Outcome:
    """Checks the job, borrows the model, trains and saves.

    Args:
        resume: go on from the last state that this job saved, or begin anew if there is none.
        owner: what no other job of any queue has, to be noted in the states; a job goes on from
            its own alone.  "": from those of its name, whosever they are.

    Raises:
        BadInput: the job cannot be done as it stands; nothing was trained.
        NotANumber: the loss became NaN; what was saved before stays.
        OutOfMemory: a smaller job is needed.
        SystemRefused: a file could not be read or written; what was saved before stays.
    """
    try:
        return _checked(settings, host, owner, control=control, sink=sink, resume=resume)
    except OSError as error:
        raise SystemRefused(error) from error


def _checked(
    settings: JobSettings, host: Host, owner: str, *, control: Control, sink: Sink, resume: bool
) -> Outcome:
    sink(PhaseStarted("Checking the job"))
    output = settings[OutputSettings]
    states = StateFolder(state_folder(host.log_dir, output.name), output.keep_states)
    saved = _saved(states, output, owner) if resume else None
    if saved is not None:
        sink(Notice(f"Going on after step {saved.values['step']}"))
    elif resume and (done := _complete(settings, host)) is not None:
        sink(Notice("The file was complete already"))
        sink(Saved(done, settings.passes()[-1][TrainingSettings].steps, final=True))
        return Outcome(settings.passes()[-1][TrainingSettings].steps, math.nan, Request.CONTINUE)
    elif resume:
        sink(Notice("No state was saved; the job begins anew"))
    beginning = _beginning(settings, states, saved, owner) if resume else None
    # What the job itself has saved before may be there, also where files of others are respected.
    checked = settings if saved is None else settings.replace(overwrite=True)
    plan = make_plan(checked, host, owner=owner)
    for warning in plan.warnings:
        sink(Notice(warning))
    with ExitStack() as stack:
        for lock in _locks(host, output.name):
            stack.enter_context(lock)
        _sweep(host, output.name)
        if saved is None:
            states.clear()
        return _run(
            settings, plan, host, states, saved, beginning, owner, control=control, sink=sink
        )


def _saved(states: StateFolder, output: OutputSettings, owner: str) -> State | None:
    """The state to go on from; None where the job has come to none.

    Raises:
        BadInput: those under its name are another job's, or none of them can be read.
    """
    saved = states.newest()
    if saved is None and states.any():
        what = f"{output.name!r} has saved states, but none of them can be read: {states.folder}"
        cure = "put a copy of them back, or move that folder away to begin anew"
        raise BadInput([Problem("state", what, cure)])
    if saved is not None and not belongs(saved.beginning.owner, owner):
        what = f"the state under the name {output.name!r} is of another training of that name"
        cure = "let that one go on; begin this one anew under another name, as a duplicate"
        raise BadInput([Problem("state", what, cure)])
    return saved


def _locks(host: Host, name: str) -> list[FileLock]:
    """For the files of a name, and for its states, log and pictures on the way.

    Two webuis may have either folder in common: a name is trained by one of them at a time.
    """
    cure = "use another name, or let it finish or stop it there and start again"
    return [
        FileLock(folder / f".{name}.lock", f"training {name!r}", cure)
        for folder in _locked_folders(host)
    ]


def _locked_folders(host: Host) -> tuple[Path, Path]:
    return host.output_dir, host.log_dir / "states"


def _beginning(
    settings: JobSettings, states: StateFolder, saved: State | None, owner: str
) -> Beginning | None:
    """What a job that goes on has drawn before; a seed that is set now is not drawn."""
    if saved is not None:
        return saved.beginning
    noted, seed = states.beginning(), settings[TrainingSettings].seed
    if noted is None or not belongs(noted.owner, owner):
        return None
    return noted if seed in (-1, noted.seed) else None


def _run(
    settings: JobSettings,
    plan: Plan,
    host: Host,
    states: StateFolder,
    saved: State | None,
    beginning: Beginning | None,
    owner: str,
    *,
    control: Control,
    sink: Sink,
) -> Outcome:
    output, wanted = settings[OutputSettings], settings[ModelSettings]
    before = None if beginning is None else beginning.lent_for(wanted)
    sink(PhaseStarted("Loading the checkpoint"))

    def train(model: DiffusionModel) -> Outcome:
        learnt = saved is not None
        lent = taken_up(
            model, settings, before, learnt=learnt, tell=lambda text: sink(Notice(text))
        )
        session = Session(
            settings,
            plan,
            model,
            host,
            control=control,
            sink=sink,
            beginning=beginning,
            goes_on=learnt,
        )
        owned_by = owner or session.beginning.owner or ""
        begun = replace(session.beginning, owner=owned_by, lent=lent)
        states.begin(begun)
        session.recorder = Recorder(
            states,
            settings.as_dict(),
            begun,
            every_steps=output.save_state_every_steps,
            every_s=60 * output.save_state_every_minutes,
            resume=saved,
        )
        session.watch = Sampler(session)
        return _train(session)

    with memory_answered(lambda error: out_of_memory(settings, error)):
        return on_loan(host.borrow(as_lent(wanted, before), control), train)


def on_loan(
    loan: AbstractContextManager[DiffusionModel], work: Callable[[DiffusionModel], Result]
) -> Result:
    """What some work makes of a borrowed model.

    The model has a name inside the work alone: what outlives the work when the model is given
    back cannot be freed before the webui goes on.
    """
    with ExitStack() as stack:
        return work(stack.enter_context(loan))


@contextmanager
def memory_answered(answer: Callable[[BaseException], str]) -> Iterator[None]:
    """Makes of a memory that runs out, whosever it is, an error that says what to change.

    Args:
        answer: what to say.

    Raises:
        OutOfMemory: it has run out.
    """
    try:
        yield
    except (torch.cuda.OutOfMemoryError, MemoryError) as error:
        raise OutOfMemory(answer(error)) from None
    except RuntimeError as error:
        if not any(mark in str(error) for mark in OUT_OF_MEMORY):
            raise
        raise OutOfMemory(answer(error)) from None


def _train(session: Session) -> Outcome:
    assert session.recorder is not None
    try:
        outcome = TRAIN[session.settings.method](session)
    except Stopped as stopped:
        session.sink(Notice(str(stopped)))
        return Outcome(steps=0, loss=math.nan, request=session.control.request)
    if outcome.file is not None:
        finish(session, outcome.file)
        session.host.published(outcome.file)
    if outcome.request is Request.CONTINUE:
        session.recorder.done()  # last, so that a crash before it is made up for
    return outcome


def _complete(settings: JobSettings, host: Host) -> Path | None:
    """The job's file, if the job came to its end before the program did."""
    file = host.output_dir / f"{settings[OutputSettings].name}.safetensors"
    try:
        _, metadata = kohya.load(file)
    except BadInput:
        return None
    return file if is_result_of(settings, metadata) else None


def _sweep(host: Host, name: str) -> None:
    """Removes what programs that were killed left: of this job's files, and locks of any name."""
    stems = re.compile(rf"{re.escape(name)}(-copier)?(-step\d{{8}}|-\d{{6}})?")
    for folder in (host.output_dir, host.log_dir):
        sweep(folder, stems)
    sweep(host.log_dir / "samples" / name, re.compile(r"\d+-\d+"))
    for folder in _locked_folders(host):
        sweep_locks(folder)


def out_of_memory(settings: JobSettings, error: BaseException) -> str:
    """What ran out, and what to change, the mildest first."""
    values = settings.values
    advice = []
    if not values.get("gradient_checkpointing"):
        advice.append("switch gradient_checkpointing on")
    elif values.get("checkpointed_parts") != "all":
        advice.append("set checkpointed_parts to all")
    batch_size = settings[TrainingSettings].batch_size
    if batch_size > 1:
        advice.append(
            f"lower batch_size from {batch_size} and raise gradient_accumulation_steps instead"
        )
    if values.get("base_precision") in ("auto", "fp32"):
        advice.append("set base_precision to bf16 or fp16, unless the model is in one already")
    if "image_size_px" in values:
        advice.append("lower image_size_px")
    advice.append("lower rank, or train fewer blocks")
    reason = str(error).partition("\n")[0].partition(" GPU 0 has")[0][:200] or "memory"
    return f"the memory was not enough ({reason.rstrip('. ')}) - {'; '.join(advice)}"
