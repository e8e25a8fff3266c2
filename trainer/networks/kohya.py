"""LoRA files as kohya's sd-scripts and every webui read them: `.safetensors` with metadata.

Source: facts/formats.md A.3 of this project, read from sd-scripts and the webuis.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import safetensors.torch
import torch
from safetensors import SafetensorError  # type: ignore[attr-defined]
from torch import Tensor

from ..atomic import write_bytes
from ..errors import BadInput, Problem, TrainyardError
from ..paths import is_file, user_path

LENGTH_BYTES = 8
"""A safetensors file begins with the length of its JSON header, little-endian."""
EXTENSION = ".safetensors"
ALIGNMENT = 8
"""The tensors begin at a multiple of this."""
LEGACY_HASH_START, LEGACY_HASH_BYTES = 0x100000, 0x10000
NO_HEADER = (ValueError, LookupError, TypeError, AttributeError, RecursionError)
"""What a header raises that is no JSON, or JSON of something else."""
ADAPTER_MARKS = (
    *("lora_down", "lora_up", "lora_mid", "lora_A", "lora_B", "lora.down", "lora.up"),
    *("hada_w", "lokr_w", "oft_blocks", "oft_diag", "dora_scale", "a1.weight", "ia3"),
)
"""A file is taken for a LoRA of some kind if one of these occurs in a tensor's name."""


class NotFiniteError(TrainyardError):
    """Weights have become NaN or infinite, and no file was written."""


def save(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Write a LoRA file so that at any moment either the old file or the new one is there.

    Args:
        path: the file, `.safetensors`; its folder is made where it is missing.
        tensors: CPU tensors under their kohya names, in the dtype to save.
        metadata: texts only; `sshs_model_hash` and `sshs_legacy_hash` are added here.

    Returns:
        The model hash, whose first 12 digits the webui shows.

    Raises:
        NotFiniteError: a tensor holds NaN or infinity.
        BadInput: the file cannot be written.
    """
    _check_finite(path, tensors)
    model_hash, legacy_hash = hashes(tensors, metadata)
    complete = {
        **metadata,
        "sshs_model_hash": model_hash,
        "sshs_legacy_hash": legacy_hash,
    }
    data = _in_order(safetensors.torch.save(dict(tensors), metadata=complete))
    try:
        write_bytes(path, data)
    except OSError as error:
        reason = error.strerror or str(error)
        cure = "check the folder, its permissions and the space on the disk"
        raise BadInput([Problem(str(path), f"cannot be written: {reason}", cure)]) from error
    return model_hash


def hashes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> tuple[str, str]:
    """The model hash and the legacy hash of a file, as sd-scripts computes them.

    Both are of a file with only the ss_ metadata: sha256 of all bytes after the header, and the
    first 8 digits of the sha256 of 64 KiB at 1 MiB.
    """
    kept = {key: value for key, value in metadata.items() if key.startswith("ss_")}
    data = memoryview(safetensors.torch.save(dict(tensors), metadata=kept))
    tensors_start = LENGTH_BYTES + int.from_bytes(data[:LENGTH_BYTES], "little")
    legacy = data[LEGACY_HASH_START : LEGACY_HASH_START + LEGACY_HASH_BYTES]
    return (
        hashlib.sha256(data[tensors_start:]).hexdigest(),
        hashlib.sha256(legacy).hexdigest()[:8],
    )


def _in_order(data: bytes) -> bytes:
    """The same file with its metadata sorted: the library's order is another at every call."""
    start = LENGTH_BYTES + int.from_bytes(data[:LENGTH_BYTES], "little")
    entries: dict[str, Any] = json.loads(data[LENGTH_BYTES:start])
    texts = entries.pop("__metadata__", {})
    ordered = {"__metadata__": dict(sorted(texts.items())), **entries}
    header = json.dumps(ordered, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    header += b" " * (-len(header) % ALIGNMENT)
    return len(header).to_bytes(LENGTH_BYTES, "little") + header + data[start:]


def find(name: str, folder: Path) -> Path:
    """The LoRA file that a user names: by its path, or in the folder of results by its name.

    Args:
        name: the extension may be left out. Of a file that is nowhere it is the path.
        folder: a webui's Lora folder.
    """
    given = user_path(name)
    inside = folder / given
    places = (given, inside, Path(f"{inside}{EXTENSION}"))
    return next((place for place in places if is_file(place)), given)


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a LoRA file: its tensors on the CPU, in the file's dtypes, and its metadata.

    Raises:
        BadInput: the file is missing, no `.safetensors`, damaged or truncated, or no LoRA.
    """
    try:
        with path.open("rb") as file:
            if path.suffix.lower() != EXTENSION:
                what = f"is not a {EXTENSION} file"
                raise _refused(path, what, f"choose or convert to {EXTENSION}")
            header = _read_header(path, file)
            metadata = header.pop("__metadata__")
            _check_adapter(path, header)
            file.seek(0)
            # Read, not mapped: Windows could not replace a file that is mapped.
            tensors = safetensors.torch.load(file.read())
    except OSError as error:
        reason = error.strerror or str(error)
        raise _refused(path, f"cannot be read: {reason}", "check the path") from error
    except (SafetensorError, *NO_HEADER, RuntimeError, MemoryError) as error:
        raise _refused(path, f"is damaged: {error}", "get the file again") from error
    return tensors, {key: str(value) for key, value in metadata.items()}


def _check_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    broken = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if not broken:
        return
    precision = {tensor.dtype for tensor in tensors.values()}
    cure = "lower the learning rate"
    if torch.float16 in precision:
        cure += ", or save in bf16 or fp32 (fp16 ends at 65504)"
    raise NotFiniteError(
        f"{path}: not written, because {len(broken)} of {len(tensors)} tensors hold NaN or"
        f" infinity, the first is {broken[0]} - {cure}"
    )


def _read_header(path: Path, file: BinaryIO) -> dict[str, dict[str, Any]]:
    """The JSON header, checked against the file's size before anything large is read."""
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(LENGTH_BYTES), "little")
    tensors_start = LENGTH_BYTES + length
    if size < LENGTH_BYTES:
        raise _refused(path, f"is truncated: it has {size} bytes", "get the file again")
    if tensors_start > size:
        what = f"is truncated or no .safetensors file: {size} bytes, the header alone {length}"
        raise _refused(path, what, "get the file again")
    try:
        header: dict[str, dict[str, Any]] = json.loads(file.read(length))
        header.setdefault("__metadata__", {}).keys()
        entries = (entry for name, entry in header.items() if name != "__metadata__")
        end = max((int(entry["data_offsets"][1]) for entry in entries), default=0)
    except NO_HEADER as error:
        raise _refused(path, "is no .safetensors file", "choose a LoRA file") from error
    if tensors_start + end > size:
        what = f"is truncated: {size} bytes of {tensors_start + end}"
        raise _refused(path, what, "get the file again")
    return header


def _check_adapter(path: Path, names: Collection[str]) -> None:
    if any(mark in name for name in names for mark in ADAPTER_MARKS):
        return
    if any(name.startswith(("model.diffusion_model.", "cond_stage_model.")) for name in names):
        what = "is a checkpoint, not a LoRA"
    else:
        what = "holds no LoRA" + (f", its first tensor is {sorted(names)[0]}" if names else "")
    raise _refused(path, what, "choose a LoRA file")


def _refused(path: Path, what: str, cure: str) -> BadInput:
    return BadInput([Problem(str(path), what, cure)])
