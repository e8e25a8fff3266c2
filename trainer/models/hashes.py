"""The digests of large files, computed once and remembered in a file."""

from __future__ import annotations

import logging
from pathlib import Path

from ..errors import BadInput
from ..settings.files import read_object, write_object
from .checkpoint import sha256

log = logging.getLogger(__name__)

MOST_FILES = 500
"""What is remembered; the file that was computed first is forgotten first."""


class HashCache:
    """SHA-256 of files; a file is taken to be the same as long as its size and time are."""

    def __init__(self, file: Path) -> None:
        """Args: file: where it is remembered; it need not exist."""
        self._file = file

    def sha256(self, path: Path) -> str:
        """Hex digest of the whole file."""
        key, facts = str(path.resolve()), path.stat()
        stamp = [facts.st_size, facts.st_mtime_ns]
        known = self._known()
        entry = known.get(key)
        if isinstance(entry, dict) and entry.get("stamp") == stamp:
            return str(entry.get("sha256"))
        digest = sha256(path)
        known.pop(key, None)
        known[key] = {"stamp": stamp, "sha256": digest}
        try:
            write_object(self._file, dict(list(known.items())[-MOST_FILES:]))
        except BadInput as error:  # the digest is right all the same
            log.warning("%s", error)
        return digest

    def _known(self) -> dict[str, object]:
        if not self._file.is_file():
            return {}
        try:
            return read_object(self._file)
        except BadInput as error:
            log.warning("%s; it is made anew", error)
            return {}
