"""What a grid of pictures needs: LoRA files x strengths, on the same prompts and seeds."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import BadInput, Problem
from .checks import prompt_lines
from .fields import Parameter, declared, parameter
from .groups import ModelSettings
from .names import check_name
from .values import BadValueError, Value, as_json, shown

GRID = "grid"
"""Stands in such a job's settings where a training has its method."""
MOST_PICTURES = 1000


def numbers(text: str) -> tuple[float, ...]:
    """The numbers of a text such as "0, 0.5, 1".

    Raises:
        BadValueError: a part is no finite number, or there is none.
    """
    if ";" in text and re.search(r"\d,\d", text):
        what = f"{shown(text.strip())} has a comma where a point may be meant"
        raise BadValueError(what, "write for example 0, 0.5, 1")
    found = []
    for part in text.replace(";", ",").split(","):
        if not part.strip():
            continue
        try:
            found.append(float(part))
        except ValueError:
            found.append(math.nan)
        if not math.isfinite(found[-1]):
            raise BadValueError(
                f"{shown(part.strip())} is no number", "write for example 0, 0.5, 1"
            )
    if not found:
        raise BadValueError("is empty", "give at least one number")
    return tuple(dict.fromkeys(found))


def seed_numbers(text: str) -> tuple[int, ...]:
    """The seeds of a text such as "1, 2, 3".

    Raises:
        BadValueError: one is no whole number from 0 to 4294967295, or there is none.
    """
    found = numbers(text)
    for one in found:
        if one != int(one) or not 0 <= one < 2**32:
            raise BadValueError(f"{one:g} is no seed", "use whole numbers from 0 to 4294967295")
    return tuple(int(one) for one in found)


@dataclass(frozen=True, kw_only=True)
class GridSettings(ModelSettings):
    """A picture that compares LoRA files at several strengths."""

    loras: str = parameter(
        title="Files",
        multiline=True,
        help="LoRA files to compare, one a line, by path or by name in the Lora folder; a row"
        " each.",
        cure="choose at least one",
        picks="lora",
    )
    prompts: str = parameter(
        multiline=True,
        help="What is drawn, one prompt a line; use the trigger word, and one prompt that should"
        " not change.",
        cure="write at least one prompt",
        picks="prompt",
    )
    strengths: str = parameter(
        "0, 0.5, 1",
        check=numbers,
        help="A column each; 0 is the bare checkpoint. Add -1 for a LoRA that works both ways, 1.5"
        " to see where it breaks.",
    )
    seeds: str = parameter(
        "1",
        check=seed_numbers,
        help="Such as 1, 2, 3: the same in every row and column, so that only file and strength"
        " change the pictures.",
    )
    negative_prompt: str = parameter("", help="What the pictures should not show.", picks="prompt")
    name: str = parameter("grid", check=check_name, help="Name of the picture's file.")
    size_px: tuple[int, int] = parameter(
        (512, 512),
        minimum=64,
        maximum=2048,
        multiple_of=8,
        unit="px",
        title="Picture size",
        help="One number for a square, or height,width. Usually the size that was trained at.",
    )
    denoise_steps: int = parameter(
        20,
        minimum=1,
        maximum=200,
        unit="steps",
        help="20 is usual; 10 is enough to compare.",
    )
    guidance: float = parameter(7.0, minimum=1, maximum=30, help="CFG scale; 5 to 8 are usual.")

    @property
    def files(self) -> tuple[str, ...]:
        """The LoRA files, each once."""
        return tuple(
            dict.fromkeys(line.strip() for line in self.loras.splitlines() if line.strip())
        )

    @property
    def lines(self) -> tuple[str, ...]:
        """The prompts, each once."""
        return tuple(dict.fromkeys(prompt_lines(self.prompts)))

    def as_dict(self) -> dict[str, object]:
        """As one flat JSON object, which `parse_grid` reads back."""
        values = {f.name: as_json(getattr(self, f.name)) for f in dataclasses.fields(self)}
        return {"method": GRID, **values}


PARAMETERS: dict[str, Parameter] = {
    one.name: one
    for settings, group in ((ModelSettings, "model"), (GridSettings, GRID))
    for one in declared(settings, group)
}
"""Every parameter of a grid by its name."""


def parse_grid(raw: Mapping[str, object]) -> GridSettings:
    """Read a grid's settings from JSON values; what is left out has its default.

    Raises:
        BadInput: every problem at once.
    """
    problems = [Problem(n, "unknown", "remove it") for n in raw if n not in (*PARAMETERS, "method")]
    values: dict[str, Value] = {}
    for name, one in PARAMETERS.items():
        try:
            values[name] = one.read(raw.get(name, one.default))
        except BadValueError as refused:
            problems.append(Problem(name, refused.what, refused.cure))
    if problems:
        raise BadInput(problems)
    settings = GridSettings(**values)  # type: ignore[arg-type]
    count = pictures(settings)
    if count > MOST_PICTURES:
        what = f"and the others ask for {count} pictures; {MOST_PICTURES} are allowed"
        raise BadInput([Problem("loras", what, "choose fewer files, strengths, prompts or seeds")])
    return settings


def pictures(settings: GridSettings) -> int:
    """How many pictures it shows."""
    each = len(settings.files) * len(numbers(settings.strengths))
    return each * len(settings.lines) * len(seed_numbers(settings.seeds))
