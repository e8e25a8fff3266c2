"""The log of a run as a table that any program can plot."""

from __future__ import annotations

import csv
import logging
from pathlib import Path

from ..atomic import write_bytes
from ..events import Event, StepDone

log = logging.getLogger(__name__)

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
    when that step is not the first.  A log that cannot be written does not end a training.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._started = False
        self._failed = False

    def __call__(self, event: Event) -> None:
        if not isinstance(event, StepDone):
            return
        try:
            if not self._started or not self.path.exists():
                self._start(event.step)
            with self.path.open("a", newline="", encoding="utf-8") as file:
                csv.writer(file).writerow(self._row(event))
        except OSError as error:
            if not self._failed:
                log.warning("%s cannot be written: %s", self.path, error.strerror or error)
            self._failed = True

    def _start(self, step: int) -> None:
        """Makes the table end before `step`: a training that goes on repeats the last steps."""
        kept: list[str] = []
        if step > 1 and self.path.exists():
            lines = self.path.read_text("utf-8", errors="replace").splitlines()
            numbers = [line.partition(",")[0] for line in lines]
            # A second pass counts from 1 again: the last time that this step was reached, counts.
            ends = [index + 1 for index, number in enumerate(numbers) if number == str(step - 1)]
            kept = lines[1 : max(ends, default=1)]
        table = "".join(f"{line}\r\n" for line in (",".join(COLUMNS), *kept))
        write_bytes(self.path, table.encode("utf-8"))
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
