"""From the declarations to a checked job, and back to JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from ..errors import BadInput, Problem
from .checks import broken_rules
from .fields import Parameter, declared, parameter
from .groups import GROUPS
from .methods import METHODS
from .migrate import SETTINGS_VERSION, VERSION_KEY, migrate
from .values import BadValueError, Value, as_json, listed, proposal, read_choice, shown

__all__ = [
    "PARAMETERS",
    "JobSettings",
    "Parameter",
    "check",
    "listing",
    "ours",
    "parameter",
    "parameters_of",
    "parse",
]

Group = TypeVar("Group")


def _all_parameters() -> dict[str, Parameter]:
    found: dict[str, Parameter] = {}
    for group, settings in GROUPS.items():
        methods = tuple(name for name, info in METHODS.items() if settings in info.groups)
        for one in declared(settings, group):
            found[one.name] = dataclasses.replace(one, methods=methods)
    return found


PARAMETERS: dict[str, Parameter] = _all_parameters()
"""Every parameter by its name, in the order of the groups."""

ALIASES: dict[str, str] = {
    "mode": "method",
    **{alias: one.name for one in PARAMETERS.values() for alias in one.aliases},
}
"""Names in other tools' files, to ours."""


def parameters_of(method: str) -> tuple[Parameter, ...]:
    """The parameters that a method uses, in the order of the groups."""
    return tuple(one for one in PARAMETERS.values() if method in one.methods)


@dataclass(frozen=True)
class JobSettings:
    """A job whose every value has been checked; made by `parse`."""

    method: str
    values: Mapping[str, Value]
    """Flat and as they were set: an inheriting parameter that was left empty is None here."""

    def __getitem__(self, group: type[Group]) -> Group:
        """The values of one group, inherited ones filled in.

        Raises:
            KeyError: the method does not use the group.
        """
        if group not in METHODS[self.method].groups:
            raise KeyError(f"{self.method} does not use {group.__name__}")
        fields: Sequence[dataclasses.Field[Any]] = dataclasses.fields(group)  # type: ignore[arg-type]
        return group(**{field.name: inherited(field.name, self.values) for field in fields})

    def as_dict(self) -> dict[str, object]:
        """As one flat JSON object, which `parse` reads back to an equal job."""
        values = {name: as_json(value) for name, value in self.values.items()}
        return {VERSION_KEY: SETTINGS_VERSION, "method": self.method, **values}

    def replace(self, **values: object) -> JobSettings:
        """The same job with some values changed.

        Raises:
            BadInput: a value is wrong, or is no parameter of the method.
        """
        return parse({**self.as_dict(), **values})


def inherited(name: str, values: Mapping[str, Value]) -> Value:
    """A parameter's value, or while it is empty that of the parameter it inherits from."""
    value = values[name]
    if value is None and PARAMETERS[name].inherits:
        return inherited(PARAMETERS[name].inherits, values)
    return value


def parse(raw: Mapping[str, object]) -> JobSettings:
    """Read a job from JSON values.

    Args:
        raw: flat; `method` and parameters by name. What is left out has its default.

    Raises:
        BadInput: every problem at once: unknown names, missing and wrong values, values that do
            not go together.
    """
    method, given, problems = _read(raw)
    wrong = {problem.where for problem in problems}
    values: dict[str, Value] = {}
    for one in parameters_of(method) if method else PARAMETERS.values():
        if one.name in given:
            values[one.name] = given[one.name]
        elif one.required and one.name not in wrong:
            problems.append(one.problem(None) or Problem(one.name, "is missing"))
        elif one.name not in wrong:
            values[one.name] = one.default
    problems += broken_rules(values)
    if problems:
        raise BadInput(problems)
    return JobSettings(method, values)


def check(raw: Mapping[str, object]) -> tuple[dict[str, object], tuple[Problem, ...]]:
    """Read a part of a job, such as a preset: nothing is required and no default filled in.

    Returns:
        The usable values as JSON, and the problems of the rest.
    """
    method, given, problems = _read(raw, partial=True)
    values = {name: as_json(value) for name, value in given.items()}
    return ({"method": method} if method else {}) | values, (*problems, *broken_rules(given))


def _read(
    raw: Mapping[str, object], *, partial: bool = False
) -> tuple[str, dict[str, Value], list[Problem]]:
    """The method (empty if unknown), the values that are right, and the problems of the others."""
    raw, problems = migrate(raw)
    method = ""
    if "method" in raw or not partial:
        try:
            method = _method(raw.get("method"))
        except BadValueError as refused:
            problems.append(Problem("method", refused.what, refused.cure))
    values: dict[str, Value] = {}
    for name, value in raw.items():
        one = PARAMETERS.get(name)
        if one is None or (method and method not in one.methods):
            if name != "method":
                problems.append(_unknown(name, method))
            continue
        try:
            values[name] = one.read(value)
        except BadValueError as refused:
            problems.append(Problem(name, refused.what, refused.cure))
    return method, values, problems


def _method(raw: object) -> str:
    if raw is None or raw == "":
        raise BadValueError("is missing", f"choose {listed(tuple(METHODS))}")
    return read_choice(raw, tuple(METHODS))


def ours(foreign: str) -> str:
    """Our name for a parameter's name in another tool's file, or an empty text.

    Remarks in brackets, as in TrainTrain's `image_size(height, width)`, do not count.
    """
    plain = foreign.partition("(")[0].strip()
    return plain if plain in PARAMETERS else ALIASES.get(plain, "")


def _unknown(name: str, method: str) -> Problem:
    if name in PARAMETERS:
        others = listed(PARAMETERS[name].methods)
        return Problem(name, f"is no parameter of {method}, only of {others}", "remove it")
    known = ("method", *(one.name for one in PARAMETERS.values()))
    meant = ours(name) or proposal(name, known) or ours(proposal(name, tuple(ALIASES)))
    cure = f"did you mean {meant}?" if meant else "remove it"
    return Problem(name if name.isprintable() else shown(name), "unknown", cure)


def listing() -> list[dict[str, object]]:
    """Every parameter as JSON values, for `python -m trainer schema`, forms and other tools."""
    rows = []
    for one in PARAMETERS.values():
        row = {f.name: getattr(one, f.name) for f in dataclasses.fields(one)}
        row["type"] = row.pop("kind")
        del row["check"], row["cure"]
        rows.append({key: as_json(value) for key, value in row.items()})
    return rows
