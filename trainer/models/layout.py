"""The order in which a convolution's weights lie in memory."""

from __future__ import annotations

import torch
from torch import nn


def lay_out(module: nn.Module) -> None:
    """Puts the channels last in a CPU's float32 convolutions; the values stay.

    It would otherwise re-order such weights at every use, which is nearly half of a step at 64
    and 128 px.  In bf16 a step would become slower, and a GPU is left as it is.  A weight is
    copied, so this is for modules whose weights are not shared.
    """
    for weight in module.parameters():
        if weight.device.type == "cpu" and weight.dtype is torch.float32 and weight.ndim == 4:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)
