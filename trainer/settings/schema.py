"""From the declarations to a checked job, and back to JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ..errors import BadInput, Problem
from .checks import broken_rules
from .fields import Parameter, declared, parameter
from .groups import GROUPS, CopierSettings, TrainingSettings
from .methods import METHODS
from .migrate import SETTINGS_VERSION, VERSION_KEY, migrate
from .values import (
    BadValueError,
    Value,
    as_json,
    is_blank,
    listed,
    proposal,
    read_choice,
    shown,
)

__all__ = [
    "PARAMETERS",
    "SECOND_PASS",
    "JobSettings",
    "Parameter",
    "check",
    "default_of",
    "in_second_pass",
    "listing",
    "ours",
    "parameter",
    "parameters_of",
    "parse",
    "second_pass_of",
]

Group = TypeVar("Group")

SECOND_PASS = "second_pass"
"""Key of the object, and of names such as `second_pass.rank`, with a second pass's own values."""


def _all_parameters() -> dict[str, Parameter]:
    found: dict[str, Parameter] = {}
    for group, settings in GROUPS.items():
        methods = tuple(name for name, info in METHODS.items() if info.uses(settings))
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


def default_of(one: Parameter, method: str) -> Value:
    """A parameter's default in a method: its own, unless the method has another."""
    return METHODS[method].defaults.get(one.name, one.default)


def in_second_pass(one: Parameter, method: str) -> bool:
    """Whether a second pass of the method may have a value of its own."""
    return GROUPS[one.group] in METHODS[method].second_pass and not one.whole_run


def _of_every_method() -> tuple[Parameter, ...]:
    return tuple(one for one in PARAMETERS.values() if len(one.methods) == len(METHODS))


