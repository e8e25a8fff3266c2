"""Frozen weights kept in 8 bits, and put together anew wherever a layer computes with them.

Every output channel has a scale of its own.  Autograd is given the packed weights, not the ones
put together, so that a training step never holds more than one layer of these.

Source: symmetric quantisation by channel, Jacob et al. 2018, "Quantization and Training of Neural
Networks", section 2.1, with a zero point of 0; float8_e4m3fn is that of Micikevicius et al. 2022.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_input

from .convolution import take_over

PACKED_INSIDE = ("down_blocks.", "mid_block.", "up_blocks.", "text_model.encoder.")
"""Layers are packed inside these; the few others are small, and sensitive."""
TINY = 1e-12
"""Least scale, for channels that hold nothing but zeros."""


@dataclass(frozen=True)
class Storage:
    """A number format of 8 bits."""

    dtype: torch.dtype
    largest: float
    """What a channel's largest weight becomes."""


_FLOAT8 = getattr(torch, "float8_e4m3fn", None)
"""torch has it from 2.1 on, and the webui 1.7 brings 2.0.1."""
STORAGES = {
    **({} if _FLOAT8 is None else {"fp8": Storage(_FLOAT8, 448.0)}),
    "int8": Storage(torch.int8, 127.0),
}
"""By the names that the settings use."""


def pack(weight: Tensor, storage: Storage) -> tuple[Tensor, Tensor]:
    """A weight [out, ...] in 8 bits, and the scale of every channel, float32 [out, 1, ...].

    One that has the storage's dtype already is taken as it is.
    """
    if weight.dtype == storage.dtype:
        return weight, torch.ones(len(weight), *[1] * (weight.ndim - 1), device=weight.device)
    exact = weight.float()
    axes = tuple(range(1, weight.ndim))
    scale = exact.abs().amax(axes, keepdim=True).clamp(min=TINY) / storage.largest
    packed = (exact / scale).clamp(-storage.largest, storage.largest)
    if not storage.dtype.is_floating_point:
        packed = packed.round()
    return packed.to(storage.dtype), scale


def unpack(packed: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """The weight in `dtype`, as near as 8 bits allow.

    The scales of small weights lie below what float16 can hold, so that the product is float32.
    """
    return (packed.float() * scale).to(dtype)


class _Packed:
    """What both kinds of layer have in common."""

    packed: Tensor
    scale: Tensor
    computed_in: torch.dtype

    def take(self, layer: nn.Linear | nn.Conv2d, storage: Storage, dtype: torch.dtype) -> None:
        """Takes over a layer's sizes and bias, and its weight in 8 bits."""
        module: Any = self
        take_over(module, layer)
        module.computed_in = dtype
        packed, scale = pack(layer.weight.detach(), storage)
        module.register_buffer("packed", packed, persistent=False)
        module.register_buffer("scale", scale, persistent=False)
        module.register_parameter("bias", layer.bias)

    @property
    def weight(self) -> Tensor:
        """The weight put together anew, in the dtype that the layer computes in."""
        return unpack(self.packed, self.scale, self.computed_in)


class PackedLinear(_Packed, nn.Linear):  # type: ignore[misc, override]
    """A frozen Linear that keeps its weight in 8 bits."""

    def __init__(self, layer: nn.Linear, storage: Storage, dtype: torch.dtype) -> None:
        nn.Module.__init__(self)
        self.take(layer, storage, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output [..., out] for x [..., in], in the dtype that it computes in."""
        x = x.to(self.computed_in)
        output: Tensor = _LinearFunction.apply(x, self.packed, self.scale, self.bias)
        return output


class PackedConv2d(_Packed, nn.Conv2d):  # type: ignore[misc, override]
    """A frozen convolution that keeps its weight in 8 bits."""

    def __init__(self, layer: nn.Conv2d, storage: Storage, dtype: torch.dtype) -> None:
        nn.Module.__init__(self)
        self.take(layer, storage, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output [n, out, h, w] for x [n, in, h, w]."""
        how = (self.stride, self.padding, self.dilation, self.groups)
        x = x.to(self.computed_in)
        output: Tensor = _ConvFunction.apply(x, self.packed, self.scale, self.bias, how)
        return output


class _LinearFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, packed: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(packed, scale)
        return F.linear(x, unpack(packed, scale, x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        packed, scale = ctx.saved_tensors
        return gradient @ unpack(packed, scale, gradient.dtype), None, None, None


class _ConvFunction(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, packed: Tensor, scale: Tensor, bias: Tensor | None, how: Any
    ) -> Tensor:
        ctx.save_for_backward(packed, scale)
        ctx.input_shape, ctx.how = x.shape, how
        return F.conv2d(x, unpack(packed, scale, x.dtype), bias, *how)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        packed, scale = ctx.saved_tensors
        weight = unpack(packed, scale, gradient.dtype)
        backward = conv2d_input(ctx.input_shape, weight, gradient, *ctx.how)
        return backward, None, None, None, None


def place(
    module: nn.Module,
    device: torch.device,
    dtype: torch.dtype | None = None,
    storage: Storage | None = None,
) -> bool:
    """Puts a frozen module's weights where and into what it computes in.

    A weight that is there already stays the tensor that it is.  With a storage, the layers of
    `PACKED_INSIDE` are packed one by one, so that their weights never lie there whole.

    Args:
        dtype: None leaves each weight in its own.

    Returns:
        Whether every weight is now the module's own: then it may be moved again.
    """
    own = True
    for owner, name, layer in list(_layers(module)) if storage is not None else ():
        layer.weight.data = layer.weight.data.to(device)
        kind: Any = PackedConv2d if isinstance(layer, nn.Conv2d) else PackedLinear
        owner._modules[name] = kind(layer, storage, dtype or layer.weight.dtype).eval()
    for parameter in module.parameters():
        placed = parameter.data.to(device, dtype or parameter.dtype)
        own = own and placed.data_ptr() != parameter.data_ptr()
        parameter.data = placed
    for submodule in module.modules():
        for name, buffer in submodule.named_buffers(recurse=False):
            setattr(submodule, name, buffer.to(device))
    return own


def _layers(root: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Linear | nn.Conv2d]]:
    """Every layer that is packed, with its owner and its name there."""
    for path, owner in root.named_modules():
        for name, layer in owner.named_children():
            full = f"{path}.{name}" if path else name
            if isinstance(layer, nn.Linear | nn.Conv2d) and full.startswith(PACKED_INSIDE):
                yield owner, name, layer
