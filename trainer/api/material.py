"""What a form's fields name besides a folder: prompts with their length, pairs of pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from ..paths import is_file, user_path
from ..settings.checks import picture_lines, prompt_lines
from ..settings.methods import METHODS
from ..settings.schema import PARAMETERS
from .thumbnails import Thumbnails

Raw = Mapping[str, object]

WINDOW = 75
"""Tokens that a text encoder takes at once."""
SHOWN_PAIRS = 20


def tokens(text: str) -> int:
    """How many tokens a text encoder makes of a caption, start and end not counted.

    An estimate by words where the vocabulary is not at hand.
    """
    try:
        from ..models.tokenizer import clip_tokenizer

        return len(clip_tokenizer()(text).input_ids) - 2
    except (ImportError, RuntimeError, OSError):
        return math.ceil(len(text.split()) * 1.3)


def prompt_tokens(raw: Raw) -> dict[str, int]:
    """The tokens of the longest line of every prompt field that is not empty."""
    method = raw.get("method")
    if not isinstance(method, str) or method not in METHODS:
        return {}
    counts = {}
    for one in PARAMETERS.values():
        text = raw.get(one.name)
        if one.picks == "prompt" and method in one.methods and isinstance(text, str) and text:
            counts[one.name] = max(prompt_length(line) for line in prompt_lines(text))
    return {name: count for name, count in counts.items() if count}


def prompt_length(prompt: str) -> int:
    """The tokens of a prompt in the webui's syntax; brackets and emphasis do not count."""
    try:
        from ..models.prompts import token_count
        from ..models.text import tokenize
        from ..models.tokenizer import clip_tokenizer

        return token_count(prompt, lambda text: tokenize(clip_tokenizer(), text))
    except (ImportError, RuntimeError, OSError):
        return tokens(prompt)


def named_pictures(raw: Raw, thumbnails: Thumbnails) -> list[dict[str, object]]:
    """The pictures that a form names one by one, row by row: before, after, mask.

    Returns:
        A row for each line: {"pictures": [{"field", "name", "height", "width", "thumbnail"}],
        "same_size": whether the pictures before and after have one size}.  One that cannot be read
        has a "problem" instead of a size.
    """
    method = raw.get("method")
    fields = [
        one.name
        for one in PARAMETERS.values()
        if one.picks == "picture" and isinstance(method, str) and method in one.methods
    ]
    lines = {name: picture_lines(str(raw.get(name) or "")) for name in fields}
    rows = []
    for number in range(min(SHOWN_PAIRS, max(map(len, lines.values()), default=0))):
        named = [(name, files[number]) for name, files in lines.items() if number < len(files)]
        shown = [_picture(name, user_path(file), thumbnails) for name, file in named]
        sizes = {(one["height"], one["width"]) for one in shown[:2] if "height" in one}
        rows.append({"pictures": shown, "same_size": len(sizes) < 2})
    return rows


def _picture(field: str, path: Path, thumbnails: Thumbnails) -> dict[str, object]:
    from ..data.images import read_size
    from ..errors import BadInput

    known: dict[str, object] = {"field": field, "name": path.name}
    if not is_file(path):
        return {**known, "problem": "is not there"}
    try:
        height, width = read_size(path)
    except BadInput as error:
        return {**known, "problem": error.problems[0].what}
    return {**known, "height": height, "width": width, "thumbnail": thumbnails.identify(path)}
