"""What a page shows of the job in hand beyond its newest step: the curve, samples, log lines."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque

from ..events import Event, Notice, PhaseProgress, PhaseStarted, Sampled, Saved, StepDone
from ..jobs.job import Job

MAX_POINTS = 2000
"""Of a curve; when it has more, every second one is dropped."""
MAX_LINES = 200
SPEED_WINDOW = 20
"""Reports of a phase that its speed is told by: what lay in a cache, and a pause, soon count no
longer."""

Point = tuple[int, float, float, float]
"""Step, loss, smoothed loss, learning rate."""


class Live:
    """Hears a worker's events; may be read from any thread."""

    def __init__(self) -> None:
        self.job_id: int | None = None
        self.samples = 0
        """Pictures drawn so far, by any job: when it rises, there is something new to see."""
        self.began = 0
        """How often a curve began: when it rises, points that were told before count no longer."""
        self._points: list[Point] = []
        self._stride = 1
        self._total = 0
        self._marks: deque[tuple[float, int]] = deque(maxlen=SPEED_WINDOW)
        """When how much of the phase was done."""
        self._lines: deque[str] = deque(maxlen=MAX_LINES)
        self._guard = threading.Lock()

    def __call__(self, job: Job, event: Event) -> None:
        """The worker's listener."""
        with self._guard:
            if job.id != self.job_id:
                self.job_id = job.id
                self._begin([])
                self._line(f"Job {job.id}: {job.name} ({job.method})")
            if isinstance(event, StepDone):
                self._add(event)
            elif isinstance(event, PhaseStarted):
                self._line(event.title)
                self._total = event.total
                self._marks.clear()
                self._marks.append((time.monotonic(), 0))
            elif isinstance(event, PhaseProgress):
                self._marks.append((time.monotonic(), event.done))
            elif isinstance(event, Saved):
                self._line(f"Saved {event.path}")
            elif isinstance(event, Sampled):
                self.samples += 1
            elif isinstance(event, Notice):
                self._line(event.text)

    def note(self, text: str) -> None:
        """Adds lines to the log."""
        with self._guard:
            for line in text.splitlines():
                self._line(line)

    def curve(self, since: int = 0) -> list[Point]:
        """The points of the steps after `since`."""
        with self._guard:
            return [point for point in self._points if point[0] > since]

    def phase_left_s(self) -> float | None:
        """About how long the phase will still take; None where its progress does not tell.

        A training tells it itself, with its steps.
        """
        with self._guard:
            if not self._total or len(self._marks) < 2:
                return None
            (first_s, before), (last_s, done) = self._marks[0], self._marks[-1]
            if done <= before:
                return None
            return (self._total - done) * (last_s - first_s) / (done - before)

    def lines(self) -> list[str]:
        """The newest lines of the log, oldest first."""
        with self._guard:
            return list(self._lines)

    def _begin(self, points: list[Point]) -> None:
        self._points, self.began = points, self.began + 1
        if not points:
            self._stride = 1

    def _add(self, event: StepDone) -> None:
        if self._points and event.step <= self._points[-1][0]:
            # a second pass, or the run goes on from a state and makes its last steps anew
            self._begin([point for point in self._points if point[0] < event.step])
        if event.step % self._stride and event.step != event.total_steps:
            return
        self._points.append((event.step, event.loss, event.smoothed_loss, event.learning_rate))
        if len(self._points) > MAX_POINTS:
            self._points = self._points[::2]
            self._stride *= 2

    def _line(self, text: str) -> None:
        self._lines.append(f"{time.strftime('%H:%M:%S')}  {text}")


class LogLines(logging.Handler):
    """Passes the package's warnings and errors on to the page's log."""

    def __init__(self, live: Live) -> None:
        super().__init__(logging.WARNING)
        self._live = live

    def emit(self, record: logging.LogRecord) -> None:
        self._live.note(f"{record.levelname.capitalize()}: {record.getMessage()}")
