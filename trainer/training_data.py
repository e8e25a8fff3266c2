"""Encoded pictures and pairs, with the order in which they are trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from .data.batches import BatchOrder, LatentDataset
from .data.views import Framing
from .state import Positioned


@dataclass(frozen=True)
class TrainingData:
    """Encoded pictures and the endless order in which they are trained."""

    dataset: LatentDataset
    order: BatchOrder


@dataclass(frozen=True)
class PictureBatch:
    """Some pictures of one frame."""

    latents: torch.Tensor
    """[n, c, h/8, w/8]."""
    captions: tuple[str, ...]
    framings: tuple[Framing, ...] | None = None
    mask: torch.Tensor | None = None
    """[n, 1, h/8, w/8], how much each place counts; None: all alike."""
    weights: torch.Tensor | None = None
    """float32 [n], how much each sample counts; None: all alike."""


@dataclass(frozen=True)
class PictureData(TrainingData):
    """Encoded pictures, and how much those count that only keep the rest as it is."""

    prior_loss_weight: float = 1.0

    def next(self) -> PictureBatch:
        """The next batch of the order."""
        batch = self.dataset.batch(next(self.order))
        weights = None
        if self.prior_loss_weight != 1 and any(batch.regularises):
            each = [self.prior_loss_weight if kept else 1.0 for kept in batch.regularises]
            weights = torch.tensor(each, device=batch.latents.device)
        return PictureBatch(batch.latents, batch.captions, batch.framings, None, weights)


class Places:
    """The places of several orders as one."""

    def __init__(self, **orders: Positioned | None) -> None:
        """Args: orders: by a name of their own; None: there is none of this name."""
        self._orders = {name: order for name, order in orders.items() if order is not None}

    def state(self) -> dict[str, int]:
        """Where all of them stand, for `restore`."""
        return {
            f"{name}.{key}": value
            for name, order in self._orders.items()
            for key, value in order.state().items()
        }

    def restore(self, state: Mapping[str, int]) -> None:
        """Goes on where `state` was taken.

        Raises:
            BadInput: the state belongs to other samples.
        """
        for name, order in self._orders.items():
            own = {
                key.removeprefix(f"{name}."): value
                for key, value in state.items()
                if key.startswith(f"{name}.")
            }
            order.restore(own)


@dataclass(frozen=True)
class PairBatch:
    """Some pairs of one frame."""

    originals: torch.Tensor
    """[n, c, h/8, w/8]."""
    targets: torch.Tensor
    captions: tuple[str, ...]
    mask: torch.Tensor | None
    """[n, 1, h/8, w/8]."""
    framings: tuple[Framing, ...]
    """How the picture before the change was cut."""

    def side(self, *, of_targets: bool) -> PictureBatch:
        """The pictures after the change, which alone are masked, or those before it."""
        latents, mask = (self.targets, self.mask) if of_targets else (self.originals, None)
        return PictureBatch(latents, self.captions, self.framings, mask)


@dataclass(frozen=True)
class PairData(TrainingData):
    """Encoded pairs: the dataset holds all pictures before the change, then all after it."""

    masks: tuple[torch.Tensor | None, ...]
    """Of every pair, float32 [1, h/8, w/8]."""

    def take(self, indices: Sequence[int]) -> PairBatch:
        """The pairs of these indices, which must share one frame."""
        count = len(self.masks)
        indices = [index % count for index in indices]
        before = self.dataset.batch(indices)
        after = self.dataset.batch([index + count for index in indices])
        masks = [mask for index in indices if (mask := self.masks[index]) is not None]
        return PairBatch(
            before.latents,
            after.latents,
            before.captions,
            torch.stack(masks).to(before.latents.device) if masks else None,
            before.framings,
        )
