from __future__ import annotations

import pytest

from trainer.training import stopwatch
from trainer.training.stopwatch import Stopwatch


def test_it_counts_only_while_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(stopwatch, "monotonic", lambda: now[0])
    watch = Stopwatch(7.0)
    now[0] += 1000
    assert watch.elapsed_s == 7.0, "not started yet"
    watch.start()
    now[0] += 2
    assert watch.elapsed_s == 9.0
    watch.stop()
    now[0] += 1000
    assert watch.elapsed_s == 9.0
    watch.start()
    now[0] += 3
    assert watch.elapsed_s == 12.0
