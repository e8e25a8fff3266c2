"""Where encoded views are kept: in memory, or on disk for the next training too."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from .buckets import LATENT_CELL_PX
from .tensor_store import TensorStore
from .views import View

VERSION = 2
"""Of how pictures become pixels: to be raised whenever the same picture would give others."""
_PART = "latents"


class Latents(Protocol):
    """Latents [c, h/8, w/8] by view."""

    def __contains__(self, view: View) -> bool: ...

    def put(self, views: Sequence[View], latents: Tensor) -> None:
        """Keeps latents [n, c, h/8, w/8], one for each view."""

    def finish(self) -> None:
        """Nothing more is put."""

    def get(self, view: View) -> Tensor:
        """Raises: KeyError: it is not there, or not any more."""


class LatentsInMemory:
    """Args: device: on which they are kept."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self._device = device
        self._latents: dict[View, Tensor] = {}

    def __contains__(self, view: View) -> bool:
        return view in self._latents

    def put(self, views: Sequence[View], latents: Tensor) -> None:
        """See `Latents.put`."""
        # copied, because an encoder may hand out inference tensors, which cannot be trained on
        kept = latents.to(self._device, torch.float32, copy=True)
        self._latents.update(zip(views, kept, strict=True))

    def finish(self) -> None:
        """See `Latents.finish`."""

    def get(self, view: View) -> Tensor:
        """On the device on which they are kept."""
        return self._latents[view]


class LatentsOnDisk:
    """Latents under keys of their picture's file, all of their view and the encoder.

    Args:
        store: where they lie.
        encoder: what tells one encoder from another.
        device: on which they are handed out.
    """

    def __init__(
        self, store: TensorStore, encoder: str, device: torch.device | str = "cpu"
    ) -> None:
        self.store = store
        self._encoder = encoder
        self._device = device
        self._files: dict[Path, str] = {}
        self._keys: dict[View, str] = {}

    def __contains__(self, view: View) -> bool:
        return self._key(view) in self.store

    def put(self, views: Sequence[View], latents: Tensor) -> None:
        """See `Latents.put`."""
        for view, one in zip(views, latents.float(), strict=True):
            self.store.put(self._key(view), {_PART: one})

    def finish(self) -> None:
        """See `Latents.finish`."""
        self.store.flush()

    def get(self, view: View) -> Tensor:
        """Read from disk, and copied to the device."""
        return self.store.get(self._key(view))[_PART].to(self._device, copy=True)

    def _key(self, view: View) -> str:
        if view not in self._keys:
            facts = (VERSION, self._encoder, self._file(view.image.path))
            text = repr((*facts, tuple(view.frame_px), view.mirrored, tuple(view.shift)))
            self._keys[view] = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
        return self._keys[view]

    def _file(self, path: Path) -> str:
        """A file is taken to be the same as long as its place, size and time are."""
        if path not in self._files:
            try:
                facts = path.stat()
                stamp = (str(path.resolve()), facts.st_size, facts.st_mtime_ns)
            except OSError:
                stamp = (str(path), 0, 0)  # reading it will say what is wrong
            self._files[path] = repr(stamp)
        return self._files[path]


def size_mb(views: Sequence[View], channels: int = 4) -> float:
    """What the latents of all distinct views take as float32, in MB."""
    cells = sum(
        view.frame_px[0] * view.frame_px[1] // LATENT_CELL_PX**2 for view in dict.fromkeys(views)
    )
    return cells * channels * 4 / 2**20
