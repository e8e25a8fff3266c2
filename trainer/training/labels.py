"""The frozen model's answers, computed once in large batches and learnt from again and again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import torch

from ..data.batches import BatchOrder
from ..data.buckets import LATENT_CELL_PX
from ..data.transfer import to_device
from ..data.views import Framing
from ..diffusion.timesteps import sample_timesteps
from ..diffusion.trajectory import trajectory
from ..models.model import DiffusionModel
from ..models.text import Conditioning
from .distributed import Team

Encode = Callable[[Sequence[str]], Conditioning]
Mix = Mapping[str, float]
"""A weighted sum of the model's predictions: prompt -> factor.  Guidance is such a sum."""

CELLS_AT_ONCE = 32 * 1024
"""Latent cells in one pass of the frozen model: 8 pictures of 512 x 512 px."""


@dataclass(frozen=True)
class Samples:
    """Noisy latents and what the trained model should predict for them."""

    latents: torch.Tensor
    """[n, c, h, w]."""
    timesteps: torch.Tensor
    """int64 [n]."""
    labels: torch.Tensor
    """[n, c, h, w]."""
    prompts: tuple[str, ...]
    """What the trained model is told, one for each."""
    mask: torch.Tensor | None = None
    """[n, 1, h, w], how much each place counts; None: all alike."""
    framings: tuple[Framing, ...] | None = None
    """How each was cut from its picture; None: the latents are whole pictures."""
    weights: torch.Tensor | None = None
    """float32 [n], how much each sample counts; None: all alike."""

    def __len__(self) -> int:
        return len(self.latents)

    def take(self, indices: Sequence[int]) -> Samples:
        """Some of them, in this order."""
        chosen = to_device(torch.tensor(indices), self.latents.device)
        return Samples(
            self.latents[chosen],
            self.timesteps[chosen],
            self.labels[chosen],
            tuple(self.prompts[index] for index in indices),
            None if self.mask is None else self.mask[chosen],
            None if self.framings is None else tuple(self.framings[index] for index in indices),
            None if self.weights is None else self.weights[chosen],
        )


@dataclass(frozen=True)
class Question:
    """What a sample of the pool is made from."""

    trained: str
    """The prompt that the trained model is told."""
    label: Mix
    """What it should predict."""
    drawn: Mix | None
    """How the picture is drawn that the sample shows half-finished; None: it is pure noise."""


class FrozenModel:
    """Asks the model, without a graph and in batches of a size that fits the memory."""

    def __init__(
        self,
        model: DiffusionModel,
        encode: Encode,
        team: Team = Team(),  # noqa: B008
    ) -> None:
        """Args: team: processes that all ask the same, and answer it in turns."""
        self.model = model
        self.encode = encode
        self.team = team
        self.passes = 0
        """Samples that went through this process's UNet."""

    @torch.no_grad()
    def predict(
        self,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        prompts: Sequence[str],
        framings: Sequence[Framing] | None = None,
    ) -> torch.Tensor:
        """The frozen predictions [n, c, h, w] for latents, timesteps [n] and prompts (n)."""

        def answer(some: slice) -> torch.Tensor:
            self.passes += len(latents[some])
            told = self.encode(prompts[some]).framed(None if framings is None else framings[some])
            return self.model.denoise(latents[some], timesteps[some], told)

        return self.team.in_parts(latents, at_once(latents), answer)

    def mixed(
        self, latents: torch.Tensor, timesteps: torch.Tensor, *wanted: Sequence[Mix | None]
    ) -> tuple[torch.Tensor, ...]:
        """Weighted sums of predictions, [n, c, h, w] for each of `wanted`.

        Args:
            wanted: a mix for each sample, None where none is needed (the sum is then 0); what
                several of them ask of the same sample is predicted once.
        """
        asked = dict.fromkeys(
            (row, prompt)
            for mixes in wanted
            for row, mix in enumerate(mixes)
            for prompt in mix or ()
        )
        rows = torch.tensor([row for row, _ in asked], device=latents.device)
        answers = self.predict(latents[rows], timesteps[rows], [prompt for _, prompt in asked])

        def summed(mixes: Sequence[Mix | None]) -> torch.Tensor:
            factors = [(mixes[row] or {}).get(prompt, 0.0) for row, prompt in asked]
            weights = torch.tensor(factors, device=latents.device).view(-1, 1, 1, 1)
            return torch.zeros_like(latents).index_add(0, rows, answers * weights)

        return tuple(summed(mixes) for mixes in wanted)


