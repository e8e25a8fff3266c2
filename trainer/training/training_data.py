"""Encoded pictures and pairs, with the order in which they are trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from ..data.batches import BatchOrder, LatentDataset
from ..data.masks import batch_of_masks
from ..data.transfer import to_device
from ..data.variants import CaptionVariants
from ..data.views import Framing
from ..settings.groups import PictureMaskSettings
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
    """Encoded pictures with all that a batch of them needs.

    Attributes:
        variants: what each is trained under when it comes.
        masks: of every sample, uint8 [1, h/8, w/8]; None where all of it counts.
        mask_settings: how much the places of a masked sample count.
        prior_loss_weight: how much those count that only keep the rest as it is.
        cut: shortens captions that are too long.
    """

    variants: CaptionVariants
    masks: tuple[torch.Tensor | None, ...]
    mask_settings: PictureMaskSettings
    prior_loss_weight: float = 1.0
    cut: Callable[[str], str] = str

    @property
    def captions(self) -> tuple[str, ...]:
        """All captions that occur, each once, where they do not vary."""
        images = dict.fromkeys(view.image for view in self.dataset.views)
        plain = (self.variants.plain(one.caption, bare=one.regularises) for one in images)
        return tuple(dict.fromkeys(self.cut(caption) for caption in plain))

    def upcoming(self, batches: int) -> tuple[str, ...]:
        """Captions of the next batches, for encoding many together; moves nothing."""
        ahead = self.order.upcoming(batches)
        return tuple(one for place, batch in ahead for one in self._captions(batch, place))

    def next(self) -> PictureBatch:
        """The next batch of the order."""
        batch = self.dataset.batch(next(self.order))
        weights = None
        if self.prior_loss_weight != 1 and any(batch.regularises):
            each = [self.prior_loss_weight if kept else 1.0 for kept in batch.regularises]
            weights = to_device(torch.tensor(each), batch.latents.device)
        masks = [self.masks[index] for index in batch.indices]
        return PictureBatch(
            batch.latents,
            self._captions(batch.indices, self.order.place),
            batch.framings,
            batch_of_masks(masks, batch.latents, self.mask_settings),
            weights,
        )

    def _captions(self, indices: Sequence[int], place: tuple[int, int]) -> tuple[str, ...]:
        images = [self.dataset.views[index].image for index in indices]
        captions = [image.caption for image in images]
        bare = [image.regularises for image in images]
        return tuple(self.cut(one) for one in self.variants.at(captions, *place, bare=bare))


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

    def skip(self) -> None:
        """Leaves out the next batch of each."""
        for order in self._orders.values():
            order.skip()

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
            to_device(torch.stack(masks), before.latents.device) if masks else None,
            before.framings,
        )
