"""LoRA: delta W = up . down, for Linears, 1x1 convolutions and larger kernels (LoCon).

Source: Hu et al. 2021, LoRA: Low-Rank Adaptation of Large Language Models, section 4.1.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .adapter import (
    Adapter,
    LayerForward,
    Size,
    alpha_of,
    fill,
    kaiming_uniform,
    layer_shape,
    rank_of,
    require,
    zeros,
)
from .fused import LinearWithLora
from .targets import Layer

DOWN, UP = "lora_down.weight", "lora_up.weight"
TENSOR_NAMES = (DOWN, UP)
CAN_FUSE = hasattr(torch, "float8_e4m3fn")
"""torch has it from 2.1 on; 2.0, which the webui 1.7 brings, fails at gradient checkpointing."""


class Lora(Adapter):
    """up . down on a Linear: down [rank, in], up [out, rank]."""

    strength_in = (UP,)
    fast = (UP,)

    def __init__(
        self, layer: Layer, rank: int, alpha: float, generator: torch.Generator | None = None
    ) -> None:
        """Draw `down` and leave `up` at zero."""
        super().__init__(rank, alpha)
        width_out, width_in, kernel = layer_shape(layer)
        self.down = kaiming_uniform((rank, width_in, *kernel), generator)
        self.up = zeros((width_out, rank, *(1 for _ in kernel)))

    def forward(self, x: Tensor, output: Tensor) -> Tensor:
        """For x [..., in] and output [..., out]."""
        dtype = output.dtype
        low = F.linear(x.to(dtype), self.down.to(dtype))  # [..., rank]
        if self.mask:
            low = self.mask.thin_ranks(self.mask.thin(low))
        return add_product(output, low, self.up.to(dtype), self.factor)

    def beside(self, layer: Layer) -> LayerForward | None:
        """See `Adapter.beside`: for a Linear whose weight is frozen."""
        if not isinstance(layer, nn.Linear) or layer.weight.requires_grad or not CAN_FUSE:
            return None
        plain: LayerForward = layer.forward

        def forward(x: Tensor) -> Tensor:
            if self.rests:
                return plain(x)
            if self.mask:
                return self.forward(x, plain(x))
            output: Tensor = LinearWithLora.apply(x, self.down, self.up, layer, self.factor)
            return output

        return forward

    def weights(self) -> dict[str, nn.Parameter]:
        return {DOWN: self.down, UP: self.up}

    def norm(self) -> Tensor:
        """By two products of rank x rank: the norm of up . down without forming it."""
        down, up = self.down.float().flatten(1), self.up.float().flatten(1)
        square = ((up.T @ up) * (down @ down.T)).sum().clamp(min=0)
        return square.sqrt() * abs(self.scale)


class ConvLora(Lora):
    """up . down on a convolution: down [rank, in, k, k] with its stride, up [out, rank, 1, 1]."""

    def __init__(
        self, layer: nn.Conv2d, rank: int, alpha: float, generator: torch.Generator | None = None
    ) -> None:
        """Draw `down` and leave `up` at zero."""
        super().__init__(layer, rank, alpha, generator)
        self.stride, self.padding, self.dilation = layer.stride, layer.padding, layer.dilation

    def forward(self, x: Tensor, output: Tensor) -> Tensor:
        """For x [n, in, h, w] and output [n, out, h', w']."""
        dtype = output.dtype
        low = self.convolve(x.to(dtype), self.down.to(dtype))
        if self.mask:
            low = self.mask.thin_ranks(self.mask.thin(low), axis=1)
        return output + F.conv2d(low, (self.up * self.factor).to(dtype))

    def convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        """x through a weight with the layer's stride, padding and dilation."""
        return F.conv2d(x, weight, None, self.stride, self.padding, self.dilation)


def add_product(output: Tensor, low: Tensor, up: Tensor, factor: float) -> Tensor:
    """output [..., out] + factor * low [..., rank] . up^T, in one pass over the output."""
    flat = torch.addmm(output.flatten(0, -2), low.flatten(0, -2), up.T, alpha=factor)
    return flat.view_as(output)


def build(layer: Layer, size: Size, generator: torch.Generator | None = None) -> Adapter:
    """A new LoRA for a layer; it changes nothing until it is trained."""
    if isinstance(layer, nn.Conv2d):
        return ConvLora(layer, size.rank, size.alpha, generator)
    return Lora(layer, size.rank, size.alpha, generator)


def from_file(layer: Layer, tensors: Mapping[str, Tensor]) -> Adapter:
    """The LoRA that a file's group describes, with the file's rank and alpha.

    Raises:
        MisfitError: the tensors do not fit the layer.
    """
    require(tensors, *TENSOR_NAMES)
    rank = rank_of(tensors, DOWN)
    adapter = build(layer, Size(rank, alpha_of(tensors, rank)))
    fill(adapter, tensors)
    return adapter
