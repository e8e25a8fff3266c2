"""Files that are there whole or not at all, whatever ends the program while they are written."""

from __future__ import annotations

import contextlib
import os
import re
import time
import uuid
from pathlib import Path

_LEFT_OVER = re.compile(r"\.(?P<stem>.+)\.[0-9a-f]{32}\.tmp", re.DOTALL)

ABANDONED_S = 3600.0
"""A file that is being written for longer belongs to a program that was killed."""


def write_bytes(path: Path, data: bytes) -> None:
    """Puts a file in its place in one move, after its content has reached the disk.

    A folder that is missing, or was removed meanwhile, is made.

    Raises:
        OSError: it cannot be written, and it names the file; one that was there before is as it
            was.
    """
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        if isinstance(error, OSError):
            error.filename = str(path)  # a full disk says nothing of what it was full for
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    _sync_folder(path.parent)


def sweep(folder: Path, stems: re.Pattern[str], *, older_than_s: float = 0.0) -> None:
    """Removes what a program that was killed left behind of files with such stems.

    Args:
        older_than_s: younger ones stay, where another process may be writing just now.
    """
    for path in folder.glob(".*.tmp") if folder.is_dir() else ():
        left = _LEFT_OVER.fullmatch(path.name)
        if left is not None and stems.fullmatch(left["stem"]):
            with contextlib.suppress(OSError):
                if not older_than_s or time.time() - path.stat().st_mtime > older_than_s:
                    path.unlink()


def sweep_abandoned(folder: Path) -> None:
    """Removes what was left long ago, whatever it was to become."""
    sweep(folder, re.compile(".+", re.DOTALL), older_than_s=ABANDONED_S)


def _sync_folder(folder: Path) -> None:
    """Lets the move itself reach the disk; Windows cannot open folders and needs no such thing."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
