"""A lock between processes: whoever works on something holds its file."""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import sys
import time
from pathlib import Path
from typing import BinaryIO

from .errors import BadInput, Problem

log = logging.getLogger(__name__)

SWEEP_S = 0.05
"""A sweep holds the file of a dead process for less time than this."""

if sys.platform == "win32":
    import msvcrt

    _FAR_BYTE = 1 << 30
    """Windows lets nobody read a locked byte, so one far behind the text is locked."""

    def _lock(file: BinaryIO) -> None:
        file.seek(_FAR_BYTE)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)

    def _give_back(file: BinaryIO, path: Path) -> None:
        file.close()
        path.unlink()  # refused where somebody else has opened it by now

else:
    import fcntl

    def _lock(file: BinaryIO) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _give_back(file: BinaryIO, path: Path) -> None:
        with file:  # removed while it is locked, so that it is nobody else's yet
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                path.unlink()


class FileLock:
    """The right to work on something; the operating system takes it back from a dead process."""

    def __init__(
        self,
        path: Path,
        work: str = "working on this queue",
        cure: str = "let it finish or stop it there, then start again",
    ) -> None:
        """Takes nothing yet.

        Args:
            path: a file for the lock alone, which goes when the lock is given back.
            work: what its holder does, for the message to others.
            cure: what others can do, for the same.
        """
        self._path = path
        self._work = work
        self._cure = cure
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
        file = self._locked()
        while self._was_removed(file):
            file.close()  # by its former holder, after it was opened here
            file = self._locked()
        self._file = file
        with contextlib.suppress(OSError):  # on a full disk others are not told who it is
            file.seek(0)
            file.truncate()
            file.write(f"{os.getpid()} {platform.node()}".encode())
            file.flush()

    def release(self) -> None:
        """Gives the lock back; without one, changes nothing."""
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):  # also what could not be written above
                _give_back(file, self._path)

    def _was_removed(self, file: BinaryIO) -> bool:
        """Whether the file has no name any more, so that others lock another one in its place."""
        held = os.fstat(file.fileno())
        if held.st_nlink:
            return False
        try:
            return not os.path.samestat(held, self._path.stat())
        except FileNotFoundError:
            return True

    def _locked(self) -> BinaryIO:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            file = os.fdopen(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
        except OSError as error:
            what = f"cannot be made: {error.strerror or error}"
            cure = "check the folder and its permissions"
            raise BadInput([Problem(str(self._path), what, cure)]) from error
        try:
            _lock_in_a_moment(file)
        except (BlockingIOError, PermissionError):
            with file:
                what = f"{_holder(file)} is already {self._work}"
            raise BadInput([Problem(str(self._path), what, self._cure)]) from None
        except OSError as error:  # some network drives
            reason = error.strerror or error
            log.warning(
                "%s: this drive has no locks (%s); let one program at a time use it",
                self._path,
                reason,
            )
        return file

    def __enter__(self) -> FileLock:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def sweep_locks(folder: Path) -> None:
    """Removes the files of locks whose holders on this machine have died.

    Each is removed while it is locked, as in `FileLock.release`: whoever has opened it by then
    finds that it has no name any more.
    """
    for path in folder.glob(".*.lock") if folder.is_dir() else ():
        with contextlib.suppress(OSError), path.open("r+b") as file:
            _lock(file)  # fails where somebody holds it, and where the drive has no locks
            process, machine = _note(file)
            if process.isdecimal() and machine == platform.node():
                _give_back(file, path)


def _lock_in_a_moment(file: BinaryIO) -> None:
    """Tries again once, because a sweep may have had the file of a dead process."""
    try:
        _lock(file)
    except (BlockingIOError, PermissionError):
        time.sleep(SWEEP_S)
        _lock(file)


def _note(file: BinaryIO) -> tuple[str, str]:
    """Process and machine of the holder; empty where it could not write."""
    file.seek(0)
    process, _, machine = file.read().decode("utf-8", "replace").partition(" ")
    return process, machine


def _holder(file: BinaryIO) -> str:
    """Who holds a lock, by what it wrote into the file."""
    process, machine = _note(file)
    if not process:
        return "another process"
    return f"process {process}" + (f" on {machine}" if machine != platform.node() else "")
