"""Time and memory of a piece of work."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

MB = 2**20


@dataclass(frozen=True)
class Moment:
    """Now, on the clock, and in the time that this process has computed.

    The second tells more where other programs run beside it.  On a GPU, where it tells nothing,
    it is the clock's.
    """

    wall_s: float
    busy_s: float

    @classmethod
    def now(cls, device: torch.device) -> Moment:
        """After everything that was asked of the device is done."""
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            return cls(time.perf_counter(), time.perf_counter())
        return cls(time.perf_counter(), time.process_time())

    def __sub__(self, earlier: Moment) -> Moment:
        return Moment(self.wall_s - earlier.wall_s, self.busy_s - earlier.busy_s)


def median(spent: Iterable[Moment]) -> Moment:
    """The median of each kind of time."""
    spent = list(spent)
    return Moment(
        statistics.median(one.wall_s for one in spent),
        statistics.median(one.busy_s for one in spent),
    )


class PeakMemory:
    """The most that tensors took at once between `start` and `stop`, above what they took before.

    On a CPU it is read off torch's own record of what it allocates, so that neither the
    allocator's habits nor another program's load are in it.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._before = 0
        self._profile: torch.profiler.profile | None = None

    def start(self) -> None:
        """From here on."""
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
            self._before = torch.cuda.memory_allocated(self._device)
            return
        self._profile = torch.profiler.profile(
            activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
        )
        self._profile.start()

    def stop(self) -> float:
        """The peak, in MB."""
        if self._profile is None:
            return (torch.cuda.max_memory_allocated(self._device) - self._before) / MB
        self._profile.stop()
        assert self._profile.profiler is not None
        results: Any = self._profile.profiler.kineto_results
        changes = [event for event in results.events() if event.name() == "[memory]"]
        self._profile = None
        held = peak = 0
        for event in sorted(changes, key=_when):
            held += event.nbytes()
            peak = max(peak, held)
        return peak / MB


def _when(event: Any) -> int:
    """When it happened; torch 2.1 counts in microseconds, later ones in nanoseconds."""
    return int(event.start_ns() if hasattr(event, "start_ns") else event.start_us())
