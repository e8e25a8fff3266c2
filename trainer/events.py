"""What a running job tells the outside: frozen records and the sink that they go to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Event:
    """Base of every record; an event is never changed after it was sent."""


@dataclass(frozen=True)
class PhaseStarted(Event):
    """A part of the job begins: "Loading the checkpoint", "Encoding images", "Training"."""

    title: str
    total: int = 0
    """Number of units to come, 0 where it cannot be counted."""


@dataclass(frozen=True)
class PhaseProgress(Event):
    """`done` of the current phase's units are finished."""

    done: int


@dataclass(frozen=True)
class StepDone(Event):
    """One optimizer update happened.

    Steps come in bundles where asking the device for every loss would stall it; `step` rises
    by one between two records all the same.
    """

    step: int
    total_steps: int
    epoch: int
    loss: float
    smoothed_loss: float
    learning_rate: float
    text_encoder_learning_rate: float | None
    elapsed_s: float
    """Of training, as the two below: without pauses, and pictures that were let through."""
    steps_per_s: float
    left_s: float


@dataclass(frozen=True)
class Saved(Event):
    """A file was written."""

    path: Path
    step: int
    final: bool


@dataclass(frozen=True)
class Sampled(Event):
    """A picture was drawn to show what has been learnt so far."""

    path: Path
    step: int
    prompt: str


@dataclass(frozen=True)
class Notice(Event):
    """Something that the user should know and that stops nothing."""

    text: str


Sink = Callable[[Event], None]


def ignore(event: Event) -> None:
    """A sink for callers who do not listen."""


def fan_out(*sinks: Sink) -> Sink:
    """One sink that passes every event to each of `sinks`, in order."""

    def send(event: Event) -> None:
        for sink in sinks:
            sink(event)

    return send
