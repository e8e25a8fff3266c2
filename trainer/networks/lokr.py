"""LoKr: delta W = w1 (x) w2, a Kronecker product of a small matrix and a larger one.

The product is never formed: with x read as a matrix [in1, in2], (w1 (x) w2) x is
w1 . x . w2^T, which costs a fraction of the layer itself.

Source: Yeh et al. 2023, Navigating Text-To-Image Customization: From LyCORIS Fine-Tuning to Model
Evaluation, section 3.3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .adapter import (
    Adapter,
    MisfitError,
    Size,
    alpha_of,
    fill,
    kaiming_uniform,
    layer_shape,
    rank_of,
    require,
    zeros,
)
from .targets import Layer

W1, W1_A, W1_B = "lokr_w1", "lokr_w1_a", "lokr_w1_b"
W2, W2_A, W2_B = "lokr_w2", "lokr_w2_a", "lokr_w2_b"
TENSOR_NAMES = (W1, W1_A, W1_B, W2, W2_A, W2_B)


class Lokr(Adapter):
    """w1 [out1, in1] and w2 [out2, in2 (, k, k)], each whole or of low rank.

    Low rank: w1_a [out1, rank] . w1_b [rank, in1]; w2_a [out2, rank] . w2_b [rank, in2 * k * k].
    """

    strength_in = (W1, W1_A)
    fast = (W2, W2_B)

    def __init__(
        self, layer: Layer, weights: Mapping[str, nn.Parameter], rank: int, alpha: float
    ) -> None:
        """Hold these weights, under the names that files give them.

        Two whole factors have no rank, so nothing is scaled by alpha / rank then; their alpha is
        the rank, as LyCORIS writes it.
        """
        whole = W1 in weights and W2 in weights
        super().__init__(rank, float(rank) if whole else alpha, scaled=not whole)
        self.kernel = layer_shape(layer)[2]
        self._names = tuple(weights)
        for name, weight in weights.items():
            self.register_parameter(name, weight)

    def forward(self, x: Tensor, output: Tensor) -> Tensor:
        """For x [..., in] and output [..., out]."""
        w1, w2 = self.factors(output.dtype)
        x = x.to(output.dtype)
        groups = x.reshape(*x.shape[:-1], w1.shape[1], w2.shape[1])  # [..., in1, in2]
        rows = F.linear(groups, w2)  # [..., in1, out2]
        mixed = F.linear(rows.transpose(-1, -2), w1)  # [..., out2, out1]
        return output + self.thinned(mixed.transpose(-1, -2).flatten(-2))

    def factors(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """w1 [out1, in1], factor included, and w2 [out2, in2 (, k, k)].

        Dropping ranks drops those of w2; where it is whole, columns of w1 instead.
        """
        weights: dict[str, Tensor] = {**self.weights()}
        if self.mask:
            thinned = W2_A if W2_A in weights else W1 if W1 in weights else W1_A
            weights[thinned] = self.mask.thin_ranks(weights[thinned])
        w1 = weights[W1] if W1 in weights else weights[W1_A] @ weights[W1_B]
        w2 = weights[W2] if W2 in weights else weights[W2_A] @ weights[W2_B]
        if self.kernel:
            w2 = w2.reshape(w2.shape[0], -1, *self.kernel)
        return (w1 * self.factor).to(dtype), w2.to(dtype)

    def thinned(self, addition: Tensor) -> Tensor:
        """The addition with the dropout of single values."""
        return self.mask.thin(addition) if self.mask else addition

    def norm(self) -> Tensor:
        """The norm of a Kronecker product is the product of the norms."""
        weights = {name: weight.float() for name, weight in self.weights().items()}
        w1 = weights[W1] if W1 in weights else weights[W1_A] @ weights[W1_B]
        w2 = weights[W2] if W2 in weights else weights[W2_A] @ weights[W2_B]
        return w1.norm() * w2.norm() * abs(self.scale)

    def weights(self) -> dict[str, nn.Parameter]:
        return {name: self.get_parameter(name) for name in self._names}


class ConvLokr(Lokr):
    """LoKr on a convolution, without a Tucker core."""

    def __init__(
        self, layer: nn.Conv2d, weights: Mapping[str, nn.Parameter], rank: int, alpha: float
    ) -> None:
        """Hold these weights, under the names that files give them."""
        super().__init__(layer, weights, rank, alpha)
        self.stride, self.padding, self.dilation = layer.stride, layer.padding, layer.dilation

    def forward(self, x: Tensor, output: Tensor) -> Tensor:
        """For x [n, in, h, w] and output [n, out, h', w']."""
        w1, w2 = self.factors(output.dtype)
        x = x.to(output.dtype)
        n, in1 = x.shape[0], w1.shape[1]
        groups = x.reshape(n * in1, w2.shape[1], *x.shape[2:])
        rows = F.conv2d(groups, w2, None, self.stride, self.padding, self.dilation)
        mixed = torch.matmul(w1, rows.reshape(n, in1, -1))  # [n, out1, out2 * h * w]
        return output + self.thinned(mixed.view_as(output))


def build(layer: Layer, size: Size, generator: torch.Generator | None = None) -> Adapter:
    """A new LoKr for a layer; it changes nothing until it is trained.

    w2 is whole where the rank would save nothing.
    """
    width_out, width_in, kernel = layer_shape(layer)
    out1, out2 = split(width_out, size.factor)
    in1, in2 = split(width_in, size.factor)
    weights = {W1: kaiming_uniform((out1, in1), generator)}
    if size.rank >= max(out2, in2) / 2:
        weights[W2] = zeros((out2, in2, *kernel))
        return _of(layer, weights, size.rank, size.alpha)
    weights[W2_A] = kaiming_uniform((out2, size.rank), generator)
    weights[W2_B] = zeros((size.rank, in2 * math.prod(kernel)))
    return _of(layer, weights, size.rank, size.alpha)


def from_file(layer: Layer, tensors: Mapping[str, Tensor]) -> Adapter:
    """The LoKr that a file's group describes, however it splits the layer.

    Raises:
        MisfitError: the tensors do not fit the layer.
    """
    shapes = _shapes(layer, tensors)
    low_rank = [name for name in (W1_B, W2_B) if name in shapes]
    rank = rank_of(tensors, low_rank[0]) if low_rank else max(1, round(alpha_of(tensors, 1)))
    alpha = alpha_of(tensors, rank)
    adapter = _of(layer, {name: zeros(shape) for name, shape in shapes.items()}, rank, alpha)
    fill(adapter, tensors)
    return adapter


def split(width: int, most: int = -1) -> tuple[int, int]:
    """Two factors of a width, the smaller one first.

    Args:
        most: what the smaller one may be at most; -1 takes the two nearest to each other.
    """
    root = math.isqrt(width)
    start = root if most < 1 else min(root, most)
    smaller = next(n for n in range(start, 0, -1) if width % n == 0)
    return smaller, width // smaller


def _of(layer: Layer, weights: Mapping[str, nn.Parameter], rank: int, alpha: float) -> Adapter:
    if isinstance(layer, nn.Conv2d):
        return ConvLokr(layer, weights, rank, alpha)
    return Lokr(layer, weights, rank, alpha)


def _shapes(layer: Layer, tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """The shapes that a file's tensors must have for the split of widths that its w1 shows.

    Raises:
        MisfitError: a factor is missing, or w1 does not divide the layer's widths.
    """
    width_out, width_in, kernel = layer_shape(layer)
    if W1 in tensors:
        out1, in1 = rank_of(tensors, W1), tensors[W1].shape[1]
        shapes: dict[str, tuple[int, ...]] = {W1: (out1, in1)}
    else:
        require(tensors, W1_A, W1_B)
        rank = rank_of(tensors, W1_B)
        out1, in1 = rank_of(tensors, W1_A), tensors[W1_B].shape[1]
        shapes = {W1_A: (out1, rank), W1_B: (rank, in1)}
    if not in1 or width_out % out1 or width_in % in1:
        raise MisfitError(f"[{out1}, {in1}] of w1 does not divide [{width_out}, {width_in}]")
    out2, in2 = width_out // out1, width_in // in1
    if W2 in tensors:
        return {**shapes, W2: (out2, in2, *kernel)}
    require(tensors, W2_A, W2_B)
    rank = rank_of(tensors, W2_B)
    return {**shapes, W2_A: (out2, rank), W2_B: (rank, in2 * math.prod(kernel))}
