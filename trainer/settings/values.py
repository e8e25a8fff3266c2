"""Values of parameters as they arrive: from JSON, from a preset's strings, from `--set name=value`.

Text is accepted where it can mean only one thing ("16", "1e-4", "768,512", "true"); everything else
is refused with a cure.  Nothing is guessed and nothing replaced by a default.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Sequence
from difflib import get_close_matches

Value = bool | int | float | str | tuple[str, ...] | tuple[int, int] | None
"""What a parameter can hold."""

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
ON = ("true", "on", "yes", "1")
OFF = ("false", "off", "no", "0")
LONGEST_TEXT = 20_000


class BadValueError(ValueError):
    """A value that cannot be used: what is wrong with it, and the cure."""

    def __init__(self, what: str, cure: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.cure = cure


def shown(value: object) -> str:
    """A value as it is quoted in a message: short, on one line, printable anywhere."""
    try:
        text = json.dumps(value, ensure_ascii=False)
        text.encode("utf-8")
    except (TypeError, ValueError, RecursionError):
        text = ascii(value) if isinstance(value, str) else type(value).__name__
    return text if len(text) <= 60 else text[:57] + "..."


def as_json(value: Value) -> object:
    """A value as JSON knows it: tuples become lists."""
    return list(value) if isinstance(value, tuple) else value


def is_blank(raw: object) -> bool:
    """Whether a field was left empty."""
    return raw is None or (isinstance(raw, str) and not raw.strip())


def proposal(word: str, known: Sequence[str]) -> str:
    """The known word that was probably meant, or an empty text."""
    folded = {name.casefold(): name for name in known}
    close = get_close_matches(word.casefold()[:100], folded, n=1, cutoff=0.7)
    return folded[close[0]] if close else ""


def read_bool(raw: object) -> bool:
    """True or false, also as 0, 1 or one of the usual words."""
    if isinstance(raw, bool):
        return raw
    word = str(raw).strip().lower() if isinstance(raw, str | int) else ""
    if word in ON or word in OFF:
        return word in ON
    raise BadValueError(f"{shown(raw)} is neither true nor false", "use true or false")


def read_float(raw: object) -> float:
    """A finite number, also as text with a decimal point."""
    if isinstance(raw, str) and NUMBER.fullmatch(raw.strip()):
        raw = float(raw)
    if isinstance(raw, bool) or not isinstance(raw, int | float):
        comma = isinstance(raw, str) and NUMBER.fullmatch(raw.strip().replace(",", "."))
        cure = "use a point for decimals and nothing for thousands" if comma else "use a number"
        raise BadValueError(f"{shown(raw)} is not a number", cure)
    try:
        number = float(raw)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise BadValueError(f"{shown(raw)} is not a finite number", "use a number")
    return number


def read_int(raw: object) -> int:
    """A whole number, also as text or as a float without a fraction ("1e3", 16.0)."""
    if isinstance(raw, int) and not isinstance(raw, bool):
        return raw
    if isinstance(raw, str) and re.fullmatch(r"\s*[+-]?[0-9]{1,18}\s*", raw):
        return int(raw)
    number = read_float(raw)
    if not number.is_integer():
        raise BadValueError(f"{shown(raw)} is not a whole number", f"use {round(number)}")
    return int(number)


def read_text(raw: object, *, multiline: bool = False) -> str:
    """A text that can be written to a file as it is."""
    if not isinstance(raw, str):
        raise BadValueError(f"{shown(raw)} is not a text", "put it into quotation marks")
    if len(raw) > LONGEST_TEXT:
        raise BadValueError(f"has {len(raw)} characters", f"use at most {LONGEST_TEXT}")
    allowed = "\n\t" if multiline else ""
    text = raw.replace("\r\n", "\n") if multiline else raw
    odd = next((c for c in text if (c < " " or c == "\x7f") and c not in allowed), None)
    if odd is None:
        odd = next((c for c in text if "\ud800" <= c <= "\udfff"), None)
    if odd is not None:
        name = "a line break" if odd in "\r\n" else f"the control character {odd!a}"
        raise BadValueError(f"contains {name}", "remove it")
    return text


def read_choice(raw: object, choices: Sequence[str]) -> str:
    """One of the choices, in their spelling; letter case is forgiven."""
    if isinstance(raw, str):
        for choice in choices:
            if choice.casefold() == raw.strip().casefold():
                return choice
    close = proposal(raw, choices) if isinstance(raw, str) else ""
    cure = f"did you mean {close}? " if close else ""
    raise BadValueError(
        f"{shown(raw)} is not one of the choices", f"{cure}choose {listed(choices)}"
    )


def read_choices(raw: object, choices: Sequence[str]) -> tuple[str, ...]:
    """Some of the choices, in their order, from a list or from names separated by commas."""
    if isinstance(raw, str):
        raw = [word for word in re.split(r"[,\s]+", raw) if word]
    if not isinstance(raw, list | tuple):
        raise BadValueError(f"{shown(raw)} is not a list", f"list some of {listed(choices)}")
    chosen = {read_choice(item, choices) for item in raw}
    return tuple(choice for choice in choices if choice in chosen)


def read_size(raw: object) -> tuple[int, int]:
    """A size in px as (height, width): 512, "512", [768, 512] or "768,512"."""
    cure = 'use one number for a square, or "height,width", for example "768,512"'
    parts: object = raw.split(",") if isinstance(raw, str) else raw
    if isinstance(parts, int | float) and not isinstance(parts, bool):
        parts = [parts]
    if not isinstance(parts, list | tuple) or not 1 <= len(parts) <= 2:
        raise BadValueError(f"{shown(raw)} is not a size", cure)
    try:
        numbers = [read_int(part) for part in parts]
    except BadValueError:
        raise BadValueError(f"{shown(raw)} is not a size", cure) from None
    return numbers[0], numbers[-1]


def parse_arguments(text: str) -> dict[str, object]:
    """Read `name=value` pairs separated by semicolons or line breaks.

    Values are Python literals (`betas=(0.9, 0.99)`, `weight_decay=0.01`), `true` and `false` in any
    letter case, or else plain text.

    Raises:
        BadValueError: a pair has no `=`, its name is no identifier, or a name is given twice.
    """
    arguments: dict[str, object] = {}
    for pair in filter(None, (piece.strip() for piece in re.split(r"[;\n]", text))):
        name, equals, value = (part.strip() for part in pair.partition("="))
        if not equals or not name.isidentifier() or not value:
            raise BadValueError(
                f"{shown(pair)} is not name=value",
                'write for example "weight_decay=0.01; betas=(0.9, 0.99)"',
            )
        if name in arguments:
            raise BadValueError(f"{name} is given twice", "keep one of them")
        arguments[name] = _literal(value)
    return arguments


def _literal(text: str) -> object:
    if text.lower() in ("true", "false", "none"):
        text = text.capitalize()
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def listed(choices: Sequence[str]) -> str:
    """The choices for a message: "fp32, bf16 or fp16"."""
    if len(choices) <= 1:
        return "".join(choices)
    return f"{', '.join(choices[:-1])} or {choices[-1]}"
