"""The parameters as Markdown, for the README."""

from __future__ import annotations

from .fields import Parameter
from .groups import GROUPS
from .schema import PARAMETERS

BEGIN = "<!-- parameters: begin -->"
END = "<!-- parameters: end -->"
MANY_CHOICES = 8


def tables() -> str:
    """One table for each group of parameters."""
    parts = []
    for group, settings in GROUPS.items():
        rows = [_row(one) for one in PARAMETERS.values() if one.group == group]
        sentence = (settings.__doc__ or "").strip().splitlines()[0]
        head = "| parameter | default | values | what it does |\n|---|---|---|---|"
        parts.append(f"**{group.capitalize()}.** {sentence}\n\n{head}\n" + "\n".join(rows))
    return "\n\n".join(parts)


def with_tables(text: str) -> str:
    """A text whose part between the two marks is replaced by the current tables.

    Raises:
        ValueError: the marks `BEGIN` and `END` do not stand in it once each, in this order.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end) or BEGIN in rest or END in after:
        raise ValueError(f"the text must hold {BEGIN} and, after it, {END}, once each")
    return f"{before}{BEGIN}\n\n{tables()}\n\n{END}{after}"


def _row(one: Parameter) -> str:
    cells = (f"`{one.name}`", _default(one), _values(one), one.help)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _default(one: Parameter) -> str:
    if one.required:
        return "required"
    if one.inherits:
        return f"as {one.inherits}"
    if one.kind == "choices":
        return "all" if one.default == one.choices else ", ".join(map(str, _tuple(one)))
    if one.kind == "size":
        return ",".join(map(str, _tuple(one)))
    if one.kind == "bool":
        return "true" if one.default else "false"
    return f"{one.default:g}" if isinstance(one.default, float) else str(one.default)


def _values(one: Parameter) -> str:
    if one.choices:
        many = len(one.choices) > MANY_CHOICES
        return f"{one.choices[0]} ... {one.choices[-1]}" if many else ", ".join(one.choices)
    words = {"bool": "true, false", "text": "text", "size": "height,width"}.get(one.kind, "")
    bounds = f"{one.bounds()} {one.unit}".strip() if one.bounds() else ""
    return "; ".join(filter(None, (words, bounds)))


def _tuple(one: Parameter) -> tuple[str, ...] | tuple[int, int]:
    return one.default if isinstance(one.default, tuple) else ()
