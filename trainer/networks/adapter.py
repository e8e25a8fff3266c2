"""What every network kind adds to one layer: the common frame of an adapter."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from .dropout import Mask
from .targets import Layer

LayerForward = Callable[[Tensor], Tensor]
"""From x [..., in] to [..., out]."""


class MisfitError(ValueError):
    """Tensors of a file do not belong on a layer; the message says why."""


@dataclass(frozen=True)
class Size:
    """How large one adapter is made."""

    rank: int
    alpha: float
    """What it adds is scaled by alpha / rank."""
    factor: int = -1
    """LoKr: the side of the small matrix; -1 takes the most even split."""


class Adapter(nn.Module, ABC):
    """A trainable addition to one layer: y = W x + b + multiplier * scale * (delta W) x.

    A kind of network is a subclass with the parameters of delta W, `forward`, and the names that
    files give its parameters.

    Parameters hold the shapes that they have in a file, in fp32 unless the user chose otherwise.
    They are cast to the dtype of `x`, so that a layer in bf16 or under autocast computes as fast
    as without an adapter while the gradient arrives in the parameter's own dtype.
    """

    strength_in: ClassVar[tuple[str, ...]]
    """Tensor names in which delta W is linear; the first one present takes a strength at save."""
    fast: ClassVar[tuple[str, ...]]
    """Names of the tensors that start at zero, which LoRA+ gives a higher learning rate."""
    unbounded: ClassVar[tuple[str, ...]] = ()
    """Names of the tensors that delta W is no product of; they are kept in fp32.

    Beside their size a step of learning is nothing in bf16.
    """

    def __init__(self, rank: int, alpha: float, *, scaled: bool = True) -> None:
        """Keep rank and alpha; what is not `scaled` by alpha / rank counts as it is."""
        super().__init__()
        self.rank = rank
        self.alpha = alpha
        self.scaled = scaled
        self.scale = alpha / rank if scaled else 1.0
        self.multiplier = 1.0
        self.mask: Mask | None = None
        """What is left out of the batch that is being trained on."""

    def placed(self, device: torch.device | str, dtype: torch.dtype) -> Adapter:
        """This adapter on a device, in a dtype but for what is `unbounded`."""
        exact = {name: self.weights()[name].data.to(device) for name in self.unbounded}
        self.to(device, dtype)
        for name, value in exact.items():
            self.weights()[name].data = value
        return self

    @property
    def factor(self) -> float:
        """What delta W is multiplied by: multiplier * alpha / rank."""
        return self.multiplier * self.scale

    def hook(self, _layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Forward hook: the layer's output with the addition."""
        return output if self.rests else self.forward(inputs[0], output)

    def beside(self, layer: Layer) -> LayerForward | None:
        """The layer's forward pass with the addition in one step; None where a hook has to do."""
        del layer
        return None

    @property
    def rests(self) -> bool:
        """Whether it adds nothing now."""
        return self.multiplier == 0.0 or (self.mask is not None and self.mask.whole)

    @abstractmethod
    def forward(self, x: Tensor, output: Tensor) -> Tensor:
        """The layer's `output` for its input `x`, with the addition including `factor`."""

    @abstractmethod
    def weights(self) -> dict[str, nn.Parameter]:
        """The parameters under the tensor names that files give them, without alpha."""

    @abstractmethod
    def norm(self) -> Tensor:
        """The Frobenius norm of delta W, alpha / rank included, fp32."""

    def strengthened(self, strength: float) -> dict[str, Tensor]:
        """The weights of the adapter that at multiplier 1 is this one at `strength`."""
        weights: dict[str, Tensor] = {**self.weights()}
        name = next(name for name in self.strength_in if name in weights)
        return {**weights, name: weights[name].float() * strength}

    @torch.no_grad()
    def limit_norm(self, most: float) -> None:
        """Shrink delta W to this norm if it is larger, every factor of it alike.

        Source: sd-scripts' scale_weight_norms.
        """
        factors = [weight for name, weight in self.weights().items() if name not in self.unbounded]
        shrink = (most / self.norm().clamp(min=1e-12)).clamp(max=1.0) ** (1 / len(factors))
        for weight in factors:
            weight.mul_(shrink.to(weight.dtype))