def at_once(latents: torch.Tensor) -> int:
    """How many such latents go through the model in one pass."""
    return max(1, CELLS_AT_ONCE // (latents.shape[-2] * latents.shape[-1]))


def ask(
    frozen: FrozenModel,
    questions: Sequence[Question],
    size: tuple[int, int],
    *,
    timesteps: tuple[int, int],
    steps: int,
    generator: torch.Generator,
) -> Iterator[Samples]:
    """Answers of the frozen model.

    A question that is drawn gives about as many samples as `steps`, one for each latent on its
    way whose timestep is in the range; one of pure noise gives a single sample.

    Args:
        size: (height, width) of the latents.
        timesteps: lowest, and one above the highest.
        steps: in how many steps a picture is drawn.
    """
    model = frozen.model
    channels = model.unet.config.in_channels

    def noise(count: int) -> torch.Tensor:
        return torch.randn(count, channels, *size, generator=generator, device=model.device)

    plain = list(_parts([q for q in questions if q.drawn is None], size))
    for first in range(0, len(plain), frozen.team.size):  # a part for each process
        parts = plain[first : first + frozen.team.size]
        at, noises = [], []
        for part in parts:
            at.append(sample_timesteps(len(part), *timesteps, generator=generator))
            noises.append(noise(len(part)))
        yield _answered(frozen, list(chain(*parts)), torch.cat(noises), torch.cat(at))
    for part in _parts([q for q in questions if q.drawn is not None], size):
        yield from _on_their_way(
            frozen, part, noise(len(part)), timesteps=timesteps, steps=steps, generator=generator
        )


def _on_their_way(
    frozen: FrozenModel,
    part: Sequence[Question],
    noise: torch.Tensor,
    *,
    timesteps: tuple[int, int],
    steps: int,
    generator: torch.Generator,
) -> Iterator[Samples]:
    """Answers to pictures while they are drawn; a prediction that serves both is made once."""
    drawn = [question.drawn for question in part]
    ahead: list[torch.Tensor] = []  # what draws the latents that were yielded last
    path = trajectory(
        lambda _latents, _timesteps: ahead.pop(),
        frozen.model.schedule,
        noise,
        steps=steps,
        generator=generator,
    )
    for number, (latents, at) in enumerate(path, 1):
        inside = ((at >= timesteps[0]) & (at < timesteps[1])).tolist()
        labels = [one.label if kept else None for one, kept in zip(part, inside, strict=True)]
        kept = [index for index, one in enumerate(inside) if one]
        if not kept and (number == steps or bool((at < timesteps[0]).all())):
            return  # from here on the noise only becomes less
        labelled, *guided = frozen.mixed(latents, at, labels, *([drawn] if number < steps else []))
        ahead += guided
        if kept:
            yield Samples(
                latents[kept], at[kept], labelled[kept], tuple(part[i].trained for i in kept)
            )


def questions_for(count: int, timesteps: tuple[int, int], steps: int, *, drawn: bool) -> int:
    """How many questions give about `count` samples."""
    if not drawn:
        return count
    return max(1, round(count / steps * 1000 / (timesteps[1] - timesteps[0])))


def guided(prompt: str, guidance: float) -> Mix:
    """The sum that draws a prompt's picture with this guidance; the empty prompt has none."""
    return {prompt: guidance, "": 1 - guidance} if prompt and guidance != 1 else {prompt: 1.0}


def held_questions(
    prompts: Sequence[str], count: int, drawn: Callable[[str], Mix | None]
) -> list[Question]:
    """`count` questions, at least one for each prompt, whose answers stay what they are."""
    asked = [prompts[number % len(prompts)] for number in range(max(count, len(prompts)))]
    return [Question(prompt, {prompt: 1.0}, drawn(prompt)) for prompt in asked]


def _parts(questions: list[Question], size: tuple[int, int]) -> Iterator[list[Question]]:
    most = max(1, CELLS_AT_ONCE // (size[0] * size[1]))
    for first in range(0, len(questions), most):
        yield questions[first : first + most]


def _answered(
    frozen: FrozenModel, part: Sequence[Question], latents: torch.Tensor, timesteps: torch.Tensor
) -> Samples:
    (labels,) = frozen.mixed(latents, timesteps, [question.label for question in part])
    return Samples(latents, timesteps, labels, tuple(question.trained for question in part))


def joined(parts: Sequence[Samples]) -> Samples:
    """All samples of equal size as one; what only some have is filled up for the others."""
    alike = [torch.ones_like(part.latents[:, :1]) for part in parts]  # [n, 1, h, w]
    masks = [one if p.mask is None else p.mask for p, one in zip(parts, alike, strict=True)]
    weights = [
        one[:, 0, 0, 0] if p.weights is None else p.weights
        for p, one in zip(parts, alike, strict=True)
    ]
    return Samples(
        torch.cat([part.latents for part in parts]),
        torch.cat([part.timesteps for part in parts]),
        torch.cat([part.labels for part in parts]),
        tuple(prompt for part in parts for prompt in part.prompts),
        torch.cat(masks) if any(part.mask is not None for part in parts) else None,
        tuple(one for part in parts for one in part.framings or _whole(part))
        if any(part.framings for part in parts)
        else None,
        torch.cat(weights) if any(part.weights is not None for part in parts) else None,
    )


def _whole(samples: Samples) -> tuple[Framing, ...]:
    """How pictures are framed that nothing was cut off."""
    height, width = (cells * LATENT_CELL_PX for cells in samples.latents.shape[2:])
    return (Framing((height, width), (0, 0), (height, width)),) * len(samples)


class PoolBatches(Iterator[Samples]):
    """Endless batches from pools of several kinds, each kind in its proportion in every batch.

    Args:
        kinds: the pools with their shares, which add up to 1; where a share of a batch is no whole
            number, it is right over several batches.
        order: "shuffled", every sample once before one comes again, or "random".
        same_noise_level: a batch holds samples of neighbouring timesteps.
    """

    def __init__(
        self,
        kinds: Sequence[tuple[Samples, float]],
        batch_size: int,
        seed: int,
        *,
        order: str,
        same_noise_level: bool = False,
    ) -> None:
        self._pools = [pool for pool, _ in kinds]
        self._shares = [share for _, share in kinds]
        self._streams = [
            _indices(len(pool), seed + kind, order) for kind, pool in enumerate(self._pools)
        ]
        self._batch_size = batch_size
        self._same_noise_level = same_noise_level
        self._number = 0

    def __next__(self) -> Samples:
        parts: list[Samples] = []
        for pool, chosen in zip(self._pools, self._choose(), strict=True):
            if chosen and self._same_noise_level:
                level = int(parts[0].timesteps[0] if parts else pool.timesteps[chosen[0]])
                nearest = (pool.timesteps - level).abs().argsort(stable=True)
                chosen = nearest[: len(chosen)].tolist()
            if chosen:
                parts.append(pool.take(chosen))
        return joined(parts)

    def skip(self) -> None:
        """Leaves out the next batch."""
        self._choose()

    def state(self) -> dict[str, int]:
        """Where it stands, for `restore`."""
        return {"batch": self._number}

    def restore(self, state: Mapping[str, int]) -> None:
        """Goes on where `state` was taken, from the same pools."""
        while self._number < state["batch"]:
            self._choose()

    def _choose(self) -> list[list[int]]:
        """Indices of the next batch's samples, kind by kind."""
        before, due = (
            _due(number * self._batch_size, self._shares)
            for number in (self._number, self._number + 1)
        )
        self._number += 1
        return [
            [next(stream) for _ in range(end - begin)]
            for stream, begin, end in zip(self._streams, before, due, strict=True)
        ]


def _due(count: int, shares: Sequence[float]) -> list[int]:
    """How many of `count` samples each kind has had, to the nearest; the first has the rest."""
    others = [round(count * share) for share in shares[1:]]
    return [count - sum(others), *others]


def _indices(count: int, seed: int, order: str) -> Iterator[int]:
    if order == "shuffled":
        yield from (index for (index,) in BatchOrder([(1, 1)] * count, 1, seed))
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield int(torch.randint(count, (), generator=generator))
