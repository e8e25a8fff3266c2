"""What many pictures cost: the way to the first step, the steps, and memory."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from ..control import Control
from ..demo.checkpoint import CHECKPOINT
from ..events import Event, PhaseStarted
from ..hosts.standalone import StandaloneHost
from ..measure import peak_mb
from ..run import run_job
from ..settings.schema import JobSettings
from .works import WORKS, job

SIZE_PX = 64
STEPS = 40


@dataclass(frozen=True)
class CrowdRow:
    """A LoRA from so many pictures of noise, on the embedded checkpoint with its real encoders.

    Attributes:
        checking_s: seconds of computing until the job is checked and the checkpoint loaded.
        encoding_s: the same for pictures and captions; `cached_s`: once more, from the cache.
        step_s: median of a step.
        memory_mb: the most that this process has held so far; None where no system tells.
    """

    pictures: int
    checking_s: float
    encoding_s: float
    cached_s: float
    step_s: float
    memory_mb: float | None


class _Clock:
    """Seconds of computing in every phase of a run, and in its steps."""

    def __init__(self) -> None:
        self._began = time.process_time()
        self._phase = ""
        self._marks: list[float] = []
        self.phases: dict[str, float] = defaultdict(float)
        self.control = Control()
        self.control.give_way = lambda: self._marks.append(time.process_time())

    def sink(self, event: Event) -> None:
        if isinstance(event, PhaseStarted):
            now = time.process_time()
            self.phases[self._phase] += now - self._began
            self._began, self._phase = now, event.title
            self._marks.clear()  # encoding asks its control between batches, too

    def encoding_s(self) -> float:
        return sum(s for title, s in self.phases.items() if title.startswith("Encoding"))

    def checking_s(self) -> float:
        return sum(self.phases.values()) - self.encoding_s() - self.phases["Training"]

    def step_s(self) -> float:
        return statistics.median(later - earlier for earlier, later in pairwise(self._marks[1:]))


def measure_crowds(counts: Iterable[int]) -> Iterator[CrowdRow]:
    """Trains a few steps on so many pictures, twice: with an empty cache and with a full one."""
    for count in sorted(counts):
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            settings = job(
                WORKS["lora"],
                folder / "pictures",
                checkpoint=str(CHECKPOINT),
                size_px=SIZE_PX,
                batch=1,
                steps=STEPS,
                precision="fp32",
                pictures=count,
            ).replace(cache_memory_mb=0)  # all of it on disk, where the second run finds it
            first = _run(settings, folder)
            again = _run(settings.replace(overwrite=True), folder)
        yield CrowdRow(
            pictures=count,
            checking_s=first.checking_s(),
            encoding_s=first.encoding_s(),
            cached_s=again.encoding_s(),
            step_s=first.step_s(),
            memory_mb=peak_mb(),
        )


def _run(settings: JobSettings, folder: Path) -> _Clock:
    clock = _Clock()
    host = StandaloneHost(CHECKPOINT.parent, folder / "out", "cpu")
    run_job(settings, host, control=clock.control, sink=clock.sink)
    return clock


def crowd_table(rows: Iterable[CrowdRow]) -> str:
    """The rows as text."""
    lines = ["pictures  checking s  encoding s  from cache s  step s  process MB"]
    for row in rows:
        memory = "-" if row.memory_mb is None else f"{row.memory_mb:.0f}"
        lines.append(
            f"{row.pictures:8d}  {row.checking_s:10.2f}  {row.encoding_s:10.2f}"
            f"  {row.cached_s:12.2f}  {row.step_s:6.3f}  {memory:>10}"
        )
    return "\n".join(lines)
