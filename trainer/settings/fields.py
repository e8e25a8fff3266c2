"""One declaration per parameter, as the metadata of a dataclass field."""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import Problem
from .values import (
    BadValueError,
    Value,
    is_blank,
    read_bool,
    read_choice,
    read_choices,
    read_float,
    read_int,
    read_size,
    read_text,
    shown,
)

Check = Callable[[typing.Any], object]
"""A rule of one parameter beyond its bounds; raises `BadValueError`, whatever else it returns."""

SECTIONS = ("what", "how", "more")
"""What to learn; the few numbers that matter most; everything else."""
PICKS = ("", "folder", "picture", "checkpoint", "vae", "lora", "prompt")
UNITS_IN_NAMES = ("px", "steps", "s", "mb")
PLAIN_KINDS = {int: "int", float: "float", bool: "bool"}


@dataclass(frozen=True)
class Parameter:
    """One parameter as it was declared: what a form, a command line or a table needs of it."""

    name: str
    kind: str
    """int, float, bool, text, choice, choices (several of them) or size (height, width)."""
    default: Value
    """None for a required parameter, and for one that inherits."""
    help: str
    title: str
    required: bool = False
    optional: bool = False
    """May be left empty (None)."""
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    multiple_of: int | None = None
    unit: str = ""
    aliases: tuple[str, ...] = ()
    """Its names in TrainTrain and kohya files: proposed in messages, used by the importers."""
    inherits: str = ""
    """The parameter whose value it takes while it is left empty."""
    cure: str = ""
    """What to do about a value that is missing or out of bounds, where that is not plain."""
    multiline: bool = False
    check: Check | None = None
    section: str = ""
    """Where a form shows it: one of `SECTIONS`."""
    picks: str = ""
    """What a form offers to choose from, where that is more than text: one of `PICKS`."""
    only_with: tuple[str, ...] = ()
    """Another parameter, and the values of it under which this one has an effect; without values,
    whenever that one is set (neither empty nor off nor 0). Empty: always."""
    whole_run: bool = False
    """A second pass has no value of its own, whatever it has of the group."""
    group: str = ""
    methods: tuple[str, ...] = ()

    def read(self, raw: object) -> Value:
        """Turn a value from JSON or text into this parameter's type and check it.

        Raises:
            BadValueError: the value cannot be used.
        """
        if self.optional and is_blank(raw):
            return None
        if self.required and is_blank(raw):
            raise BadValueError("is missing", self.cure or "give it")
        value = self._typed(raw)
        for number in value if self.kind == "size" else (value,):  # type: ignore[union-attr]
            if isinstance(number, int | float):
                self._check_bounds(raw, number)
        if self.check is not None:
            self.check(value)
        return value

    def problem(self, raw: object) -> Problem | None:
        """What is wrong with a value, for marking a field while it is typed."""
        try:
            self.read(raw)
        except BadValueError as refused:
            return Problem(self.name, refused.what, refused.cure)
        return None

    def _typed(self, raw: object) -> Value:
        if self.kind == "choice":
            return read_choice(raw, self.choices)
        if self.kind == "choices":
            return read_choices(raw, self.choices)
        if self.kind == "text":
            return read_text(raw, multiline=self.multiline)
        readers: dict[str, Callable[[object], Value]] = {
            "int": read_int,
            "float": read_float,
            "bool": read_bool,
            "size": read_size,
        }
        return readers[self.kind](raw)

    def _check_bounds(self, raw: object, number: float) -> None:
        if self.minimum is not None and number < self.minimum:
            what = f"{shown(raw)} is below the smallest value {_plain(self.minimum)}"
            raise BadValueError(what, self.cure or f"use {self.bounds()}")
        if self.maximum is not None and number > self.maximum:
            what = f"{shown(raw)} is above the largest value {_plain(self.maximum)}"
            raise BadValueError(what, self.cure or f"use {self.bounds()}")
        if self.multiple_of and number % self.multiple_of:
            nearest = max(self.multiple_of, round(number / self.multiple_of) * self.multiple_of)
            what = f"{shown(raw)} is not a multiple of {self.multiple_of}"
            raise BadValueError(what, f"use {nearest} (multiples of 64 suit every model best)")

    def bounds(self) -> str:
        """The range as words: "1 to 1024", "0 or more", or an empty text."""
        if self.minimum is not None and self.maximum is not None:
            return f"{_plain(self.minimum)} to {_plain(self.maximum)}"
        if self.minimum is not None:
            return f"{_plain(self.minimum)} or more"
        return f"at most {_plain(self.maximum)}" if self.maximum is not None else ""


