"""A job as the queue knows it: a frozen record, read from the store."""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..paths import next_name


class JobState(enum.Enum):
    """Where a job is in its life; the value is what the store and the API write."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"
    """Its process ended while it ran; it can be queued again and go on."""


LIVE = frozenset({JobState.RUNNING, JobState.PAUSED})
"""A worker has the job in hand."""
PENDING = LIVE | {JobState.QUEUED}
"""The job is going to write its output file."""
FINISHED = frozenset({JobState.DONE, JobState.FAILED, JobState.CANCELLED})
"""Nothing more happens to the job unless it is queued again."""


@dataclass(frozen=True)
class Progress:
    """How far a job is: `done` of `total` units of the phase; for training, the unit is a step."""

    phase: str = ""
    done: int = 0
    total: int = 0
    """0 where the units cannot be counted."""
    loss: float | None = None
    """The smoothed loss, once there is one that is a number."""
    left_s: float | None = None

    @property
    def fraction(self) -> float | None:
        """0..1 within the phase, None where it cannot be told."""
        return min(1.0, self.done / self.total) if self.total > 0 else None


@dataclass(frozen=True)
class Job:
    """One training to be done or done."""

    id: int
    """Given once and never again, also after the job was removed."""
    name: str
    """The output's name, without an extension; may hold a subfolder."""
    method: str
    settings: Mapping[str, object]
    """Flat parameter name -> JSON value, `method` and `name` included."""
    state: JobState
    resume: bool = False
    """Go on from the state that the job saved last, instead of from the beginning."""
    progress: Progress = field(default_factory=Progress)
    created_s: float = 0.0
    """Unix time, as the two below."""
    started_s: float | None = None
    finished_s: float | None = None
    step_s: float | None = None
    """What a step took on average, of all passes, without pauses; None: not known."""
    files: tuple[Path, ...] = ()
    """What the job wrote, in order."""
    notes: tuple[str, ...] = ()
    """What the job told the user, in order."""
    error: str = ""
    """Why the job failed or was interrupted; "" otherwise."""

    @property
    def key(self) -> str:
        """What no other job of any queue has, also after this queue's file was made anew."""
        return f"{self.id}-{self.created_s!r}"


def free_name(name: str, taken: Collection[str]) -> str:
    """The first of `name`, `name-2`, `name-3` ... that is not in `taken`, whatever the case."""
    used = {other.casefold() for other in taken}
    if name.casefold() not in used:
        return name
    return next_name(name, lambda other: other.casefold() in used)
