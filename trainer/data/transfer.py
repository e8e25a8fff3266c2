"""Small tensors on their way to a GPU, without the host waiting for it."""

from __future__ import annotations

import torch
from torch import Tensor

PINS = ("cuda",)
"""Kinds of devices that copy from pinned memory by themselves."""


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """A tensor of the main memory on a device.

    A plain copy to a GPU waits for everything that was begun before: the step before, while the
    next one could be prepared.  One from pinned memory takes its turn on the GPU instead.

    Source: PyTorch's documentation, "CUDA semantics", on pinned memory buffers.
    """
    if torch.device(device).type not in PINS:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
