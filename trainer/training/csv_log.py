"""The log of a run as a table that any program can plot."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Sequence
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

    A log of the same name is replaced when the first step of a new run arrives.  A log that cannot
    be written does not end a training.
    """

    def __init__(self, path: Path, *, goes_on: bool = False) -> None:
        """Args: goes_on: from the state of an earlier run, whose rows up to there stay."""
        self.path = path
        self._goes_on = goes_on
        self._started = False
        self._failed = False

    def __call__(self, event: Event) -> None:
        if not isinstance(event, StepDone):
            return
        try:
            if not self._started or not self.path.exists():
                self._start(event.step)
            self._append(self._row(event))
        except OSError as error:
            if not self._failed:
                log.warning("%s cannot be written: %s", self.path, error.strerror or error)
            self._failed = True

    def _append(self, row: Sequence[object]) -> None:
        """One row whole or not at all: a disk that becomes full may take a part of it."""
        line = _line(row).encode("ascii")
        with self.path.open("ab", buffering=0) as file:
            end = file.tell()
            if file.write(line) < len(line):
                file.truncate(end)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _start(self, step: int) -> None:
        """Makes the table end before `step`: a training that goes on repeats the last steps."""
        kept = self._rows_before(step) if self._goes_on and self.path.exists() else []
        table = _line(COLUMNS) + "".join(f"{row}\r\n" for row in kept)
        write_bytes(self.path, table.encode("utf-8"))
        self._started = True

    def _rows_before(self, step: int) -> list[str]:
        """The table without its heading; a second pass counts from 1 again."""
        rows = self.path.read_text("utf-8", errors="replace").splitlines()[1:]
        numbers = [row.partition(",")[0] for row in rows]
        if step == 1:  # it begins: what it may have done before it died comes again
            second = [index for index, number in enumerate(numbers) if number == "1"][1:2]
            return rows[: second[0]] if second else rows
        # the last time that this step was reached, counts
        ends = [index + 1 for index, number in enumerate(numbers) if number == str(step - 1)]
        return rows[: max(ends, default=0)]

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


def _line(values: Sequence[object]) -> str:
    """A row of the table: names and numbers, which need no quotes."""
    return ",".join(map(str, values)) + "\r\n"
