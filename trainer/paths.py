"""Paths as users write them; whatever stands there, asking about it raises nothing."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

LONGEST_NAME_BYTES = 180
"""Of a file; leaves room for `-step00001000.safetensors` and a temporary suffix in 255 bytes."""


def user_path(text: str) -> Path:
    """A path with its leading `~` replaced by the home folder, if there is such a home."""
    path = Path(unquoted(text))
    try:
        return path.expanduser()
    except RuntimeError:  # ~ and a name that nobody here has
        return path


def unquoted(text: str) -> str:
    """A path without the quotes that Windows, and many a terminal, copies around it."""
    text = text.strip()
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "\"'"
    return text[1:-1] if quoted else text.strip('"')


def is_file(path: Path) -> bool:
    """Whether there is such a file; also false where the system cannot say."""
    return os.path.isfile(path)  # noqa: PTH113 - that of Path raises at names that are too long


def is_folder(path: Path) -> bool:
    """Whether there is such a folder; also false where the system cannot say."""
    return os.path.isdir(path)  # noqa: PTH112


def is_there(path: Path) -> bool:
    """Whether there is anything; also false where the system cannot say."""
    return os.path.exists(path)  # noqa: PTH110


def next_name(name: str, is_taken: Callable[[str], bool]) -> str:
    """`name` with the first number behind it that is not taken: hat-2, hat-3, ...

    A number that it already ends with is counted on: after hat-2 comes hat-3. Where that would be
    too long for a file, the name before it is cut.
    """
    counted = re.fullmatch(r"(.+)-(\d+)", name)
    stem, number = (counted[1], int(counted[2])) if counted else (name, 1)

    def numbered(number: int) -> str:
        behind = f"-{number}"
        return shortened(stem, LONGEST_NAME_BYTES - len(behind)) + behind

    while is_taken(numbered(number + 1)):
        number += 1
    return numbered(number + 1)


def shortened(name: str, most_bytes: int = LONGEST_NAME_BYTES) -> str:
    """The name without the letters at its end that go beyond so many bytes in UTF-8."""
    name = name[:most_bytes]  # none takes less than a byte
    while len(name.encode("utf-8", "surrogatepass")) > most_bytes:
        name = name[:-1]
    return name


def as_unicode(text: str) -> str:
    """A text that can be written as UTF-8: a file's name need not be Unicode."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