def parameter(
    default: object = dataclasses.MISSING,
    *,
    help: str,  # noqa: A002 - the field's own word for it
    title: str = "",
    choices: tuple[str, ...] = (),
    minimum: float | None = None,
    maximum: float | None = None,
    multiple_of: int | None = None,
    unit: str = "",
    aliases: tuple[str, ...] = (),
    inherits: str = "",
    cure: str = "",
    multiline: bool = False,
    check: Check | None = None,
    section: str = "",
    picks: str = "",
    only_with: tuple[str, ...] = (),
    whole_run: bool = False,
) -> typing.Any:
    """Declare a parameter; without a default it is required.

    Args:
        default: the value used when none is given.
        help: what it does, when to change it, usual values; for an artist.
        title: its label, where the name in words would not do.
        choices: the values that are allowed.
        minimum: smallest value, inclusive; of each side for a size.
        maximum: largest value, inclusive.
        multiple_of: the value (each side of a size) must be divisible by it.
        unit: the value's unit.
        aliases: its names in TrainTrain and kohya files.
        inherits: name of the parameter whose value is used while this one is empty.
        cure: what to do about a value that is missing or out of bounds.
        multiline: the text may have several lines.
        check: a further rule; raises `BadValueError`.
        section: where a form shows it, one of `SECTIONS`; required ones belong to what to learn,
            all others to more.
        picks: what a form offers to choose from, one of `PICKS`.
        only_with: another parameter and the values of it under which this one has an effect, such
            as ("mask", "drawn"); the name alone: whenever that one is set. A form shows it then.
        whole_run: a second pass has no value of its own.
    """
    facts = {name: value for name, value in locals().items() if name != "default"}
    facts["section"] = section or ("what" if default is dataclasses.MISSING else "more")
    if facts["section"] not in SECTIONS or picks not in PICKS:
        raise ValueError(f"no such section or pick: {section!r}, {picks!r}")
    return dataclasses.field(default=default, metadata={"parameter": facts})


def declared(settings: type, group: str) -> tuple[Parameter, ...]:
    """Read back the parameters that a group's dataclass itself declares, in their order."""
    hints = typing.get_type_hints(settings)
    own = inspect.get_annotations(settings)
    found = []
    for field in dataclasses.fields(settings):
        if field.name not in own:
            continue
        facts = dict(field.metadata["parameter"])
        required = field.default is dataclasses.MISSING
        kind, optional = _kind(hints[field.name], bool(facts["choices"]))
        facts["title"] = facts["title"] or _title(field.name)
        found.append(
            Parameter(
                name=field.name,
                kind=kind,
                default=typing.cast(Value, None if required else field.default),
                required=required,
                optional=optional,
                group=group,
                **facts,
            )
        )
    return tuple(found)


def _kind(hint: object, has_choices: bool) -> tuple[str, bool]:
    """The kind that a field's annotation stands for, and whether it may be None."""
    optional = isinstance(hint, types.UnionType)
    if isinstance(hint, types.UnionType):
        (hint,) = (part for part in typing.get_args(hint) if part is not type(None))
    if hint is str:
        return ("choice" if has_choices else "text"), optional
    if typing.get_origin(hint) is tuple:
        return ("choices" if typing.get_args(hint)[0] is str else "size"), optional
    return PLAIN_KINDS[typing.cast(type, hint)], optional


def _title(name: str) -> str:
    words = name.split("_")
    if words[-1] in UNITS_IN_NAMES and len(words) > 1 and words[-1] != "steps":
        words.pop()
    return " ".join(words).capitalize()


def _plain(number: float) -> str:
    return f"{number:d}" if isinstance(number, int) else f"{number:g}"
