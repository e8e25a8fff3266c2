"""Weights in one piece, for optimizers that ask the device for numbers of each weight by itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import torch
from torch import Tensor, nn


class Piece:
    """Many weights as parts of one.

    An optimizer that treats every element alike, or by sums over all weights, makes the same of
    it, but asks the device once where it would ask for every weight.
    """

    def __init__(self, weights: Sequence[nn.Parameter]) -> None:
        """Makes the weights, all of one dtype and device, views of a new one."""
        self._weights = tuple(weights)
        self.whole = nn.Parameter(torch.cat([weight.detach().flatten() for weight in weights]))
        parts = self.whole.detach().split([weight.numel() for weight in weights])
        for weight, part in zip(weights, parts, strict=True):
            weight.data = part.view_as(weight)

    def gather(self) -> None:
        """Moves the weights' gradients to the whole; one that a weight has not counts as 0."""
        if all(weight.grad is None for weight in self._weights):
            return
        self.whole.grad = torch.cat([_gradient(weight).flatten() for weight in self._weights])
        for weight in self._weights:
            weight.grad = None


def _gradient(weight: nn.Parameter) -> Tensor:
    return torch.zeros_like(weight) if weight.grad is None else weight.grad


def pieces(weights: Sequence[nn.Parameter]) -> Iterator[Piece]:
    """One of each dtype: some weights are kept more exactly than others."""
    ordered = sorted(weights, key=lambda weight: str(weight.dtype))
    for _, alike in groupby(ordered, lambda weight: weight.dtype):
        yield Piece(tuple(alike))
