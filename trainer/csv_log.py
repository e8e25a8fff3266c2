"""The log of a run as a table that any program can plot."""

from __future__ import annotations

import csv
from pathlib import Path

from .events import Event, StepDone

COLUMNS = (
    "step",
    "loss",
    "smoothed_loss",
    "learning_rate",
    "text_encoder_learning_rate",
    "seconds",
)


class CsvLog:
    """A sink that writes one row for each step; every row is on the disk when its step is told.

    A log of the same name is replaced when the first step of a new run arrives, and continued
    when that step is not the first.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._started = False

    def __call__(self, event: Event) -> None:
        if not isinstance(event, StepDone):
            return
        if not self._started:
            self._start(event.step)
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow(self._row(event))

    def _start(self, step: int) -> None:
        """Makes the table end before `step`: a training that goes on repeats the last steps."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        kept: list[list[str]] = []
        if step > 1 and self.path.exists():
            with self.path.open(newline="", encoding="utf-8") as file:
                rows = list(csv.reader(file))
            kept = [row for row in rows if row and row[0].isdecimal() and int(row[0]) < step]
        with self.path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([COLUMNS, *kept])
        self._started = True

    @staticmethod
    def _row(event: StepDone) -> tuple[object, ...]:
        rate = event.text_encoder_learning_rate
        return (
            event.step,
            f"{event.loss:.6g}",
            f"{event.smoothed_loss:.6g}",
            f"{event.learning_rate:.6g}",
            "" if rate is None else f"{rate:.6g}",
            f"{event.elapsed_s:.3f}",
        )