def convolves(layer: Layer) -> bool:
    """Whether the layer is a convolution with a kernel larger than 1 (own rank and alpha)."""
    return isinstance(layer, nn.Conv2d) and layer.kernel_size != (1, 1)


def layer_shape(layer: Layer) -> tuple[int, int, tuple[int, ...]]:
    """Output width, input width and kernel: () of a Linear, (k, k) of a convolution."""
    if isinstance(layer, nn.Conv2d):
        return layer.out_channels, layer.in_channels, tuple(layer.kernel_size)
    return layer.out_features, layer.in_features, ()


def kaiming_uniform(shape: Sequence[int], generator: torch.Generator | None) -> nn.Parameter:
    """Weights drawn as nn.Linear draws its own: uniform in +-1/sqrt(fan in), fp32 on the CPU.

    Drawn on the CPU so that a seed gives the same weights on every device.

    Source: He et al. 2015, Delving Deep into Rectifiers, eq. 10, with a leaky slope of sqrt(5).
    """
    bound = 1 / math.sqrt(math.prod(shape[1:]))
    return nn.Parameter(torch.empty(*shape).uniform_(-bound, bound, generator=generator))


def normal(shape: Sequence[int], std: float, generator: torch.Generator | None) -> nn.Parameter:
    """Normally distributed weights around 0, fp32 on the CPU."""
    return nn.Parameter(torch.empty(*shape).normal_(0.0, std, generator=generator))


def zeros(shape: Sequence[int]) -> nn.Parameter:
    """Weights that start as nothing, so that an untrained network changes nothing."""
    return nn.Parameter(torch.zeros(*shape))


def rank_of(tensors: Mapping[str, Tensor], name: str) -> int:
    """The rank of a file's group: the first axis of its tensor `name`.

    Raises:
        MisfitError: the tensor has no such axis.
    """
    if tensors[name].ndim < 2 or not tensors[name].shape[0]:
        raise MisfitError(f"{name} has the shape {list(tensors[name].shape)}")
    return tensors[name].shape[0]


def alpha_of(tensors: Mapping[str, Tensor], rank: int) -> float:
    """The alpha of a file's group; a file without one means alpha = rank.

    Raises:
        MisfitError: alpha is not one finite number other than 0.
    """
    if "alpha" not in tensors:
        return float(rank)
    if tensors["alpha"].numel() != 1:
        raise MisfitError(f"alpha has the shape {list(tensors['alpha'].shape)}")
    alpha = float(tensors["alpha"].item())
    if alpha == 0.0 or not math.isfinite(alpha):
        raise MisfitError(f"alpha is {alpha:g}")
    return alpha


def require(tensors: Mapping[str, Tensor], *names: str) -> None:
    """Check that a file's group holds all these tensors.

    Raises:
        MisfitError: one is missing.
    """
    missing = [name for name in names if name not in tensors]
    if missing:
        raise MisfitError(f"{', '.join(missing)} is missing beside {', '.join(sorted(tensors))}")


def fill(adapter: Adapter, tensors: Mapping[str, Tensor]) -> None:
    """Give an adapter's parameters a file's values, in the parameters' dtype and device.

    A kernel of 1x1 may be written out ([r, i, 1, 1]) or left out ([r, i]).

    Raises:
        MisfitError: a tensor is missing, is too many, or has another shape; nothing was changed.
    """
    weights = adapter.weights()
    require(tensors, *weights)
    extra = sorted(set(tensors) - set(weights) - {"alpha"})
    if extra:
        raise MisfitError(f"{', '.join(extra)} does not belong beside {', '.join(weights)}")
    for name, weight in weights.items():
        if _without_unit_kernel(tensors[name].shape) != _without_unit_kernel(weight.shape):
            found, expected = list(tensors[name].shape), list(weight.shape)
            raise MisfitError(f"{name} has the shape {found} where {expected} belongs")
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(tensors[name].reshape(weight.shape))


def _without_unit_kernel(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(shape[:2]) if tuple(shape[2:]) == (1, 1) else tuple(shape)
