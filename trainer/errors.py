"""Typed errors.  Whatever a user can cause derives from `TrainyardError`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class TrainyardError(Exception):
    """An error whose message is meant for the user."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with what the user gave: where, what, and the cure.

    Attributes:
        where: the parameter's name, or the file's path.
        instead: a value for the parameter with which this would not be wrong.
    """

    where: str
    what: str
    cure: str = ""
    instead: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" + (f" - {self.cure}" if self.cure else "")


class BadInput(TrainyardError):
    """What the user gave cannot be used; carries every problem at once."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


class MissingDependency(BadInput):
    """A package that is needed for what the user chose is not installed."""

    def __init__(self, package: str, purpose: str, *, where: str = "", versions: str = "") -> None:
        """Args: where: the parameter that chose it. versions: those to install, as pip wants it."""
        wanted = f'"{package}{versions}"' if versions else package
        what = f"needs the package {package}, which is not installed"
        if where:
            what = f"{purpose} {what}"
        super().__init__([Problem(where or purpose, what, f"run: pip install {wanted}")])
        self.package = package


class Stopped(TrainyardError):
    """The user ended the job before its first step; there is nothing to save."""

    def __init__(self) -> None:
        super().__init__("stopped before the first step; nothing was saved")
