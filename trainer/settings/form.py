"""Which field stands where in a form, and what it shows; follows from the declarations.

Needs the standard library alone; the components themselves are made in `trainer.ui`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from .groups import GROUPS
from .methods import METHODS
from .schema import PARAMETERS, SECOND_PASS, Parameter, default_of, in_second_pass, second_pass_of
from .values import Value

TITLES: Mapping[str, str] = {
    "model": "Model and precision",
    "network": "Network",
    "data": "Captions from file names",
    "pictures": "How pictures are cut",
    "length": "Long prompts and captions",
    "captions": "Captions that vary",
    "mask": "Pictures of a pair, and which part of them counts",
    "mask_weight": "Weight of a mask",
    "picture_mask": "Learning a part of the pictures",
    "copier": "First pass: the copier",
    "direction": "There and back",
    "preserve": "What stays as it is",
    "prior": "Regularisation pictures",
    "labels": "Answers of the unchanged model",
    "concept_labels": "What the unchanged model is asked",
    "training": "Steps, batches, memory",
    "optimizer": "Optimizer and learning rate",
    "loss": "Loss and noise levels",
    "noise": "Kind of noise",
    "cache": "Keeping what is encoded",
    "output": "Saving",
    "samples": "Pictures while it trains",
}
"""Of groups whose own name would not say enough."""


@dataclass(frozen=True)
class Field:
    """One field of the form."""

    key: str
    """The name under which settings hold its value; `second_pass.rank` for a second pass."""
    parameter: Parameter
    methods: tuple[str, ...]
    """In which it is shown."""
    second: bool = False
    """It belongs to a second pass: empty, it takes the first pass's value."""

    @property
    def elem_id(self) -> str:
        return f"trainyard_{self.key.replace('.', '_')}"


@dataclass(frozen=True)
class FieldGroup:
    """Fields under a common heading."""

    name: str
    title: str
    fields: tuple[Field, ...]

    @property
    def methods(self) -> tuple[str, ...]:
        """In which at least one of its fields is shown."""
        return tuple(m for m in METHODS if any(m in field.methods for field in self.fields))


@dataclass(frozen=True)
class Layout:
    """The form, from top to bottom."""

    what: tuple[Field, ...]
    how: tuple[Field, ...]
    more: tuple[FieldGroup, ...]

    @property
    def fields(self) -> tuple[Field, ...]:
        """All of them, in the order of the form."""
        return (*self.what, *self.how, *(field for group in self.more for field in group.fields))


def layout() -> Layout:
    """The fields of every parameter, and of what a second pass may have in its own way."""
    fields = [Field(one.name, one, one.methods) for one in PARAMETERS.values()]
    sections = {
        section: tuple(field for field in fields if field.parameter.section == section)
        for section in ("what", "how", "more")
    }
    sections["what"] = tuple(
        sorted(sections["what"], key=lambda field: not field.parameter.required)
    )
    groups = [
        FieldGroup(name, TITLES.get(name, name.capitalize()), members)
        for name in GROUPS
        if (members := tuple(f for f in sections["more"] if f.parameter.group == name))
    ]
    second = tuple(
        Field(f"{SECOND_PASS}.{one.name}", one, methods, second=True)
        for one in PARAMETERS.values()
        if (methods := tuple(m for m in METHODS if in_second_pass(one, m)))
    )
    if second:
        groups.append(FieldGroup(SECOND_PASS, "Second pass (empty: as the first)", second))
    return Layout(sections["what"], sections["how"], tuple(groups))


def default(field: Field, method: str) -> Value:
    """What a field holds before anything was chosen; None for a second pass's empty field."""
    return None if field.second else default_of(field.parameter, method)


def shown_value(field: Field, value: object) -> object:
    """A setting's value as its component holds it: text, or a list, or a truth value.

    Args:
        field: the field.
        value: a JSON value or a parsed one; None where nothing is set.
    """
    kind = field.parameter.kind
    if field.second and kind in ("bool", "choices"):
        return as_text(value)
    if kind == "choices":
        return list(value) if isinstance(value, list | tuple) else []
    if kind == "bool":
        return bool(value)
    return as_text(value)


def as_text(value: object) -> str:
    """A value as a text field holds it, which is read back to the same."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return f"{value:.10g}"
    if isinstance(value, list | tuple):
        parts = [str(part) for part in value]
        square = len(parts) == 2 and parts[0] == parts[1]
        return parts[0] if square else ",".join(parts)
    return str(value)


def titled(text: str) -> str:
    """A text about settings with their titles in place of their names of several words."""

    def title(name: re.Match[str]) -> str:
        return PARAMETERS[name[0]].title if name[0] in PARAMETERS else name[0]

    return re.sub(r"\b[a-z]+(_[a-z0-9]+)+\b", title, text)


def facts() -> list[dict[str, object]]:
    """What the page's scripts must know of each field, as JSON, in the order of the form."""
    return [
        {
            "key": field.key,
            "id": field.elem_id,
            "title": ("Second pass: " if field.second else "") + field.parameter.title,
            "kind": field.parameter.kind,
            "picks": field.parameter.picks,
            "section": "second" if field.second else field.parameter.section,
            "required": field.parameter.required and not field.second,
            "unit": field.parameter.unit,
            "only_with": list(field.parameter.only_with),
            "methods": list(field.methods),
            "choices": list(field.parameter.choices),
            "words": " ".join((field.key, *field.parameter.aliases)),
            "defaults": {
                method: shown_value(field, default(field, method)) for method in field.methods
            },
        }
        for field in layout().fields
    ]


def shown_values(settings: Mapping[str, object]) -> dict[str, object]:
    """Settings as the form's fields hold them, by the fields' keys; and the `method`."""
    given = {name: value for name, value in settings.items() if name != SECOND_PASS}
    second = second_pass_of(settings)
    given |= {f"{SECOND_PASS}.{name}": value for name, value in second.items()}
    shown = {f.key: shown_value(f, given[f.key]) for f in layout().fields if f.key in given}
    return ({"method": given["method"]} if "method" in given else {}) | shown
