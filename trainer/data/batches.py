"""Latents of all views, encoded once, and the order of training on them."""

from __future__ import annotations

import contextlib
import logging
import random
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import BadInput, Problem
from .images import read_picture
from .latents import Latents, LatentsInMemory
from .parallel import map_in_order
from .views import Framing, View, cut_all, to_tensor

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Size = tuple[int, int]
Encode = Callable[[Tensor], Tensor]
"""float32 [n, 3, h, w] in -1..1 on the CPU -> latents [n, c, h/8, w/8] on any device."""
Progress = Callable[[int, int], None]
"""Called with the number of views that are done, and of all."""


@dataclass(frozen=True)
class Batch:
    """Samples of one frame."""

    latents: Tensor
    """[n, c, h/8, w/8]."""
    captions: tuple[str, ...]
    indices: tuple[int, ...]
    """Of the samples in their dataset; the key to anything else that is cached by sample."""
    framings: tuple[Framing, ...]
    """How each was cut from its picture."""
    regularises: tuple[bool, ...]
    """Which show what must stay as it is."""


class LatentDataset:
    """The latents of all views; every distinct view is encoded once.

    Pictures are decoded by threads, each once for all its views, while `encode` works.  All of it
    happens in the constructor, so that a file that cannot be decoded is known before training.

    Args:
        views: the samples; equal views share their latent.
        encode: the VAE's encoder.  It gets views of one frame, at most `encode_batch_size`.
        encode_batch_size: how many views are encoded at once.
        latents: where they are kept; what lies there already is not encoded.  None: in memory.
        unreadable: "stop", or "skip" to leave out pictures that cannot be decoded, with a line in
            the log that names each.
        progress: is told after each batch of the encoder; may raise in order to stop.

    Raises:
        BadInput: with every file that cannot be decoded (nothing is encoded any more after the
            first, unless it is skipped), or because the encoder gave NaN or infinity.
    """

    def __init__(
        self,
        views: Sequence[View],
        encode: Encode,
        *,
        encode_batch_size: int = 4,
        latents: Latents | None = None,
        unreadable: str = "stop",
        progress: Progress | None = None,
    ) -> None:
        self._latents: Latents = LatentsInMemory() if latents is None else latents
        self._encode = encode
        encoder = _Encoder(encode, encode_batch_size, self._latents)
        distinct = list(dict.fromkeys(views))
        missing = [view for view in distinct if view not in self._latents]
        total, known = len(distinct), len(distinct) - len(missing)
        problems: list[Problem] = []
        with contextlib.closing(map_in_order(_decode, by_picture(missing))) as decoded:
            for found in decoded:
                if isinstance(found, tuple):
                    problems += found
                elif not problems or unreadable == "skip":
                    for view, pixels in found.items():
                        if encoder.add(view, pixels) and progress is not None:
                            progress(known + encoder.done, total)
        if problems and (unreadable != "skip" or not (known or encoder.has_any)):
            raise BadInput(problems)
        for problem in problems:
            logger.warning("Left out: %s", problem)
        encoder.finish()
        if progress is not None:
            progress(total, total)
        self._latents.finish()
        left_out = {view for view in missing if view not in self._latents} if problems else set()
        self.views = tuple(view for view in views if view not in left_out)
        """The samples, without those left out."""

    def __len__(self) -> int:
        return len(self.views)

    @property
    def captions(self) -> tuple[str, ...]:
        """Of every sample."""
        return tuple(view.image.caption for view in self.views)

    @property
    def frames_px(self) -> tuple[Size, ...]:
        """(height, width) of every sample; what `BatchOrder` asks for."""
        return tuple(view.frame_px for view in self.views)

    def batch(self, indices: Sequence[int]) -> Batch:
        """The samples of these indices, which must share one frame."""
        views = [self.views[index] for index in indices]
        return Batch(
            torch.stack([self._latent(view) for view in views]),
            tuple(view.image.caption for view in views),
            tuple(indices),
            tuple(view.framing for view in views),
            tuple(view.image.regularises for view in views),
        )

    def _latent(self, view: View) -> Tensor:
        """A view's latent [c, h/8, w/8]; encoded once more where it is not kept any more."""
        with contextlib.suppress(KeyError):
            return self._latents.get(view)
        found = _decode([view])
        if isinstance(found, tuple):
            raise BadInput(found)
        _Encoder(self._encode, 1, self._latents).add(view, found[view])
        return self._latents.get(view)


