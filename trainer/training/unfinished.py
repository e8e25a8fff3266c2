"""What a training that has not come to its end left on disk: which states, and whose they are.

Needs the standard library alone, so that a list of jobs can tell it without loading torch.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from pathlib import Path

from ..atomic import sweep

BEGINNING_FILE = "beginning.json"
"""What a run has drawn when it began; it lies beside the states."""
_STEM = r"state-(\d+)-(\d+)"
_FILE = re.compile(rf"{_STEM}\.safetensors")


def state_folder(log_dir: Path, name: str) -> Path:
    """Where the states of the training of a name lie."""
    return log_dir / "states" / name


def state_file(folder: Path, part: int, step: int) -> Path:
    """The state of a step of a pass."""
    return folder / f"state-{part}-{step:08d}.safetensors"


def state_files(folder: Path) -> list[Path]:
    """The states in a folder, oldest first; none where it cannot be looked into."""
    try:
        names = os.listdir(folder)  # noqa: PTH208 - Path.glob raises for some folders, not all
    except OSError:
        return []
    return sorted((folder / name for name in names if _FILE.fullmatch(name)), key=place)


def place(path: Path) -> tuple[int, ...]:
    """Part and step of a state, from its file's name."""
    return tuple(map(int, _FILE.fullmatch(path.name).groups()))  # type: ignore[union-attr]


def stopped_at(folder: Path) -> int | None:
    """The step of the newest state; None where there is none."""
    files = state_files(folder)
    return place(files[-1])[-1] if files else None


def owner_of(folder: Path) -> str | None:
    """Whose states lie in a folder; None where nothing is noted, as in older versions."""
    try:
        noted = json.loads((folder / BEGINNING_FILE).read_text("ascii"))
        return str(noted["owner"]) if noted["owner"] is not None else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def belongs(noted: str | None, owner: str) -> bool:
    """Whether a job may go on from states, by the owner that is noted with them.

    Args:
        owner: the job of a queue that asks; "" for whoever names the training himself, as on the
            command line: he knows what he wants.
    """
    return not owner or noted in (None, owner)


def clear(folder: Path) -> None:
    """Removes every state, the oldest first, and the folder when nothing else lies in it."""
    for path in (*state_files(folder), folder / BEGINNING_FILE):
        with contextlib.suppress(OSError):
            path.unlink()
    sweep(folder, re.compile(f"{_STEM}|{Path(BEGINNING_FILE).stem}"))
    with contextlib.suppress(OSError):
        folder.rmdir()
