"""A frozen Linear and the LoRA beside it in one step of autograd.

On its own a LoRA writes the layer's output once more, and a second gradient of its input, which
autograd then adds to the layer's.  Here each is added where the other lies already: a step moves
less memory, and has fewer operations.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LinearWithLora(torch.autograd.Function):
    """y = x W^T + b + factor * (x down^T) up^T, in the dtype that the layer computes in.

    `apply(x [..., in], down [rank, in], up [out, rank], layer, factor)` gives [..., out]; there are
    gradients of x, down and up.  The layer's weight is asked for anew in the backward pass, so that
    one that is kept in 8 bits is not held in between.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, down: Tensor, up: Tensor, layer: nn.Linear, factor: float
    ) -> Tensor:
        weight = layer.weight
        own = x.to(weight.dtype)
        output = F.linear(own, weight, layer.bias)
        dtype = output.dtype  # autocast may have chosen another
        rows, down, up = own.to(dtype).reshape(-1, x.shape[-1]), down.to(dtype), up.to(dtype)
        low = F.linear(rows, down)  # [rows, rank]
        output.view(-1, output.shape[-1]).addmm_(low, up.t(), alpha=factor)
        ctx.save_for_backward(rows, low, down, up)
        ctx.layer, ctx.factor, ctx.shape = layer, factor, x.shape
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[misc]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, low, down, up = ctx.saved_tensors
        gradient = gradient.reshape(-1, gradient.shape[-1])
        of_low = (gradient @ up).mul_(ctx.factor)  # [rows, rank]
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = (gradient @ ctx.layer.weight.to(gradient.dtype)).addmm_(of_low, down)
            of_x = of_x.view(ctx.shape)
        return of_x, of_low.t() @ rows, (gradient.t() @ low).mul_(ctx.factor), None, None
