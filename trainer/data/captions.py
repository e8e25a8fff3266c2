"""Captions: the text files beside the pictures, and the trigger word before them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..errors import BadInput, Problem

CAPTION_EXTENSIONS = (".txt", ".caption")
"""The first wins where a picture has both."""

MOST_CHARACTERS = 20_000
"""As of a prompt in the settings."""
MOST_BYTES = 4 * MOST_CHARACTERS + 3
"""What these take in UTF-8 at most, with a byte order mark."""


def caption_file(siblings: Mapping[str, Path]) -> Path | None:
    """The caption file of a picture.

    Args:
        siblings: the files of the picture's folder that share its base name, by their extension
            in lower case.
    """
    for extension in CAPTION_EXTENSIONS:
        if extension in siblings:
            return siblings[extension]
    return None


def read_caption(path: Path, *, lines: bool = False) -> str:
    """Text of a caption file as one line; UTF-8 with or without a byte order mark.

    Args:
        lines: leave its lines as they are, without the empty ones.

    Raises:
        BadInput: one problem that names the file, the reason and the cure.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
        text = data.decode("utf-8-sig", "replace" if len(data) > MOST_BYTES else "strict")
    except UnicodeDecodeError as error:
        what = f"is not UTF-8 text (byte {error.object[error.start]:#04x} at {error.start})"
        cure = "open it in a text editor and save it with the encoding UTF-8"
        raise BadInput([Problem(str(path), what, cure)]) from error
    except OSError as error:
        what = f"cannot be read: {error.strerror or error}"
        raise BadInput(
            [Problem(str(path), what, "check the file and its access rights")]
        ) from error
    if "\0" in text:
        what = "holds null characters; it is probably saved as UTF-16"
        cure = "open it in a text editor and save it with the encoding UTF-8"
        raise BadInput([Problem(str(path), what, cure)])
    if len(text) > MOST_CHARACTERS or len(data) > MOST_BYTES:
        what = f"is no caption: it has more than {MOST_CHARACTERS} characters"
        raise BadInput([Problem(str(path), what, "shorten it, or put it elsewhere")])
    if lines:
        return "\n".join(" ".join(line.split()) for line in text.splitlines() if line.strip())
    return " ".join(text.split())


def with_trigger(trigger_word: str, caption: str) -> str:
    """The trigger word before a caption: "trigger, caption", or the one that is not empty."""
    parts = (trigger_word.strip(" ,"), caption.strip(" ,"))
    return ", ".join(part for part in parts if part)
