"""How large the adapters of a network are made, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .adapter import Size


@dataclass(frozen=True)
class Sizes:
    """Rank and alpha of every layer of a network."""

    rank: int
    alpha: float
    conv_rank: int | None = None
    """Of kernels larger than 1; None: as the block's other layers."""
    conv_alpha: float | None = None
    block_ranks: Mapping[str, int] = field(default_factory=dict)
    """Blocks with a rank of their own."""
    block_alphas: Mapping[str, float] = field(default_factory=dict)
    """Blocks with an alpha of their own; the others keep alpha / rank at any rank."""
    factor: int = -1
    """See `Size`."""

    def of(self, block: str, *, convolution: bool) -> Size:
        """The size in a block, of a kernel larger than 1 or of any other layer."""
        rank = self.block_ranks.get(block, self.rank)
        alpha = self.block_alphas.get(block, self.alpha * rank / self.rank)
        if convolution:
            rank = self.conv_rank or rank
            alpha = self.conv_alpha or alpha
        return Size(rank, alpha, self.factor)
