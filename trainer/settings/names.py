"""Names that become file names, and those under which files and folders keep things."""

from __future__ import annotations

import re

from ..paths import LONGEST_NAME_BYTES, shortened
from .values import BadValueError, shown

SETTINGS_KEY = "trainyard_settings"
"""In a LoRA file's metadata: the job's settings as JSON, so that the tab can take them from it."""
GRID_FOLDER, GRID_SUFFIX = "grids", ".png"
"""Where grids lie among the logs."""
RESERVED_CHARACTERS = '<>:"|?*/\\'
RESERVED_ON_WINDOWS = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE)


def check_name(name: str) -> None:
    """Check that a name is one plain file name on every system, and stays in its folder.

    Raises:
        BadValueError: it is empty, leaves the folder, is hidden, or is no name on some system.
    """
    if not name.strip():
        raise BadValueError("is empty", "give it a name")
    cure = f"use a plain name, for example {shown(_tamed(name))}"
    if "/" in name or "\\" in name:
        raise BadValueError(f"{shown(name)} contains a folder separator", cure)
    if ".." in name:
        raise BadValueError(f'{shown(name)} contains ".."', cure)
    if name.startswith("."):
        raise BadValueError(f"{shown(name)} begins with a dot", cure)
    if name != name.strip() or name.endswith("."):
        raise BadValueError(f"{shown(name)} begins or ends with a space or a dot", cure)
    odd = sorted({c for c in name if c in RESERVED_CHARACTERS or not c.isprintable()})
    if odd:
        raise BadValueError(f"{shown(name)} contains {' '.join(shown(c) for c in odd)}", cure)
    if RESERVED_ON_WINDOWS.fullmatch(name):
        raise BadValueError(f"{shown(name)} is reserved by Windows", cure)
    if shortened(name) != name:
        raise BadValueError(f"{shown(name)} is longer than {LONGEST_NAME_BYTES} bytes", cure)


def _tamed(name: str) -> str:
    """The nearest name that passes: what the user probably wanted."""
    last = re.split(r"[/\\]", name.rstrip("/\\"))[-1]
    kept = "".join(c for c in last if c.isprintable() and c not in RESERVED_CHARACTERS)
    kept = re.sub(r"\.{2,}", ".", kept).strip(". ")
    kept = shortened(kept).strip(". ")
    return f"my {kept or 'LoRA'}" if not kept or RESERVED_ON_WINDOWS.fullmatch(kept) else kept
