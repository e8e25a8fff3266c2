"""Reading checkpoint files."""

from __future__ import annotations

import hashlib
import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open  # type: ignore[attr-defined]

from ..errors import BadInput, Problem
from ..paths import is_file

EXTENSIONS = (".safetensors", ".ckpt", ".pt")
_DAMAGED = (
    SafetensorError,
    zipfile.BadZipFile,
    EOFError,
    OSError,
    RuntimeError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    AssertionError,
    ArithmeticError,
    MemoryError,
    struct.error,
)
"""What the libraries raise at damaged files; running foreign code is refused by another name."""
_MOST_WRAPPERS = 4
_LEGACY_HASH_OFFSET, _LEGACY_HASH_BYTES = 0x100000, 0x10000


def read_tensors(path: Path, where: str = "") -> dict[str, torch.Tensor]:
    """All tensors of a `.safetensors`, `.ckpt` or `.pt` file, on the CPU, mapped not copied.

    Pickled files are read with torch's restricted loader only.

    Args:
        where: what an error names; the path by default.

    Raises:
        BadInput: when the file is missing, truncated, not of this format, or wants code run.
    """
    where = where or str(path)
    if not is_file(path):
        raise BadInput([Problem(where, f"there is no file {path}", "check the name")])
    try:
        if path.suffix.lower() == ".safetensors":
            opened: Any = safe_open(path, framework="pt", device="cpu")
            with opened as file:
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return _unpickled(path)
    except pickle.UnpicklingError as error:
        raise BadInput(
            [
                Problem(
                    where,
                    f"{path} is damaged, or holds more than tensors: loading that could run"
                    " foreign code",
                    "use a .safetensors version of this file, or get it again",
                )
            ]
        ) from error
    except _DAMAGED as error:
        raise BadInput(
            [
                Problem(
                    where,
                    f"{path} {_fault(error)}",
                    "choose another file, or download or copy this one again",
                )
            ]
        ) from error


def _unpickled(path: Path) -> dict[str, torch.Tensor]:
    loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    for _ in range(_MOST_WRAPPERS):  # a file may be made to wrap itself
        if isinstance(loaded, Mapping) and isinstance(loaded.get("state_dict"), Mapping):
            loaded = loaded["state_dict"]
    if not isinstance(loaded, Mapping):
        raise pickle.UnpicklingError(f"{type(loaded).__name__} instead of a dict of tensors")
    return {str(k): v for k, v in loaded.items() if isinstance(v, torch.Tensor)}


def metadata(path: Path) -> dict[str, str]:
    """A safetensors file's `__metadata__`; empty for other files, and where it cannot be read."""
    if path.suffix.lower() != ".safetensors":
        return {}
    try:
        opened: Any = safe_open(path, framework="pt", device="cpu")
        with opened as file:
            return dict(file.metadata() or {})
    except _DAMAGED:
        return {}


def tensor_names(path: Path) -> frozenset[str]:
    """The names in a safetensors file; empty for other files, and where it cannot be read."""
    if path.suffix.lower() != ".safetensors":
        return frozenset()
    try:
        opened: Any = safe_open(path, framework="pt", device="cpu")
        with opened as file:
            return frozenset(file.keys())
    except _DAMAGED:
        return frozenset()


def sha256(path: Path) -> str:
    """Hex digest of the whole file, kohya's `ss_new_sd_model_hash`."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def legacy_hash(path: Path) -> str:
    """The webui's old 8-digit hash, kohya's `ss_sd_model_hash`.

    Source: facts of the file format: sha256 of 64 KiB at 1 MiB into the file, first 8 digits.
    """
    with path.open("rb") as file:
        file.seek(_LEGACY_HASH_OFFSET)
        return hashlib.sha256(file.read(_LEGACY_HASH_BYTES)).hexdigest()[:8]


def _fault(error: Exception) -> str:
    """What is wrong with a file; the libraries' own words mean nothing to its owner."""
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read: {error.strerror}"
    return "is no model file, or is truncated or damaged"
