"""What must not happen, whatever a file or a request holds: code that runs, files elsewhere."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

WRITES = ("os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.link", "os.truncate")
FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect")
ALLOWED = ("/dev/null", str(Path(tempfile.gettempdir(), "tmp")))
"""The second is how Python's own temporary files begin."""


class Watch:
    """Hears of everything that this process does to files, while it has a folder."""

    def __init__(self) -> None:
        self.folder: Path | None = None
        self.trespasses: list[str] = []
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[object, ...]) -> None:
        if self.folder is None:
            return
        if event in FORBIDDEN:
            self.trespasses.append(f"{event} {arguments!r}"[:200])
        elif event in ("os.remove", "os.rmdir") and arguments[1] != -1:
            return  # by name in an open folder: the clearing of a temporary one
        elif event in WRITES or (event == "open" and _writes(arguments)):
            target = arguments[event in ("os.rename", "os.symlink", "os.link")]
            if isinstance(target, str | bytes | os.PathLike) and not self._inside(target):
                self.trespasses.append(f"{event} {target!r}")

    def _inside(self, target: str | bytes | os.PathLike[str]) -> bool:
        path = str(Path(os.fsdecode(target)).absolute())
        tools = ("__pycache__", ".hypothesis")
        return path.startswith((str(self.folder), *ALLOWED)) or any(name in path for name in tools)


def _writes(arguments: tuple[object, ...]) -> bool:
    _, mode, flags = arguments
    if isinstance(mode, str):
        return any(letter in mode for letter in "wax+")
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


@pytest.fixture(scope="session")
def watch() -> Watch:
    return Watch()


@pytest.fixture(autouse=True)
def _nothing_elsewhere(watch: Watch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fails a test in which something was written outside its folder, or a program started."""
    watch.folder, watch.trespasses = tmp_path_factory.getbasetemp(), []
    yield
    watch.folder = None
    assert watch.trespasses == []
