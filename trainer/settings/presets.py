"""Presets: parts of jobs as JSON files, shipped ones and a user's own.

A user's own presets live in a folder of their own, so that updating never touches them; one of the
same name as a shipped preset stands before it, and deleting it brings the shipped one back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..atomic import sweep_abandoned
from ..errors import BadInput, Problem
from ..paths import next_name
from .files import read_object, write_object
from .methods import METHODS
from .migrate import SETTINGS_VERSION, VERSION_KEY
from .names import check_name
from .schema import PARAMETERS, SECOND_PASS, check
from .traintrain import is_traintrain
from .values import BadValueError, is_blank, proposal, shown

SHIPPED = Path(__file__).resolve().parents[2] / "presets"
SUFFIX = ".json"


@dataclass(frozen=True)
class PresetName:
    """A preset in the list."""

    name: str
    own: bool
    """The user's own, which alone can be renamed and deleted."""


@dataclass(frozen=True)
class PresetStore:
    """The presets in two folders."""

    own: Path
    """The user's folder; it need not exist before the first preset is saved."""
    shipped: Path = SHIPPED

    def list(self) -> tuple[PresetName, ...]:
        """Every preset by name; of two with the same name the user's own."""
        shipped = dict.fromkeys(_names(self.shipped), False)
        found = shipped | dict.fromkeys(_names(self.own), True)
        ordered = sorted(found, key=lambda name: (name.casefold(), name))
        return tuple(PresetName(name, found[name]) for name in ordered)

    def load(self, name: str) -> dict[str, object]:
        """Read a preset: the values that it sets, checked and brought up to date.

        Raises:
            BadInput: there is no such preset, or its file is wrong (every problem at once).
        """
        return read_preset(self._find(name))

    def save(self, name: str, values: Mapping[str, object], *, overwrite: bool = False) -> Path:
        """Save a job or a part of one among the user's own presets.

        Raises:
            BadInput: the name is no file name or taken, a value is wrong, or the folder cannot
                be written.
        """
        path = self._own_path(name)
        kept, problems = check(_without_blanks(values))
        if path.exists() and not overwrite:
            problems = (*problems, self._taken(name))
        if problems:
            raise BadInput(problems)
        sweep_abandoned(self.own)
        write_object(path, {VERSION_KEY: SETTINGS_VERSION, **kept})
        return path

    def rename(self, old: str, new: str) -> None:
        """Rename one of the user's own presets.

        Raises:
            BadInput: it is not the user's own, or the new name is no file name or taken.
        """
        source, target = self._own_file(old), self._own_path(new)
        only_letter_case = target.exists() and target.samefile(source)
        if target.exists() and not only_letter_case:
            raise BadInput([self._taken(new)])
        try:
            source.rename(target)
        except OSError as error:
            raise _failed(source, "renamed", error) from error

    def _taken(self, name: str) -> Problem:
        free = next_name(name, lambda other: self._own_path(other).exists())
        cure = f"choose another name, for example {shown(free)}, or overwrite it"
        return Problem("preset", f"{shown(name)} exists already", cure)

    def delete(self, name: str) -> None:
        """Delete one of the user's own presets.

        Raises:
            BadInput: it is not the user's own.
        """
        path = self._own_file(name)
        try:
            path.unlink()
        except OSError as error:
            raise _failed(path, "deleted", error) from error

    def _own_path(self, name: str) -> Path:
        try:
            check_name(name)
        except BadValueError as refused:
            raise BadInput([Problem("preset", refused.what, refused.cure)]) from None
        return self.own / f"{name}{SUFFIX}"

    def _own_file(self, name: str) -> Path:
        path = self._own_path(name)
        if not path.is_file():
            shipped = name in _names(self.shipped)
            what = "belongs to Trainyard and stays" if shipped else "is no preset of yours"
            raise BadInput([Problem("preset", f"{shown(name)} {what}", "choose one of your own")])
        return path

    def _find(self, name: str) -> Path:
        path = self._own_path(name)
        for candidate in (path, self.shipped / path.name):
            if candidate.is_file():
                return candidate
        meant = proposal(name, [preset.name for preset in self.list()])
        cure = f"did you mean {shown(meant)}?" if meant else "choose one from the list"
        raise BadInput([Problem("preset", f"there is no preset {shown(name)}", cure)])


def read_preset(path: Path) -> dict[str, object]:
    """Read a preset from a file: the values that it sets, checked and brought up to date.

    Raises:
        BadInput: the file cannot be read or is wrong (every problem at once).
    """
    raw = read_object(path)
    if is_traintrain(raw):
        problem = Problem(str(path), "is a preset of TrainTrain", "import it instead")
        raise BadInput([problem])
    values, problems = check(_without_blanks(raw))
    if problems:
        # The file is what has to be corrected, so each problem names it before the parameter.
        raise BadInput([Problem(str(path), f"{p.where}: {p.what}", p.cure) for p in problems])
    return values


def apply(current: Mapping[str, object], preset: Mapping[str, object]) -> dict[str, object]:
    """A job with a preset's values in it; what the preset does not name stays.

    A required parameter, such as the checkpoint, is never blanked.  Values that the preset's method
    does not use are left out.
    """
    merged = {**current, **_without_blanks(preset)}
    method = merged.get("method")
    if method in METHODS and not METHODS[str(method)].second_pass:
        merged.pop(SECOND_PASS, None)
    return {
        name: value
        for name, value in merged.items()
        if method is None or name not in PARAMETERS or method in PARAMETERS[name].methods
    }


def _without_blanks(values: Mapping[str, object]) -> dict[str, object]:
    required = {name for name, one in PARAMETERS.items() if one.required}
    return {name: v for name, v in values.items() if name not in required or not is_blank(v)}


def _names(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    files = (path for path in folder.glob(f"*{SUFFIX}") if path.is_file())
    return [path.stem for path in files if not path.name.startswith(".")]


def _failed(path: Path, done: str, error: OSError) -> BadInput:
    what = f"cannot be {done}: {error.strerror or error}"
    return BadInput([Problem(str(path), what, "make its folder writable")])
