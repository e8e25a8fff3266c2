"""A job from its settings to its files."""

from __future__ import annotations

import math

import torch

from .control import Control, Request
from .errors import Stopped, TrainyardError
from .events import Notice, PhaseStarted, Sink
from .hosts.protocol import Host
from .loop import Outcome
from .methods import TRAIN
from .plan import make_plan
from .result import finish
from .samples import Sampler
from .session import Session
from .settings.groups import ModelSettings, OutputSettings, TrainingSettings
from .settings.schema import JobSettings
from .state import Recorder, StateFolder

CPU_OUT_OF_MEMORY = "DefaultCPUAllocator"
"""torch names this in its error when the main memory is full."""


class OutOfMemory(TrainyardError):
    """The job needs more memory than there is."""


def run_job(
    settings: JobSettings, host: Host, *, control: Control, sink: Sink, resume: bool = False
) -> Outcome:
    """Checks the job, borrows the model, trains and saves.

    Args:
        resume: go on from the last state that this job saved, or begin anew if there is none.

    Raises:
        BadInput: the job cannot be done as it stands; nothing was trained.
        NotANumber: the loss became NaN; what was saved before stays.
        OutOfMemory: a smaller job is needed.
    """
    sink(PhaseStarted("Checking the job"))
    output = settings[OutputSettings]
    states = StateFolder(host.log_dir / "states" / output.name, output.keep_states)
    saved = states.newest() if resume else None
    if saved is not None:
        settings = settings.replace(seed=saved.seed, overwrite=True)
        sink(Notice(f"Going on after step {saved.values['step']}"))
    elif resume:
        sink(Notice("No state was saved; the job begins anew"))
    plan = make_plan(settings, host)
    for warning in plan.warnings:
        sink(Notice(warning))
    if saved is None:
        states.clear()
    sink(PhaseStarted("Loading the checkpoint"))
    try:
        with host.borrow(settings[ModelSettings], control) as model:
            session = Session(settings, plan, model, host, control=control, sink=sink)
            session.recorder = Recorder(
                states,
                settings.as_dict(),
                session.seed,
                every_steps=output.save_state_every_steps,
                resume=saved,
            )
            session.watch = Sampler(session)
            return _train(session)
    except (torch.cuda.OutOfMemoryError, MemoryError) as error:
        raise OutOfMemory(out_of_memory(settings, error)) from None
    except RuntimeError as error:
        if CPU_OUT_OF_MEMORY not in str(error):
            raise
        raise OutOfMemory(out_of_memory(settings, error)) from None


def _train(session: Session) -> Outcome:
    assert session.recorder is not None
    try:
        outcome = TRAIN[session.settings.method](session)
    except Stopped as stopped:
        session.sink(Notice(str(stopped)))
        return Outcome(steps=0, loss=math.nan, request=session.control.request)
    if outcome.request is Request.CONTINUE:
        session.recorder.done()
    file = session.plan.output_file
    if outcome.request is not Request.STOP and file.is_file():
        finish(session, file)
        session.host.published(file)
    return outcome


def out_of_memory(settings: JobSettings, error: BaseException) -> str:
    """What ran out, and what to change, the mildest first."""
    values = settings.values
    advice = []
    if not values.get("gradient_checkpointing"):
        advice.append("switch gradient_checkpointing on")
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
