"""Frozen convolutions: a CPU's weights are re-ordered once, and no input needs to be kept.

oneDNN, which computes a CPU's convolutions, re-orders a weight at every use, which on some
processors is most of a step at small sizes.  And torch keeps the input of every convolution for
the gradient of its weight, which nobody asks for here.
"""

from __future__ import annotations

import timeit
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_input

Pair = tuple[int, int]
TRIAL_WIDTH, TRIAL_SIDE, TRIALS = 640, 4, 5
"""A convolution of SD1 at 128 px, and how often it is timed; the shortest time counts."""
WORTH_A_COPY = 0.8
"""Up to this share of the plain time, a second copy of the weights is worth its memory."""


class FrozenConv2d(nn.Conv2d):
    """A convolution over another's very weight.

    Attributes:
        keeps_input: whether torch's own way is taken, which is a little faster and keeps the input
            for the backward pass.
    """

    keeps_input = True

    def __init__(self, layer: nn.Conv2d) -> None:
        nn.Module.__init__(self)
        take_over(self, layer)
        self.weight = layer.weight
        self.bias = layer.bias

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output [n, out, h', w'] for x [n, in, h, w]."""
        if self.keeps_input:
            return super().forward(x)
        how = (self.stride, self.padding, self.dilation, self.groups)
        output: Tensor = _Convolution.apply(x.to(self.weight.dtype), self.weight, self.bias, how)
        return output


class ReorderedConv2d(nn.Conv2d):
    """A frozen convolution of stride 1 whose weight lies as oneDNN computes with it.

    It is held twice: the gradient of the input is a convolution with the weight turned round.
    """

    def __init__(self, layer: nn.Conv2d) -> None:
        nn.Module.__init__(self)
        take_over(self, layer)
        self.bias = layer.bias
        weight = layer.weight.detach()
        self._there = _Reordered(weight, cast(Pair, layer.padding), cast(Pair, layer.dilation))
        self._back = self._there.transposed(weight)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The weight [out, in, k, k] in the usual order, put together anew."""
        return self._there.weight.to_dense()

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output [n, out, h', w'] for x [n, in, h, w]."""
        x = x.to(self._there.weight.dtype)
        output: Tensor = _ReorderedConvolution.apply(x, self._there, self._back, self.bias)
        return output


class _Reordered:
    """A weight in oneDNN's order, and the convolution that it is for."""

    def __init__(self, weight: Tensor, padding: Pair, dilation: Pair) -> None:
        self._padding, self._dilation = padding, dilation
        self._how = (list(padding), [1, 1], list(dilation), 1)
        plain = weight.contiguous().to_mkldnn()
        self.weight: Tensor = torch._C._nn.mkldnn_reorder_conv2d_weight(plain, *self._how)

    def transposed(self, weight: Tensor) -> _Reordered:
        """The convolution that takes a gradient of the output to that of the input."""
        reach = [d * (side - 1) for d, side in zip(self._dilation, weight.shape[2:], strict=True)]
        padding = (reach[0] - self._padding[0], reach[1] - self._padding[1])
        return _Reordered(weight.transpose(0, 1).flip(2, 3), padding, self._dilation)

    def __call__(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """x [n, in, h, w] convolved with the weight: [n, out, h', w']."""
        return torch.mkldnn_convolution(x.contiguous(), self.weight, bias, *self._how)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, how: Any) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.input_shape, ctx.how = x.shape, how
        return F.conv2d(x, weight, bias, *how)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        (weight,) = ctx.saved_tensors
        return conv2d_input(ctx.input_shape, weight, gradient, *ctx.how), None, None, None


class _ReorderedConvolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, there: _Reordered, back: _Reordered, bias: Tensor | None
    ) -> Tensor:
        ctx.back = back
        return there(x, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        return ctx.back(gradient, None), None, None, None


def freeze_convolutions(module: nn.Module, *, shared: bool) -> None:
    """Puts frozen convolutions in the place of a module's plain ones; what they compute stays.

    On a CPU, weights that nobody else holds are laid out for it: those in bfloat16 as oneDNN wants
    them where that pays, those in float32 with their channels last.  The latter cost no second
    copy, which they would in oneDNN's order.

    Args:
        shared: whether somebody else holds the weights, so that they stay where they are.
    """
    for owner in list(module.modules()):
        for name, layer in list(owner.named_children()):
            if type(layer) is nn.Conv2d and layer.padding_mode == "zeros":
                own_on_cpu = not shared and layer.weight.device.type == "cpu"
                owner._modules[name] = _frozen(layer, own_on_cpu).train(layer.training)


def _frozen(layer: nn.Conv2d, own_on_cpu: bool) -> nn.Conv2d:
    dtype = layer.weight.dtype
    if own_on_cpu and dtype is torch.bfloat16 and _is_plain(layer) and reordering_pays():
        return ReorderedConv2d(layer)
    if own_on_cpu and dtype is torch.float32:
        layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last)
    return FrozenConv2d(layer)


def _is_plain(layer: nn.Conv2d) -> bool:
    """Whether the gradient of its input is again a plain convolution."""
    return layer.stride == (1, 1) and layer.groups == 1


@cache
def reordering_pays() -> bool:
    """Whether re-ordered weights in bfloat16 are right and much faster here; a trial tells.

    They took half the time on a processor with AMX and up to 1.6 times as long on one without.
    """
    layer = nn.Conv2d(TRIAL_WIDTH, TRIAL_WIDTH, 3, padding=1).bfloat16().requires_grad_(False)
    x = torch.ones(1, TRIAL_WIDTH, TRIAL_SIDE, TRIAL_SIDE, dtype=torch.bfloat16)
    try:
        reordered = ReorderedConv2d(layer)
        if not torch.allclose(reordered(x).float(), layer(x).float(), rtol=0.05, atol=0.05):
            return False
        return _seconds(reordered, x) <= WORTH_A_COPY * _seconds(layer, x)
    except (AttributeError, RuntimeError):  # torch was made without oneDNN, or an older one
        return False


@torch.enable_grad()
def _seconds(layer: nn.Conv2d, x: Tensor) -> float:
    """The shortest time that a pass there and back took."""
    x = x.clone().requires_grad_()
    return min(timeit.repeat(lambda: layer(x).sum().backward(), number=1, repeat=TRIALS))


def take_over(module: nn.Module, layer: nn.Module) -> None:
    """Gives a layer's sizes, strides and the like to the one that takes its place."""
    for name, value in vars(layer).items():
        if not name.startswith("_"):
            setattr(module, name, value)
