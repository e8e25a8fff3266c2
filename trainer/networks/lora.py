"""LoRA: delta W = up . down, for Linears, 1x1 convolutions and larger kernels (LoCon).

Source: Hu et al. 2021, LoRA: Low-Rank Adaptation of Large Language Models, section 4.1.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .adapter import Adapter, alpha_of, fill, kaiming_uniform, layer_shape, rank_of, require, zeros
from .targets import Layer

DOWN, UP = "lora_down.weight", "lora_up.weight"
TENSOR_NAMES = (DOWN, UP)


class Lora(Adapter):
    """up . down on a Linear: down [rank, in], up [out, rank]."""

    strength_in = (UP,)

    def __init__(
        self, layer: Layer, rank: int, alpha: float, generator: torch.Generator | None = None
    ) -> None:
        """Draw `down` and leave `up` at zero."""
        super().__init__(rank, alpha)
        width_out, width_in, kernel = layer_shape(layer)
        self.down = kaiming_uniform((rank, width_in, *kernel), generator)
        self.up = zeros((width_out, rank, *(1 for _ in kernel)))

    def forward(self, x: Tensor) -> Tensor:
        """The addition for x [..., in], shaped [..., out]."""
        low = F.linear(x, self.down.to(x.dtype)) * self.factor  # [..., rank]
        return F.linear(low, self.up.to(x.dtype))

    def weights(self) -> dict[str, nn.Parameter]:
        return {DOWN: self.down, UP: self.up}


class ConvLora(Lora):
    """up . down on a convolution: down [rank, in, k, k] with its stride, up [out, rank, 1, 1]."""

    def __init__(
        self, layer: nn.Conv2d, rank: int, alpha: float, generator: torch.Generator | None = None
    ) -> None:
        """Draw `down` and leave `up` at zero."""
        super().__init__(layer, rank, alpha, generator)
        self.stride, self.padding, self.dilation = layer.stride, layer.padding, layer.dilation

    def forward(self, x: Tensor) -> Tensor:
        """The addition for x [n, in, h, w], in the shape of the convolution's output."""
        down = self.down.to(x.dtype)
        low = F.conv2d(x, down, None, self.stride, self.padding, self.dilation) * self.factor
        return F.conv2d(low, self.up.to(x.dtype))


def build(
    layer: Layer, rank: int, alpha: float, generator: torch.Generator | None = None
) -> Adapter:
    """A new LoRA for a layer; it changes nothing until it is trained."""
    if isinstance(layer, nn.Conv2d):
        return ConvLora(layer, rank, alpha, generator)
    return Lora(layer, rank, alpha, generator)


def from_file(layer: Layer, tensors: Mapping[str, Tensor]) -> Adapter:
    """The LoRA that a file's group describes, with the file's rank and alpha.

    Raises:
        MisfitError: the tensors do not fit the layer.
    """
    require(tensors, *TENSOR_NAMES)
    rank = rank_of(tensors, DOWN)
    adapter = build(layer, rank, alpha_of(tensors, rank))
    fill(adapter, tensors)
    return adapter
