"""LoHa: delta W = (w1_a . w1_b) * (w2_a . w2_b), the elementwise product of two low ranks.

Source: Hyeon-Woo et al. 2021, FedPara: Low-rank Hadamard Product, proposition 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.grad import conv2d_input, conv2d_weight

from .adapter import (
    Adapter,
    Size,
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
FORMING = 5
"""What forming delta W costs by rank, forward and backward, in uses of delta W itself."""

SMALL_RANK = 8
"""Up to here the pairs of ranks are few beside the layer's own width."""


class Form(Protocol):
    """How a layer's weight, given as a matrix [rows, columns], is applied."""

    def apply(self, x: Tensor, weight: Tensor) -> Tensor: ...
    def grad_of_x(self, x: Tensor, weight: Tensor, grad: Tensor) -> Tensor: ...
    def grad_of_weight(self, x: Tensor, weight: Tensor, grad: Tensor) -> Tensor: ...


class LinearForm:
    """To the last axis."""

    def apply(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.linear(x, weight)

    def grad_of_x(self, _x: Tensor, weight: Tensor, grad: Tensor) -> Tensor:
        return grad @ weight

    def grad_of_weight(self, x: Tensor, _weight: Tensor, grad: Tensor) -> Tensor:
        return grad.flatten(0, -2).T @ x.flatten(0, -2)


@dataclass(frozen=True)
class ConvForm:
    """As a convolution."""

    kernel: tuple[int, ...] = (1, 1)
    stride: tuple[int, ...] = (1, 1)
    padding: tuple[int, ...] = (0, 0)
    dilation: tuple[int, ...] = (1, 1)

    def apply(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.conv2d(x, self._kernels(weight), None, self.stride, self.padding, self.dilation)

    def grad_of_x(self, x: Tensor, weight: Tensor, grad: Tensor) -> Tensor:
        how = (self.stride, self.padding, self.dilation)
        found: Tensor = conv2d_input(x.shape, self._kernels(weight), grad, *how)
        return found

    def grad_of_weight(self, x: Tensor, weight: Tensor, grad: Tensor) -> Tensor:
        how = (self.stride, self.padding, self.dilation)
        found: Tensor = conv2d_weight(x, list(self._kernels(weight).shape), grad, *how)
        return found.flatten(1)

    def _kernels(self, weight: Tensor) -> Tensor:
        return weight.view(len(weight), -1, *self.kernel)


class Hadamard(torch.autograd.Function):
    """x through (w1_a . w1_b) * (w2_a . w2_b), keeping only x and the factors.

    The product is as large as the layer's weight: kept for every layer until the backward pass, it
    would need the memory of the whole model again.  It is made again there instead.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, w1_a: Tensor, w1_b: Tensor, w2_a: Tensor, w2_b: Tensor, form: Form
    ) -> Tensor:
        """All in one dtype."""
        ctx.save_for_backward(x, w1_a, w1_b, w2_a, w2_b)
        ctx.form = form
        return form.apply(x, (w1_a @ w1_b) * (w2_a @ w2_b))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of x and of the four factors."""
        x, w1_a, w1_b, w2_a, w2_b = ctx.saved_tensors
        first, second = w1_a @ w1_b, w2_a @ w2_b
        delta = first * second
        grad_x = ctx.form.grad_of_x(x, delta, grad) if ctx.needs_input_grad[0] else None
        grad_delta = ctx.form.grad_of_weight(x, delta, grad)
        of_first, of_second = grad_delta * second, grad_delta * first
        of_1 = of_first @ w1_b.T, w1_a.T @ of_first
        of_2 = of_second @ w2_b.T, w2_a.T @ of_second
        return grad_x, *of_1, *of_2, None


class PairedHadamard(torch.autograd.Function):
    """The same as `Hadamard`, as the product of two matrices of rank^2.

    Their rows are those of w1_b times those of w2_b, their columns those of w1_a times those of
    w2_a.  At small ranks, or on small pictures, this is far cheaper than a matrix as large as the
    layer's weight.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, w1_a: Tensor, w1_b: Tensor, w2_a: Tensor, w2_b: Tensor, form: Form
    ) -> Tensor:
        """All in one dtype."""
        ctx.save_for_backward(x, w1_a, w1_b, w2_a, w2_b)
        ctx.form = form
        low = form.apply(x, row_pairs(w1_b, w2_b))
        return _second(form).apply(low, column_pairs(w1_a, w2_a))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of x and of the four factors."""
        x, w1_a, w1_b, w2_a, w2_b = ctx.saved_tensors
        form, second = ctx.form, _second(ctx.form)
        down, up = row_pairs(w1_b, w2_b), column_pairs(w1_a, w2_a)
        low = form.apply(x, down)
        grad_low = second.grad_of_x(low, up, grad)
        grad_x = form.grad_of_x(x, down, grad_low) if ctx.needs_input_grad[0] else None
        rank = len(w1_b)
        of_up = second.grad_of_weight(low, up, grad).view(-1, rank, rank)
        of_down = form.grad_of_weight(x, down, grad_low).view(rank, rank, -1)
        of_1 = (of_up * w2_a[:, None]).sum(2), (of_down * w2_b[None]).sum(1)
        of_2 = (of_up * w1_a[:, :, None]).sum(1), (of_down * w1_b[:, None]).sum(0)
        return grad_x, *of_1, *of_2, None


def row_pairs(first: Tensor, second: Tensor) -> Tensor:
    """Each row of one matrix times each row of the other: [rank, n], [rank, n] to [rank^2, n]."""
    return (first[:, None] * second[None]).flatten(0, 1)


def column_pairs(first: Tensor, second: Tensor) -> Tensor:
    """Each column times each column: [n, rank], [n, rank] to [n, rank^2]."""
    return (first[:, :, None] * second[:, None]).flatten(1)


def _second(form: Form) -> Form:
    """How the second of two matrices is applied after the first."""
    return ConvForm() if isinstance(form, ConvForm) else form


class Loha(Adapter):
    """w1_a and w2_a [out, rank], w1_b and w2_b [rank, in * k * k]."""

    strength_in = (W1_A,)
    fast = (W2_A,)

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
        self.form: Form = LinearForm()
        if isinstance(layer, nn.Conv2d):
            # `padding` may be a text in a convolution, but is none in a diffusion model.
            padding = cast("tuple[int, ...]", layer.padding)
            self.form = ConvForm(kernel, layer.stride, padding, layer.dilation)

    def forward(self, x: Tensor, output: Tensor) -> Tensor:
        """For x [..., in] and output [..., out], or [n, in, h, w] and [n, out, h', w']."""
        dtype = output.dtype
        w1_a = self.w1_a * self.factor
        if self.mask:
            w1_a = self.mask.thin_ranks(w1_a)
        factors = [w.to(dtype) for w in (w1_a, self.w1_b, self.w2_a, self.w2_b)]
        addition = self.addition(x.to(dtype), factors, output.numel() // len(w1_a))
        return output + (self.mask.thin(addition) if self.mask else addition)

    def addition(self, x: Tensor, factors: Sequence[Tensor], positions: int) -> Tensor:
        """x through delta W by the cheapest way for so many positions of x."""
        if not self.pairs_are_cheaper(positions):
            found: Tensor = Hadamard.apply(x, *factors, self.form)  # type: ignore[no-untyped-call]
        elif self.rank > SMALL_RANK:
            found = PairedHadamard.apply(x, *factors, self.form)  # type: ignore[no-untyped-call]
        else:  # what autograd keeps is small, and cheaper to keep than to make again
            w1_a, w1_b, w2_a, w2_b = factors
            low = self.form.apply(x, row_pairs(w1_b, w2_b))
            found = _second(self.form).apply(low, column_pairs(w1_a, w2_a))
        return found

    def pairs_are_cheaper(self, positions: int) -> bool:
        """Whether the product of rank^2 needs fewer multiplications than delta W, both ways."""
        width_out, width_in = len(self.w1_a), self.w1_b.shape[1]
        paired = self.rank**2 * positions * (width_out + width_in)
        return paired < width_out * width_in * (positions + FORMING * self.rank)

    def weights(self) -> dict[str, nn.Parameter]:
        return {W1_A: self.w1_a, W1_B: self.w1_b, W2_A: self.w2_a, W2_B: self.w2_b}

    def norm(self) -> Tensor:
        """The norm of delta W."""
        w1_a, w1_b, w2_a, w2_b = (weight.float() for weight in self.weights().values())
        return ((w1_a @ w1_b) * (w2_a @ w2_b)).norm() * abs(self.scale)


def build(layer: Layer, size: Size, generator: torch.Generator | None = None) -> Adapter:
    """A new LoHa for a layer; it changes nothing until it is trained."""
    return Loha(layer, size.rank, size.alpha, generator)


def from_file(layer: Layer, tensors: Mapping[str, Tensor]) -> Adapter:
    """The LoHa that a file's group describes, with the file's rank and alpha.

    Raises:
        MisfitError: the tensors do not fit the layer.
    """
    require(tensors, *TENSOR_NAMES)
    rank = rank_of(tensors, W1_B)
    adapter = build(layer, Size(rank, alpha_of(tensors, rank)))
    fill(adapter, tensors)
    return adapter
