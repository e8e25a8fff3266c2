"""Conditionings on disk, and what tells one model's from another's."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from itertools import chain

import torch
from torch import nn

from ..data.tensor_store import TensorStore
from .text import Conditioning

VERSION = 2
"""Of how prompts become conditionings: to be raised whenever the same one would become another."""
MOST_VALUES = 1 << 16
"""Values of one tensor that its fingerprint is made of."""


class ConditioningsOnDisk:
    """Conditionings of single prompts under keys of the prompt and the encoders.

    Args:
        store: where they lie.
        encoder: what tells one way of encoding from another.
        device: on which they are handed out.
    """

    def __init__(self, store: TensorStore, encoder: str, device: torch.device) -> None:
        self._store = store
        self._encoder = encoder
        self._device = device

    def __contains__(self, prompt: object) -> bool:
        return isinstance(prompt, str) and self._key(prompt) in self._store

    def __setitem__(self, prompt: str, one: Conditioning) -> None:
        parts = {"context": one.context}
        if one.pooled is not None:
            parts["pooled"] = one.pooled
        self._store.put(self._key(prompt), parts)

    def __getitem__(self, prompt: str) -> Conditioning:
        parts = self._store.get(self._key(prompt))
        pooled = parts.get("pooled")
        return Conditioning(
            parts["context"].to(self._device),
            None if pooled is None else pooled.to(self._device),
        )

    def finish(self) -> None:
        """Writes what was added."""
        self._store.flush()

    def _key(self, prompt: str) -> str:
        text = repr((VERSION, self._encoder, prompt))
        return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()


def fingerprint(modules: Iterable[nn.Module]) -> str:
    """A digest that two models share only if their weights are the same.

    Of large tensors it takes evenly spread values: training, merging or rounding changes nearly
    all values of a tensor.  Weights in 8 bits are buffers, which a state dict leaves out.
    """
    digest = hashlib.sha256()
    for module in modules:
        for name, tensor in chain(module.named_parameters(), module.named_buffers()):
            step = max(1, tensor.numel() // MOST_VALUES)
            values = tensor.detach().flatten()[::step].contiguous().cpu()
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} ".encode())
            digest.update(values.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:32]