def filling(frames_px: Sequence[Size], batch_size: int) -> list[Size]:
    """The frames of pairs: fewer than a batch holds come several times, each with its own noise."""
    return [*frames_px] * -(-batch_size // len(frames_px))


class BatchOrder(Iterator[tuple[int, ...]]):
    """Endless batches of sample indices, each of one frame, every sample once in each epoch.

    Within an epoch samples are shuffled inside their frame, cut into batches (the last of a frame
    may be smaller), and the batches are shuffled.  The order of an epoch follows from the seed and
    the epoch's number alone, on every system.

    Args:
        frames_px: frame of every sample.
        batch_size: samples in a batch, at least 1.
        seed: any integer.
    """

    def __init__(self, frames_px: Sequence[Size], batch_size: int, seed: int) -> None:
        if not frames_px or batch_size < 1:
            raise ValueError("batches need at least one sample each")
        self._batch_size = batch_size
        self._seed = seed
        self._fingerprint = zlib.crc32(repr([tuple(size) for size in frames_px]).encode())
        by_frame: dict[Size, list[int]] = defaultdict(list)
        for index, frame_px in enumerate(frames_px):
            by_frame[frame_px].append(index)
        self._groups = [by_frame[frame_px] for frame_px in sorted(by_frame)]
        self._epoch = 0
        self._position = 0
        self._batches = self.batches_of(0)

    @property
    def batches_per_epoch(self) -> int:
        return len(self._batches)

    @property
    def epoch(self) -> int:
        """Number of complete epochs that were handed out."""
        return self._epoch + self._position // len(self._batches)

    @property
    def place(self) -> tuple[int, int]:
        """Epoch, from 0, and number in it of the batch that was handed out last."""
        return self._epoch, self._position - 1

    def upcoming(self, count: int) -> list[tuple[tuple[int, int], tuple[int, ...]]]:
        """The next batches with their places, also those of epochs to come; moves nothing."""
        epoch, number, batches = self._epoch, self._position, self._batches
        ahead: list[tuple[tuple[int, int], tuple[int, ...]]] = []
        while len(ahead) < count:
            if number == len(batches):
                epoch, number = epoch + 1, 0
                batches = self.batches_of(epoch)
            ahead.append(((epoch, number), batches[number]))
            number += 1
        return ahead

    def __next__(self) -> tuple[int, ...]:
        if self._position == len(self._batches):
            self._epoch += 1
            self._position = 0
            self._batches = self.batches_of(self._epoch)
        self._position += 1
        return self._batches[self._position - 1]

    def skip(self) -> None:
        """Leaves out the next batch."""
        next(self)

    def batches_of(self, epoch: int) -> list[tuple[int, ...]]:
        """All batches of an epoch (from 0), in order; does not move the position."""
        # a text seed is hashed with SHA-512, so that neighbouring seeds share nothing
        draw = random.Random(f"{self._seed}/{epoch}")
        batches = []
        for group in self._groups:
            shuffled = _shuffled(group, draw)
            starts = range(0, len(shuffled), self._batch_size)
            batches += [tuple(shuffled[start : start + self._batch_size]) for start in starts]
        return _shuffled(batches, draw)

    def state(self) -> dict[str, int]:
        """Where the order stands; plain integers, for `restore`."""
        return {
            "epoch": self._epoch,
            "position": self._position,
            "seed": self._seed,
            "batch_size": self._batch_size,
            "samples_crc32": self._fingerprint,
        }

    def restore(self, state: Mapping[str, int]) -> None:
        """Goes on where `state` was taken; the next batch is the one that came next there.

        Raises:
            BadInput: the state belongs to another seed, batch size or set of samples.
        """
        now = self.state()
        problems = []
        for name in ("seed", "batch_size"):
            if state[name] != now[name]:
                what = f"is {now[name]}, but was {state[name]} when training was saved"
                problems.append(Problem(name, what, f"set it to {state[name]}, or start anew"))
        if state["samples_crc32"] != now["samples_crc32"]:
            what = "the pictures or their frames are not those of when training was saved"
            problems.append(Problem("images", what, "change them back, or start anew"))
        if problems:
            raise BadInput(problems)
        self._epoch, self._position = state["epoch"], state["position"]
        self._batches = self.batches_of(self._epoch)


def _shuffled(items: Sequence[Item], draw: random.Random) -> list[Item]:
    """In random order; uses `random()` only, whose sequence Python promises never to change."""
    return sorted(items, key=lambda _: draw.random())


class _Encoder:
    """Collects views by frame and encodes a batch whenever a frame has enough of them."""

    def __init__(self, encode: Encode, batch_size: int, latents: Latents) -> None:
        self.done = 0
        """Views that were encoded."""
        self._latents = latents
        self._encode = encode
        self._batch_size = batch_size
        self._waiting: dict[Size, dict[View, NDArray[np.uint8]]] = defaultdict(dict)

    @property
    def has_any(self) -> bool:
        return bool(self.done) or any(self._waiting.values())

    def add(self, view: View, pixels: NDArray[np.uint8]) -> bool:
        """Takes one view; whether a batch was encoded."""
        waiting = self._waiting[view.frame_px]
        waiting[view] = pixels
        if len(waiting) < self._batch_size:
            return False
        self._flush(self._waiting.pop(view.frame_px))
        return True

    def finish(self) -> None:
        """Encodes what waits."""
        while self._waiting:
            self._flush(self._waiting.pop(min(self._waiting)))

    def _flush(self, waiting: dict[View, NDArray[np.uint8]]) -> None:
        if not waiting:
            return
        pixels = to_tensor(np.stack(list(waiting.values())))
        with torch.no_grad():
            latents = self._encode(pixels)
        if latents.shape[0] != len(waiting):
            raise ValueError(
                f"{len(waiting)} pictures were encoded into {latents.shape[0]} latents"
            )
        if not bool(torch.isfinite(latents).all()):
            names = ", ".join(str(view.image.path) for view in waiting)
            what = f"the VAE gives NaN or infinity for {names}"
            raise BadInput([Problem("vae_precision", what, "use fp32 or bf16")])
        with torch.no_grad():
            self._latents.put(list(waiting), latents)
        self.done += len(waiting)


def by_picture(views: Sequence[View]) -> list[list[View]]:
    """Distinct views, those of one picture together, in the order of their first appearance."""
    found: dict[str, list[View]] = defaultdict(list)
    for view in dict.fromkeys(views):
        found[str(view.image.path)].append(view)
    return list(found.values())


def _decode(views: list[View]) -> dict[View, NDArray[np.uint8]] | tuple[Problem, ...]:
    """Pixels of the views of one picture, or why it cannot be decoded."""
    try:
        return dict(zip(views, cut_all(read_picture(views[0].image.path), views), strict=True))
    except BadInput as error:
        return error.problems
