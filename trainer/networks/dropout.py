"""Dropout of adapters, drawn anew for each batch and repeatable within it.

What is dropped follows from a seed, not from torch's own random numbers: gradient checkpointing
repeats a forward pass and must see the same again, and a training that is continued must go on as
if it had never stopped.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Dropout:
    """With which probability, 0 to below 1, a part of a network is left out in training."""

    network: float = 0.0
    """Of each value between a LoRA's halves; of each value that another kind adds."""
    rank: float = 0.0
    """Of each of an adapter's ranks."""
    module: float = 0.0
    """Of each adapter as a whole."""

    def __bool__(self) -> bool:
        """Whether anything is left out at all."""
        return bool(self.network or self.rank or self.module)


NO_DROPOUT = Dropout()


@dataclass(frozen=True)
class Mask:
    """What one adapter leaves out during one batch."""

    dropout: Dropout
    seed: int
    whole: bool
    """The adapter adds nothing."""

    def thin(self, values: Tensor) -> Tensor:
        """Drop values and scale up the others, so that the mean stays."""
        if not self.dropout.network:
            return values
        return values * self._kept(values, self.dropout.network, 0)

    def thin_ranks(self, values: Tensor, axis: int = -1) -> Tensor:
        """Drop whole ranks, which lie along `axis`, and scale up the others.

        Source: sd-scripts and LyCORIS know it as rank_dropout.
        """
        if not self.dropout.rank:
            return values
        shape = [1] * values.ndim
        shape[axis] = values.shape[axis]
        return values * self._kept(values.new_empty(shape), self.dropout.rank, 1)

    def _kept(self, like: Tensor, probability: float, stream: int) -> Tensor:
        """0 with the probability, else the factor that makes up for it."""
        drawn = torch.Generator(like.device).manual_seed(2 * self.seed + stream)
        kept = torch.rand(like.shape, generator=drawn, device=like.device) >= probability
        return kept.to(like.dtype) / (1 - probability)
