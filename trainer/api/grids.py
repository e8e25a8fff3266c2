"""Grids of pictures: which there are, and what the next one would show."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import BadInput, Problem
from ..hosts.protocol import Host
from ..jobs.job import Job
from ..settings.files import parse_object
from ..settings.form import as_text
from ..settings.grid import GRID, PARAMETERS, GridSettings
from ..settings.groups import ModelSettings
from ..settings.names import GRID_FOLDER, GRID_SUFFIX, SETTINGS_KEY
from ..settings.values import shown
from .runs import check_run_name

COPY = re.compile(r"-step\d{8}|-\d{6}")
"""What a copy saved on the way has behind the run's name."""
CHOSEN_AT_FIRST = 5
"""Files of a run that are marked when the form opens: evenly over the run, and the last."""
TAKEN = {
    "size_px": "image_size_px",
    "seeds": "sample_seed",
    "denoise_steps": "sample_denoise_steps",
    "guidance": "sample_guidance",
}
"""A grid's parameters, and the training's parameters that they begin with."""


def grids(log_dir: Path) -> list[Path]:
    """The pictures that there are, the newest first."""
    folder = log_dir / GRID_FOLDER
    if not folder.is_dir():
        return []
    found = [path for path in folder.glob(f"*{GRID_SUFFIX}") if path.is_file()]
    return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)


def grid_file(log_dir: Path, name: str) -> Path:
    """A grid's picture.

    Raises:
        BadInput: the name is none, leaves the folder, or there is no such picture.
    """
    check_run_name(name)
    path = log_dir / GRID_FOLDER / f"{name}{GRID_SUFFIX}"
    if not path.is_file():
        raise BadInput([Problem("name", f"there is no grid {shown(name)}", "choose another")])
    return path


def proposal(host: Host, jobs: Sequence[Job], names: Sequence[str]) -> dict[str, object]:
    """What a grid of some runs would begin with.

    Args:
        jobs: the store's.
        names: of runs.

    Returns:
        {"files": [{"path", "name", "chosen"}], "settings": texts for the grid's fields}.

    Raises:
        BadInput: a name leaves its folder, or no run has a file left.
    """
    files: list[tuple[Path, bool]] = []
    settings: Mapping[str, object] = {}
    for name in names:
        check_run_name(name)
        mine = [job for job in jobs if job.name == name and job.method != GRID]
        saved = _saved(host.output_dir, name, [file for job in mine for file in job.files])
        files += [(path, i in _spread(len(saved), len(names))) for i, path in enumerate(saved)]
        if saved and not settings:
            settings = mine[-1].settings if mine else _noted(saved[-1])
    if not files:
        what = f"no LoRA file of {', '.join(names)} is left" if names else "no run is chosen"
        raise BadInput([Problem("loras", what, "choose a run whose files are there")])
    rows = [{"path": str(path), "name": path.stem, "chosen": chosen} for path, chosen in files]
    return {"files": rows, "settings": _values(settings, _free(host.log_dir, names[0]))}


def _saved(folder: Path, name: str, known: Sequence[Path]) -> list[Path]:
    """The files of a run that are there, in the order in which they were saved."""
    found = dict.fromkeys(path for path in known if path.suffix == ".safetensors")
    for path in {folder, *(path.parent for path in known)}:
        for file in path.glob("*.safetensors"):
            rest = file.stem.removeprefix(name)
            if file.stem.startswith(name) and (not rest or COPY.fullmatch(rest)):
                found[file] = None
    there = [path for path in found if path.is_file()]
    return sorted(there, key=lambda path: (path.stat().st_mtime, path.stem == name))


def _spread(count: int, runs: int) -> set[int]:
    """Which of so many files are chosen at first: the last, and some before it."""
    most = CHOSEN_AT_FIRST if runs == 1 else 1
    apart = max(1.0, count / most)
    return {count - 1 - round(i * apart) for i in range(min(count, most))}


def _noted(file: Path) -> dict[str, object]:
    """The settings that a file of ours carries, and the checkpoint's name; {} if it is damaged."""
    from safetensors import SafetensorError, safe_open  # type: ignore[attr-defined]

    try:
        with safe_open(str(file), "numpy") as opened:
            metadata = opened.metadata() or {}
    except (SafetensorError, OSError):  # which the grid says when it is drawn
        return {}
    text = metadata.get(SETTINGS_KEY)
    settings = dict(parse_object(text, SETTINGS_KEY)) if text else {}
    return {"checkpoint": metadata.get("ss_sd_model_name", ""), **settings}


def _values(settings: Mapping[str, object], name: str) -> dict[str, str]:
    """The grid's own defaults, and from the training what it says; as texts."""
    values: dict[str, object] = {
        key: one.default for key, one in PARAMETERS.items() if not one.required
    }
    model = {field.name for field in dataclasses.fields(ModelSettings)}
    values |= {key: value for key, value in settings.items() if key in model}
    values |= {ours: settings[theirs] for ours, theirs in TAKEN.items() if theirs in settings}
    candidates = ("sample_prompts", "original_prompt", "trigger_word")
    prompts = next((settings[key] for key in candidates if settings.get(key)), "")
    values |= {"prompts": prompts, "name": name}
    return {key: as_text(value) for key, value in values.items()}


def _free(log_dir: Path, run: str) -> str:
    """A name that no grid has yet."""
    taken, number = {path.stem for path in grids(log_dir)}, 1
    while f"{run}-grid-{number}" in taken:
        number += 1
    return f"{run}-grid-{number}"


def fields() -> list[dict[str, object]]:
    """What the page's scripts must know of a grid's own parameters."""
    own = {field.name for field in dataclasses.fields(GridSettings)}
    own -= {field.name for field in dataclasses.fields(ModelSettings)}
    return [
        {"key": key, "title": one.title, "help": one.help, "lines": one.multiline}
        for key, one in PARAMETERS.items()
        if key in own
    ]
