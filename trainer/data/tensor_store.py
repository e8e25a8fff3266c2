"""Tensors on disk under keys, many to a file, read through the system's file cache.

The store holds no more of them in memory than fill one file.  A file appears whole or not at all,
and is checked before anything is taken from it; one that is damaged counts as if it were not there.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import uuid
import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open  # type: ignore[attr-defined]
from torch import Tensor

from ..atomic import ABANDONED_S, sweep, write_bytes

FILE_MB = 64
"""Size from which on what was added is written."""
OPEN_FILES = 128
"""Files that are kept open; systems allow at least 256."""
HEADER = "trainyard_cache"
_NAMES = re.compile(r"[0-9a-f]{32}")
_DAMAGED = (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError)


class TensorStore:
    """What lies in one folder, which other processes may add to at the same time.

    Args:
        folder: need not exist.
        notice: is told about files that are damaged or cannot be written.
        file_mb: size of the files.
    """

    def __init__(
        self,
        folder: Path,
        notice: Callable[[str], None] = lambda text: None,
        *,
        file_mb: float = FILE_MB,
    ) -> None:
        self.folder = folder
        self._notice = notice
        self._file_bytes = file_mb * 2**20
        self._where: dict[str, Path] = {}
        self._sums: dict[Path, dict[str, dict[str, int]]] = {}  # file -> key -> part -> CRC-32
        self._checked: set[Path] = set()
        self._open: OrderedDict[Path, Any] = OrderedDict()
        self._waiting: dict[str, dict[str, Tensor]] = {}
        self._waiting_bytes = 0
        self._writable = True
        sweep(folder, _NAMES, older_than_s=ABANDONED_S)
        for path in sorted(folder.glob("*.safetensors")) if folder.is_dir() else ():
            self._list(path)

    @property
    def used(self) -> frozenset[Path]:
        """Files from which something was asked for, or that were written."""
        return frozenset(self._checked)

    def __contains__(self, key: str) -> bool:
        """Whether there is something sound under the key."""
        if key in self._waiting:
            return True
        path = self._where.get(key)
        return path is not None and self._is_sound(path)

    def put(self, key: str, parts: Mapping[str, Tensor]) -> None:
        """Adds tensors under a key; they are copied to the main memory, and later to disk."""
        held = {
            name: part.detach().to("cpu", copy=True).contiguous() for name, part in parts.items()
        }
        self._waiting[key] = held
        self._waiting_bytes += sum(part.numel() * part.element_size() for part in held.values())
        if self._writable and self._waiting_bytes >= self._file_bytes:
            self.flush()

    def flush(self) -> None:
        """Writes what was added; what cannot be written stays in memory."""
        if not self._waiting or not self._writable:
            return
        sums = {
            key: {name: _checksum(part) for name, part in parts.items()}
            for key, parts in self._waiting.items()
        }
        named = {
            f"{k}/{n}": part for k, parts in self._waiting.items() for n, part in parts.items()
        }
        path = self.folder / f"{uuid.uuid4().hex}.safetensors"
        try:
            write_bytes(path, safetensors.torch.save(named, {HEADER: json.dumps(sums)}))
        except OSError as error:
            self._writable = False
            reason = error.strerror or error
            self._notice(f"{self.folder} cannot be written to ({reason}); all is kept in memory")
            return
        self._where |= dict.fromkeys(sums, path)
        self._sums[path] = sums
        self._checked.add(path)
        self._waiting, self._waiting_bytes = {}, 0

    def get(self, key: str) -> dict[str, Tensor]:
        """What lies under a key, on the CPU; not to be changed.

        Raises:
            KeyError: there is nothing, or its file has gone since, as another program has made
                room; nothing that lay in it is there then.
        """
        if key in self._waiting:
            return self._waiting[key]
        path = self._where[key]
        try:
            file = self._opened(path)
            return {name: file.get_tensor(f"{key}/{name}") for name in self._sums[path][key]}
        except _DAMAGED as error:
            self._remove(path)
            raise KeyError(key) from error

    def _list(self, path: Path) -> None:
        """Notes what a file holds by its header alone."""
        try:
            with safe_open(path, framework="pt", device="cpu") as file:  # type: ignore[no-untyped-call,attr-defined]
                sums = json.loads((file.metadata() or {})[HEADER])
                names = set(file.keys())
            if {f"{key}/{name}" for key, parts in sums.items() for name in parts} != names:
                raise ValueError("its header does not fit")
        except _DAMAGED:
            self._remove(path)
            return
        self._sums[path] = sums
        self._where |= dict.fromkeys(sums, path)

    def _is_sound(self, path: Path) -> bool:
        """Whether a file holds what was written, read once as a whole; if not, it is removed."""
        if path in self._checked:
            return True
        try:
            # not kept open, so that what was only looked through does not stay mapped
            file: Any = safe_open(path, framework="pt", device="cpu")  # type: ignore[no-untyped-call]
            sound = all(
                _checksum(file.get_tensor(f"{key}/{name}")) == wanted
                for key, parts in self._sums[path].items()
                for name, wanted in parts.items()
            )
        except _DAMAGED:
            sound = False
        if sound:
            self._checked.add(path)
            with contextlib.suppress(OSError):
                os.utime(path)  # what is used is removed last
        else:
            self._remove(path)
        return sound

    def _remove(self, path: Path) -> None:
        self._notice(f"{path} was damaged or removed; what it held is encoded again")
        for key in self._sums.pop(path, {}):
            if self._where.get(key) == path:
                del self._where[key]
        self._open.pop(path, None)
        with contextlib.suppress(OSError):
            path.unlink()

    def _opened(self, path: Path) -> Any:
        file = self._open.pop(path, None)
        if file is None:
            file = safe_open(path, framework="pt", device="cpu")  # type: ignore[no-untyped-call]
        self._open[path] = file
        if len(self._open) > OPEN_FILES:
            self._open.popitem(last=False)
        return file


def _checksum(tensor: Tensor) -> int:
    values: Any = tensor.contiguous().flatten().view(torch.uint8).numpy()
    return zlib.crc32(values)


def prune(root: Path, limit_mb: float, keep: frozenset[Path]) -> None:
    """Removes the stores' files below a folder that were not used for the longest time.

    Args:
        root: of all stores; need not exist.  A user chooses it, so that other files may lie there
            too: whole checkpoints, which neither go nor count.
        limit_mb: what may remain.
        keep: files that remain in any case.
    """
    found = []
    for path in root.rglob("*.safetensors") if root.is_dir() else ():
        if _NAMES.fullmatch(path.stem):
            with contextlib.suppress(OSError):
                facts = path.stat()
                found.append((facts.st_mtime_ns, facts.st_size, path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= limit_mb * 2**20:
            return
        if path not in keep:
            with contextlib.suppress(OSError):
                path.unlink()
                total -= size
