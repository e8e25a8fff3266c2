"""JSON files of settings: read with a clear reason when that fails, written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from ..atomic import write_bytes
from ..errors import BadInput, Problem
from .values import shown

LARGEST_FILE_MB = 4


class _DoubleKeyError(ValueError):
    pass


def read_object(path: Path) -> dict[str, object]:
    """Read a file that holds one JSON object.

    Raises:
        BadInput: there is no such file, or it is not readable text, not JSON, or no object.
    """
    return parse_object(_read_text(path), str(path))


def parse_object(text: str, where: str) -> dict[str, object]:
    """Read a text that holds one JSON object.

    Args:
        text: the JSON.
        where: the file's path, or what else names the text in a message.

    Raises:
        BadInput: it is not JSON, gives a key twice, or is no object.
    """
    try:
        loaded = json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        what = f"is not JSON: line {error.lineno}, column {error.colno}: {error.msg}"
        raise _bad(where, what, "correct that place") from None
    except _DoubleKeyError as error:
        raise _bad(where, str(error), "keep one of them") from None
    except (ValueError, RecursionError):  # a number of thousands of digits; endless brackets
        raise _bad(where, "is not JSON that can be read", "write it anew") from None
    if not isinstance(loaded, dict):
        what = f"holds {shown(loaded)} instead of settings"
        raise _bad(where, what, 'write {"method": "lora", ...}')
    return loaded


def write_object(path: Path, values: Mapping[str, object]) -> None:
    """Write one JSON object; a crash at any moment leaves the old file or the new one.

    Raises:
        BadInput: the folder or file cannot be written.
    """
    text = json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    try:
        data = text.encode("utf-8")
    except UnicodeEncodeError:  # a file name that is no Unicode
        data = (json.dumps(values, indent=2, allow_nan=False) + "\n").encode("ascii")
    try:
        write_bytes(path, data)
    except OSError as error:
        what = f"cannot be written: {error.strerror or error}"
        raise _bad(str(path), what, "make the folder writable, or choose another") from error


def _read_text(path: Path) -> str:
    try:
        if path.stat().st_size > LARGEST_FILE_MB * 2**20:
            raise _bad(str(path), f"is larger than {LARGEST_FILE_MB} MB", "choose a settings file")
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise _bad(str(path), "there is no such file", "check the path") from None
    except UnicodeDecodeError:
        raise _bad(str(path), "is not UTF-8 text", "save it as UTF-8") from None
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise _bad(str(path), f"cannot be read: {reason}", "check the path") from None


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    read: dict[str, object] = {}
    for key, value in pairs:
        if key in read:
            raise _DoubleKeyError(f"gives {shown(key)} twice")
        read[key] = value
    return read


def _bad(where: str, what: str, cure: str) -> BadInput:
    return BadInput([Problem(where, what, cure)])
