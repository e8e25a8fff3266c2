"""A real webui for a file's tests; a file that needs another one has its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .real import RealWebui, started


@pytest.fixture(scope="module")
def webui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealWebui]:
    with started(tmp_path_factory.mktemp("webui")) as real:
        yield real
