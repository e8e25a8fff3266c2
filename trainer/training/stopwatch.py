"""How long a training has trained."""

from __future__ import annotations

from time import monotonic


class Stopwatch:
    """Counts seconds from `start` to `stop`, any number of times; it stands still in between."""

    def __init__(self, elapsed_s: float = 0.0) -> None:
        """Args: elapsed_s: counted before, for example by the run that this one goes on from."""
        self._before_s = elapsed_s
        self._since: float | None = None

    @property
    def elapsed_s(self) -> float:
        running_s = 0.0 if self._since is None else monotonic() - self._since
        return self._before_s + running_s

    def start(self) -> None:
        self._since = monotonic()

    def stop(self) -> None:
        self._before_s, self._since = self.elapsed_s, None
