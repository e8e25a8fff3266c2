"""The components of the form, made from the declarations of the parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr

from ..settings.form import Field, default, shown_value, titled
from ..settings.schema import PARAMETERS, Parameter
from .compat import dropdown

FIRST_LINES = 2
"""Height of a text that may have several lines, before it grows."""


def component(field: Field, method: str, offers: Mapping[str, Sequence[str]]) -> Any:
    """The component of a field, holding the method's default.

    Numbers are texts: a browser's number field would swallow what is wrong with them.

    Args:
        field: the field.
        method: the method that the form begins with.
        offers: what there is to choose from, for parameters that pick something.
    """
    one = field.parameter
    common: dict[str, Any] = {
        "label": label(one),
        "info": titled(one.help),
        "elem_id": field.elem_id,
        "elem_classes": classes(field.methods),
        "value": shown_value(field, default(field, method)),
    }
    made = _second(field, common) if field.second else _first(field, common, offers)
    made.do_not_save_to_config = True
    return made


def label(one: Parameter) -> str:
    """The title with its unit, where it does not name that itself."""
    known = not one.unit or one.unit in one.title.lower()
    return one.title if known else f"{one.title} ({one.unit})"


def classes(methods: Sequence[str]) -> list[str]:
    """The classes by which the page shows a field or a heading in some methods only."""
    return ["trainyard_field", *(f"trainyard_in_{method}" for method in methods)]


def _first(field: Field, common: dict[str, Any], offers: Mapping[str, Sequence[str]]) -> Any:
    one = field.parameter
    if one.kind == "bool":
        return gr.Checkbox(**common)
    if one.kind == "choice":
        return dropdown(one.choices, free=False, **common)
    if one.kind == "choices":
        return gr.CheckboxGroup(choices=list(one.choices), **common)
    if one.picks in offers:
        none = () if one.required else ("",)  # so that the page shows nothing where nothing is set
        return dropdown((*none, *offers[one.picks]), free=True, **common)
    lines = {"lines": FIRST_LINES, "max_lines": 12} if one.multiline else {"max_lines": 1}
    return gr.Textbox(placeholder=_placeholder(field), **lines, **common)


def _second(field: Field, common: dict[str, Any]) -> Any:
    one = field.parameter
    if one.kind in ("bool", "choice"):
        choices = ("on", "off") if one.kind == "bool" else one.choices
        return dropdown(("", *choices), free=False, **common)
    return gr.Textbox(placeholder="as in the first pass", max_lines=1, **common)


def _placeholder(field: Field) -> str:
    one = field.parameter
    if one.inherits:
        return f"empty: as {PARAMETERS[one.inherits].title.lower()}"
    return {"folder": "/path/to/my pictures", "picture": "/path/to/picture.png"}.get(one.picks, "")
