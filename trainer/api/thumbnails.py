"""Small pictures for the page, of files that a form named; no other file can be asked for."""

from __future__ import annotations

import io
import secrets
import threading
from collections import OrderedDict
from pathlib import Path

from ..errors import BadInput, Problem

SIDE_PX = 192
KEPT = 2000
JPEG_QUALITY = 82
MOST_STARTS = 10**14
"""Where the numbers may begin; they stay within what a page and an address take."""


class Thumbnails:
    """Gives each file a number, and its picture by that number."""

    def __init__(self) -> None:
        self._ids: dict[tuple[Path, float], int] = {}
        self._paths: OrderedDict[int, Path] = OrderedDict()
        self._made: OrderedDict[int, bytes] = OrderedDict()
        # Not from 1: a browser keeps the pictures that it got by numbers of an earlier start.
        self._next = 1 + secrets.randbelow(MOST_STARTS)
        self._guard = threading.Lock()

    def identify(self, path: Path) -> int:
        """The number of a file; another one when the file has changed."""
        try:
            key = (path, path.stat().st_mtime)
        except OSError:
            key = (path, 0.0)
        with self._guard:
            if key not in self._ids:
                self._ids[key] = self._next
                self._paths[self._next] = path
                self._next += 1
                if len(self._paths) > KEPT:
                    gone, _ = self._paths.popitem(last=False)
                    self._ids = {k: number for k, number in self._ids.items() if number != gone}
                    self._made.pop(gone, None)
            return self._ids[key]

    def jpeg(self, number: int) -> bytes:
        """The file's picture as a JPEG of at most 192 px a side.

        Raises:
            BadInput: no form named such a file lately, or it cannot be decoded.
        """
        with self._guard:
            path, made = self._paths.get(number), self._made.get(number)
        if made is not None:
            return made
        if path is None:
            raise BadInput([Problem("thumbnail", "is not known", "look at the folder again")])
        from ..data.images import read_picture

        small = read_picture(path).rgb
        small.thumbnail((SIDE_PX, SIDE_PX))
        buffer = io.BytesIO()
        small.save(buffer, "JPEG", quality=JPEG_QUALITY)
        with self._guard:
            self._made[number] = buffer.getvalue()
        return buffer.getvalue()
