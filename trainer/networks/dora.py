"""DoRA: W' = m V / |V| with V = W + up . down: direction and size of the weights learn apart.

|V| and m go by input: [1, in] of a Linear, [1, in, 1, 1] of a convolution; the norm is that of all
weights which an input meets.  The webuis agree on this form alone, and only with alpha = rank.

Source: Liu et al. 2024, DoRA: Weight-Decomposed Low-Rank Adaptation, equation 5; section 4.3 for
taking |V| as a constant in the backward pass.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .adapter import Adapter, Size, alpha_of, fill, rank_of, require
from .lora import DOWN, UP, ConvLora, Lora, add_product
from .targets import Layer

MAGNITUDE = "dora_scale"
TENSOR_NAMES = (DOWN, UP, MAGNITUDE)
SMALLEST_TURN = 1e-4


class Dora(Lora):
    """A LoRA, and the magnitude m of each of the layer's inputs.

    With gain = m / |V| and turn = multiplier * (gain - 1), the layer at a multiplier is
    W ((1 + turn) x) + multiplier * up . down (gain x).  The layer itself has computed W x; what is
    added is W (turn x) and the product of the small matrices.
    """

    unbounded = (MAGNITUDE,)

    def __init__(
        self, layer: Layer, rank: int, alpha: float, generator: torch.Generator | None = None
    ) -> None:
        """Take the layer's own magnitude, draw `down` and leave `up` at zero."""
        super().__init__(layer, rank, alpha, generator)
        self._layer = (layer,)  # in a tuple, because its weights are not this module's
        self._square_norms: Tensor | None = None
        """|W|^2, once it was needed: W does not change."""
        magnitude = _square_norms(layer.weight.detach()).sqrt().cpu()
        self.magnitude = nn.Parameter(magnitude.view(1, -1, *(1 for _ in self.down.shape[2:])))

    def forward(self, x: Tensor, output: Tensor) -> Tensor:
        """For x [..., in] and output [..., out]."""
        dtype = output.dtype
        x, gain = x.to(dtype), self.gain()
        low = F.linear(x, (self.down * gain).to(dtype))  # [..., rank]
        if self.mask:
            low = self.mask.thin_ranks(self.mask.thin(low))
        turn = (self.multiplier * (gain - 1)).to(dtype)
        output = output + F.linear(x * turn, self.base_weight.to(dtype))
        return add_product(output, low, self.up.to(dtype), self.factor)

    def beside(self, layer: Layer) -> None:
        """See `Adapter.beside`: none, because it needs W for another x as well."""

    def weights(self) -> dict[str, nn.Parameter]:
        return {DOWN: self.down, UP: self.up, MAGNITUDE: self.magnitude}

    @property
    def base_weight(self) -> Tensor:
        """W of the layer."""
        return self._layer[0].weight

    def gain(self) -> Tensor:
        """m / |V| of each input, fp32 [in]."""
        return self.magnitude.float().flatten() / self.norms(self.down)

    @torch.no_grad()
    def norms(self, down: Tensor) -> Tensor:
        """|W + up . down| of each input, fp32 [in], from products with the rank alone."""
        weight = self.base_weight.float().flatten(1)  # [out, in * k * k]
        up = self.up.float().flatten(1) * self.scale
        down = down.float().flatten(1)  # [rank, in * k * k]
        more = ((2 * up.T @ weight + (up.T @ up) @ down) * down).sum(0)
        if self._square_norms is None or self._square_norms.device != weight.device:
            self._square_norms = _square_norms(self.base_weight)
        of_inputs = more.view(len(self._square_norms), -1).sum(1)
        return (self._square_norms + of_inputs).clamp(min=1e-12).sqrt()

    @torch.no_grad()
    def strengthened(self, strength: float) -> dict[str, Tensor]:
        """The weights of the DoRA that at multiplier 1 is this one at `strength`.

        W + strength (W' - W) is t W + strength gain up . down with t = 1 + strength (gain - 1):
        again a direction W + up . down', with down' = strength gain / t down, and a size.
        """
        if strength == 1.0:
            return {**self.weights()}
        gain = self.gain()
        t = 1 + strength * (gain - 1)
        t = torch.where(t.abs() < SMALLEST_TURN, torch.full_like(t, SMALLEST_TURN), t)
        by_input = (1, -1, *(1 for _ in self.down.shape[2:]))
        down = self.down.float() * (strength * gain / t).view(by_input)
        return {DOWN: down, UP: self.up, MAGNITUDE: (t * self.norms(down)).view(by_input)}


class ConvDora(Dora, ConvLora):
    """DoRA on a convolution."""

    def forward(self, x: Tensor, output: Tensor) -> Tensor:
        """For x [n, in, h, w] and output [n, out, h', w']."""
        dtype, gain = output.dtype, self.gain().view(1, -1, 1, 1)
        x = x.to(dtype)
        low = self.convolve(x, (self.down * gain).to(dtype))
        if self.mask:
            low = self.mask.thin_ranks(self.mask.thin(low), axis=1)
        turn = (self.multiplier * (gain - 1)).to(dtype)
        turned = self.convolve(x * turn, self.base_weight.to(dtype))
        return output + turned + F.conv2d(low, (self.up * self.factor).to(dtype))


def build(layer: Layer, size: Size, generator: torch.Generator | None = None) -> Adapter:
    """A new DoRA for a layer; it changes nothing until it is trained."""
    if isinstance(layer, nn.Conv2d):
        return ConvDora(layer, size.rank, size.alpha, generator)
    return Dora(layer, size.rank, size.alpha, generator)


def from_file(layer: Layer, tensors: Mapping[str, Tensor]) -> Adapter:
    """The DoRA that a file's group describes, with the file's rank and alpha.

    Raises:
        MisfitError: the tensors do not fit the layer; a magnitude by output is such a misfit.
    """
    require(tensors, *TENSOR_NAMES)
    rank = rank_of(tensors, DOWN)
    adapter = build(layer, Size(rank, alpha_of(tensors, rank)))
    fill(adapter, tensors)
    return adapter


def _square_norms(weight: Tensor) -> Tensor:
    """The sum of squares of the weights that each input meets, fp32 [in]."""
    return weight.float().transpose(0, 1).flatten(1).square().sum(1)
