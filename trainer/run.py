"""A job from its settings to its files."""

from __future__ import annotations

import math

from .control import Control
from .errors import Stopped
from .events import Notice, PhaseStarted, Sink
from .hosts.protocol import Host
from .loop import Outcome
from .methods import TRAIN
from .plan import make_plan
from .session import Session
from .settings.groups import ModelSettings
from .settings.schema import JobSettings


def run_job(settings: JobSettings, host: Host, *, control: Control, sink: Sink) -> Outcome:
    """Checks the job, borrows the model, trains and saves.

    Raises:
        BadInput: the job cannot be done as it stands; nothing was trained.
        NotANumber: the loss became NaN; what was saved before stays.
    """
    sink(PhaseStarted("Checking the job"))
    plan = make_plan(settings, host)
    for warning in plan.warnings:
        sink(Notice(warning))
    sink(PhaseStarted("Loading the checkpoint"))
    with host.borrow(settings[ModelSettings], control) as model:
        session = Session(settings, plan, model, host, control=control, sink=sink)
        try:
            return TRAIN[settings.method](session)
        except Stopped as stopped:
            sink(Notice(str(stopped)))
            return Outcome(steps=0, loss=math.nan, request=control.request)