@dataclass(frozen=True)
class JobSettings:
    """A job whose every value has been checked; made by `parse`."""

    method: str
    values: Mapping[str, Value]
    """Flat and as they were set: an inheriting parameter that was left empty is None here."""
    second: Mapping[str, Value] = field(default_factory=dict)
    """What was set for the second pass; the rest it has from `values`."""

    def __getitem__(self, group: type[Group]) -> Group:
        """The values of one group, inherited ones filled in.

        Raises:
            KeyError: the method does not use the group.
        """
        if not METHODS[self.method].uses(group):
            raise KeyError(f"{self.method} does not use {group.__name__}")
        fields: Sequence[dataclasses.Field[Any]] = dataclasses.fields(group)  # type: ignore[arg-type]
        return group(**{field.name: inherited(field.name, self.values) for field in fields})

    def get(self, group: type[Group]) -> Group:
        """The values of one group, or its defaults where the method does not use it."""
        return self[group] if METHODS[self.method].uses(group) else group()

    def as_dict(self) -> dict[str, object]:
        """As one flat JSON object, which `parse` reads back to an equal job."""
        values = {name: as_json(value) for name, value in self.values.items()}
        second = {name: as_json(value) for name, value in self.second.items()}
        nested = {SECOND_PASS: second} if second else {}
        return {VERSION_KEY: SETTINGS_VERSION, "method": self.method, **values, **nested}

    def for_second_pass(self) -> JobSettings:
        """The job as its second pass sees it; itself where nothing was set for that."""
        return JobSettings(self.method, {**self.values, **self.second})

    def passes(self) -> tuple[JobSettings, ...]:
        """The settings of each pass that is trained; the last one's network is the result."""
        if not METHODS[self.method].uses(CopierSettings):
            return (self,)
        copier = self[CopierSettings]
        first = () if copier.copier_file else (self,)
        return first if copier.copier_only else (*first, self.for_second_pass())

    @property
    def steps_of_all_passes(self) -> int:
        """The optimizer updates that the whole job makes."""
        return sum(one[TrainingSettings].steps for one in self.passes())

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
        raw: flat; `method` and parameters by name. What is left out has its default. Values of a
            second pass lie in an object `second_pass`, or are named `second_pass.rank` and so on.

    Raises:
        BadInput: every problem at once: unknown names, missing and wrong values, values that do
            not go together.
    """
    raw, again = _passes(raw)
    method, given, problems = _read(raw)
    wrong = {problem.where for problem in problems}
    values: dict[str, Value] = {}
    for one in parameters_of(method) if method else _of_every_method():
        if one.name in given:
            values[one.name] = given[one.name]
        elif one.required and one.name not in wrong:
            problems.append(one.problem(None) or Problem(one.name, "is missing"))
        elif one.name not in wrong:
            values[one.name] = default_of(one, method) if method else one.default
    problems += broken_rules(values)
    second, more = _read_second(method, again, values)
    if problems or more:
        raise BadInput(problems + more)
    return JobSettings(method, values, second)


def check(raw: Mapping[str, object]) -> tuple[dict[str, object], tuple[Problem, ...]]:
    """Read a part of a job, such as a preset: nothing is required and no default filled in.

    Returns:
        The usable values as JSON, and the problems of the rest.
    """
    raw, again = _passes(raw)
    method, given, problems = _read(raw, partial=True)
    second, more = _read_second(method, again, given)
    values = {name: as_json(value) for name, value in given.items()}
    if second:
        values[SECOND_PASS] = {name: as_json(value) for name, value in second.items()}
    found = (*problems, *broken_rules(given), *more)
    return ({"method": method} if method else {}) | values, found


def second_pass_of(settings: Mapping[str, object]) -> Mapping[str, object]:
    """What settings, as JSON values, have for a second pass alone."""
    own = settings.get(SECOND_PASS)
    return own if isinstance(own, Mapping) else {}


def _passes(raw: Mapping[str, object]) -> tuple[dict[str, object], dict[str, object]]:
    """What is given for the whole job, and what for its second pass alone."""
    first = {name: value for name, value in raw.items() if name != SECOND_PASS}
    nested = raw.get(SECOND_PASS)
    if nested is not None and not isinstance(nested, Mapping):
        first[SECOND_PASS] = nested  # which is refused as unknown
    second = dict(second_pass_of(raw))
    for name in [name for name in first if name.startswith(f"{SECOND_PASS}.")]:
        second[name.partition(".")[2]] = first.pop(name)
    return first, second


def _read_second(
    method: str, raw: Mapping[str, object], first: Mapping[str, Value]
) -> tuple[dict[str, Value], list[Problem]]:
    """The values of a second pass that are right, and the problems of the others."""
    raw = {name: value for name, value in raw.items() if not _inherits(name, value)}
    if method and raw and not METHODS[method].second_pass:
        return {}, [Problem(SECOND_PASS, f"{METHODS[method].title} has one pass", "remove it")]
    values: dict[str, Value] = {}
    problems = []
    for name, value in raw.items():
        one = PARAMETERS.get(name)
        if one is None or (method and method not in one.methods):
            problems.append(_unknown(name, method))
            continue
        try:
            given = one.read(value)
        except BadValueError as refused:
            problems.append(Problem(name, refused.what, refused.cure))
            continue
        if not method or in_second_pass(one, method):
            values[name] = given
        elif given != first.get(name, default_of(one, method)):
            cure = f"remove it here; {name} of the job holds for both"
            problems.append(Problem(name, "is the same in both passes", cure))
    if values:
        known = broken_rules(first)
        problems += [p for p in broken_rules({**first, **values}) if p not in known]
    return values, [Problem(f"{SECOND_PASS}.{p.where}", p.what, p.cure) for p in problems]


def _inherits(name: str, value: object) -> bool:
    """Whether a field of the second pass was left empty, which for a text needs a null."""
    text = name in PARAMETERS and PARAMETERS[name].kind == "text"
    return value is None or (is_blank(value) and not text)


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
    return Problem(name if name.strip() and name.isprintable() else shown(name), "unknown", cure)


def listing() -> list[dict[str, object]]:
    """Every parameter as JSON values, for `python -m trainer schema`, forms and other tools."""
    rows = []
    for one in PARAMETERS.values():
        row = {f.name: getattr(one, f.name) for f in dataclasses.fields(one)}
        row["type"] = row.pop("kind")
        del row["check"], row["cure"], row["whole_run"]
        row["defaults"] = {
            method: as_json(METHODS[method].defaults[one.name])
            for method in one.methods
            if one.name in METHODS[method].defaults
        }
        row["second_pass"] = any(in_second_pass(one, m) for m in one.methods)
        rows.append({k: as_json(v) if isinstance(v, tuple) else v for k, v in row.items()})
    return rows
