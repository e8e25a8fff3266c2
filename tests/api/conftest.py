"""What the tests of the routes share; they are skipped where fastapi is not installed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .bench import Bench


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    from .bench import Bench

    made = Bench(tmp_path, monkeypatch)
    yield made
    made.go.set()
    made.yard.worker.stop()
    made.yard.worker.wait(20)
    made.yard.store.close()
