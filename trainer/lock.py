"""A lock between processes: whoever works on something holds its file."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import BinaryIO

from .errors import BadInput, Problem

if sys.platform == "win32":
    import msvcrt

    _FAR_BYTE = 1 << 30
    """Windows lets nobody read a locked byte, so one far behind the text is locked."""

    def _lock(file: BinaryIO) -> None:
        file.seek(_FAR_BYTE)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(file: BinaryIO) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


class FileLock:
    """The right to work on something; the operating system takes it back from a dead process."""

    def __init__(self, path: Path, work: str = "working on this queue") -> None:
        """Takes nothing yet.

        Args:
            path: a file for the lock alone, which stays when the lock is given back.
            work: what its holder does, for the message to others.
        """
        self._path = path
        self._work = work
        self._file: BinaryIO | None = None

    @property
    def held(self) -> bool:
        return self._file is not None

    def acquire(self) -> None:
        """Takes the lock at once or not at all; taking it twice changes nothing.

        Raises:
            BadInput: somebody else, in this process or another, holds it; or the file cannot be
                made.
        """
        if self._file is not None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            what = f"cannot be made: {error.strerror or error}"
            cure = "check the folder and its permissions"
            raise BadInput([Problem(str(self._path), what, cure)]) from error
        file = os.fdopen(descriptor, "r+b")
        try:
            _lock(file)
        except OSError:
            file.seek(0)
            holder = file.read(20).decode("ascii", "replace").strip()
            file.close()
            who = f"process {holder}" if holder else "another process"
            cure = "let it finish or stop it there, then start again"
            raise BadInput(
                [Problem(str(self._path), f"{who} is already {self._work}", cure)]
            ) from None
        self._file = file
        with contextlib.suppress(OSError):  # on a full disk others are not told who it is
            file.seek(0)
            file.truncate()
            file.write(str(os.getpid()).encode("ascii"))
            file.flush()

    def release(self) -> None:
        """Gives the lock back; without one, changes nothing."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # what could not be written above
                self._file.close()
            self._file = None

    def __enter__(self) -> FileLock:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
