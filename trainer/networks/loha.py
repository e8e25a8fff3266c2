"""LoHa: delta W = (w1_a . w1_b) * (w2_a . w2_b), the elementwise product of two low ranks.

Source: Hyeon-Woo et al. 2021, FedPara: Low-rank Hadamard Product, proposition 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .adapter import (
    Adapter,
    alpha_of,
    fill,
    layer_shape,
    normal,
    rank_of,
    require,
    zeros,
)
from .targets import Layer

W1_A, W1_B, W2_A, W2_B = TENSOR_NAMES = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")


class HadamardProduct(torch.autograd.Function):
    """(w1_a . w1_b) * (w2_a . w2_b) that keeps only the factors for its backward pass.

    The two products are as large as the layer's weight; kept for every layer they would need
    twice the memory of the whole model.
    """

    @staticmethod
    def forward(ctx: Any, w1_a: Tensor, w1_b: Tensor, w2_a: Tensor, w2_b: Tensor) -> Tensor:
        """The product, [out, in]."""
        ctx.save_for_backward(w1_a, w1_b, w2_a, w2_b)
        return (w1_a @ w1_b) * (w2_a @ w2_b)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        """The gradients of the four factors, in the factors' dtype."""
        w1_a, w1_b, w2_a, w2_b = ctx.saved_tensors
        grad = grad.to(w1_a.dtype)
        grad_w1 = grad * (w2_a @ w2_b)
        grad_w2 = grad * (w1_a @ w1_b)
        return grad_w1 @ w1_b.T, w1_a.T @ grad_w1, grad_w2 @ w2_b.T, w2_a.T @ grad_w2


class Loha(Adapter):
    """w1_a and w2_a [out, rank], w1_b and w2_b [rank, in * k * k]."""

    strength_in = (W1_A,)

    def __init__(
        self, layer: Layer, rank: int, alpha: float, generator: torch.Generator | None = None
    ) -> None:
        """Draw three factors and leave `w2_a` at zero."""
        super().__init__(rank, alpha)
        width_out, width_in, kernel = layer_shape(layer)
        inputs = width_in * math.prod(kernel)
        self.w1_a = normal((width_out, rank), 0.1, generator)
        self.w1_b = normal((rank, inputs), 1.0, generator)
        self.w2_a = zeros((width_out, rank))
        self.w2_b = normal((rank, inputs), 1.0, generator)

    def delta_weight(self, dtype: torch.dtype) -> Tensor:
        """The addition to the layer's weight, factor included, [out, in * k * k]."""
        product: Tensor = HadamardProduct.apply(  # type: ignore[no-untyped-call]
            (self.w1_a * self.factor).to(dtype),
            self.w1_b.to(dtype),
            self.w2_a.to(dtype),
            self.w2_b.to(dtype),
        )
        return product

    def forward(self, x: Tensor) -> Tensor:
        """The addition for x [..., in], shaped [..., out]."""
        return F.linear(x, self.delta_weight(x.dtype))

    def weights(self) -> dict[str, nn.Parameter]:
        return {W1_A: self.w1_a, W1_B: self.w1_b, W2_A: self.w2_a, W2_B: self.w2_b}


class ConvLoha(Loha):
    """LoHa on a convolution, without a Tucker core."""

    def __init__(
        self, layer: nn.Conv2d, rank: int, alpha: float, generator: torch.Generator | None = None
    ) -> None:
        """Draw three factors and leave `w2_a` at zero."""
        super().__init__(layer, rank, alpha, generator)
        self.weight_shape = layer.weight.shape
        self.stride, self.padding, self.dilation = layer.stride, layer.padding, layer.dilation

    def forward(self, x: Tensor) -> Tensor:
        """The addition for x [n, in, h, w], in the shape of the convolution's output."""
        delta = self.delta_weight(x.dtype).view(self.weight_shape)
        return F.conv2d(x, delta, None, self.stride, self.padding, self.dilation)


def build(
    layer: Layer, rank: int, alpha: float, generator: torch.Generator | None = None
) -> Adapter:
    """A new LoHa for a layer; it changes nothing until it is trained."""
    if isinstance(layer, nn.Conv2d):
        return ConvLoha(layer, rank, alpha, generator)
    return Loha(layer, rank, alpha, generator)


def from_file(layer: Layer, tensors: Mapping[str, Tensor]) -> Adapter:
    """The LoHa that a file's group describes, with the file's rank and alpha.

    Raises:
        MisfitError: the tensors do not fit the layer.
    """
    require(tensors, *TENSOR_NAMES)
    rank = rank_of(tensors, W1_B)
    adapter = build(layer, rank, alpha_of(tensors, rank))
    fill(adapter, tensors)
    return adapter
