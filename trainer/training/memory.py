"""What a step keeps in memory: freed blocks for the next step, or less for the backward pass.

A step on a CPU frees everything that it allocated.  glibc gives what is free at the end of its
heap back to the system, which clears every page anew for the next step.
"""

from __future__ import annotations

import ctypes
import inspect
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial

from diffusers import Transformer2DModel, UNet2DConditionModel
from torch.utils.checkpoint import checkpoint

from ..models.convolution import FrozenConv2d
from ..models.model import DiffusionModel

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Names of glibc's malloc.h."""
LARGEST_IN_HEAP = 32 * 2**20
"""Larger blocks come from the system and go back to it; its manual names no higher limit."""
USUAL_TRIM, NEVER_TRIM = 2 * LARGEST_IN_HEAP, 2**31 - 1
"""Free bytes at the end of the heap that are given back; the first is where glibc's own end."""


@cache
def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None


def keep_freed(keep: bool) -> None:
    """Whether freed memory stays with this process from now on; without effect outside glibc."""
    libc = _glibc()
    if libc is not None:
        libc.mallopt(M_MMAP_THRESHOLD, LARGEST_IN_HEAP)
        libc.mallopt(M_TRIM_THRESHOLD, NEVER_TRIM if keep else USUAL_TRIM)


@contextmanager
def kept_memory() -> Iterator[None]:
    """Freed memory stays with this process until the end, and then goes back to the system."""
    keep_freed(True)
    try:
        yield
    finally:
        keep_freed(False)
        libc = _glibc()
        if libc is not None:
            libc.malloc_trim(0)


@contextmanager
def gradient_checkpointing(model: DiffusionModel, parts: str) -> Iterator[None]:
    """Fewer results kept for the backward pass, which computes them again, for a `with` block.

    Frozen convolutions, which need no input for it, do without.

    It works in training mode only; these models set dropout, which that mode is for, to 0.

    Args:
        parts: "attention", see `_transformers`, or "all": every block, and the text encoders.
    """
    whole = parts == "all"
    encoders = model.text_encoders if whole else ()
    model.unet.train()
    if whole:
        model.unet.enable_gradient_checkpointing()
    chosen = _transformers(model.unet, middle=whole)
    for part in chosen:
        _checkpoint(part)
    keep_inputs(model.unet, False)
    for encoder in encoders:
        enable = encoder.gradient_checkpointing_enable
        if inspect.signature(enable).parameters:
            # transformers 4.30 only has the reentrant kind, which loses the adapters' gradients
            # here; the text encoders are small and do without.
            encoder.train()
            enable({"use_reentrant": False})
    try:
        yield
    finally:
        for part in chosen:
            vars(part).pop("forward", None)
        model.unet.disable_gradient_checkpointing()
        keep_inputs(model.unet, True)
        model.unet.eval()
        for encoder in encoders:
            encoder.gradient_checkpointing_disable()
            encoder.eval()


def _checkpoint(part: Transformer2DModel) -> None:
    """Has its blocks computed again, each by itself, or all of it where it has but one.

    One block is computed with what is around it for little more time, and four results fewer are
    kept: diffusers, which only does blocks, keeps what goes into and comes out of the projections.
    """
    part.gradient_checkpointing = len(part.transformer_blocks) > 1
    if not part.gradient_checkpointing:
        again = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)
        part.forward = partial(again, part.forward)  # type: ignore[method-assign]


def keep_inputs(unet: UNet2DConditionModel, keep: bool) -> None:
    """Whether the convolutions keep their inputs for the backward pass."""
    for module in unet.modules():
        if isinstance(module, FrozenConv2d):
            module.keeps_input = keep


def _transformers(unet: UNet2DConditionModel, *, middle: bool) -> list[Transformer2DModel]:
    """The parts of a UNet that are worth computing twice.

    Those of the down and up blocks keep 70 % of what a step of SD1 at 512 px keeps and take 47 %
    of its operations; in SDXL at 1024 px 73 and 65 %.  The middle block's keep no more than their
    part in either.
    """
    return [
        part
        for name, part in unet.named_modules()
        if isinstance(part, Transformer2DModel) and (middle or not name.startswith("mid_block."))
    ]
