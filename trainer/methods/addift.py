"""ADDifT and Multi-ADDifT: the difference of two pictures as the answer to one of them.

The network is asked about one picture of a pair and learns to answer what the frozen model answers
to the other.  It does so at a small strength, which multiplies what it learns when it is used at 1.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from ..data.views import Framing
from ..diffusion.loss import Criterion
from ..networks.network import Network
from ..settings.groups import DirectionSettings, LossSettings, MaskSettings, TrainingSettings
from ..training.distributed import current_team
from ..training.encoding import encode_pairs, frozen_encoder, prompt_encoder
from ..training.labels import FrozenModel, Samples
from ..training.loop import Outcome
from ..training.session import Session
from ..training.training_data import PairData

LABELLED_AT_ONCE = 32
"""Batches that are labelled together; the frozen model is asked about all of them in one go."""


@dataclass(frozen=True)
class Lesson:
    """A batch, and the strength of the network when it is asked."""

    samples: Samples
    strength: float


def train(session: Session) -> Outcome:
    """Trains and saves the network.

    Raises:
        BadInput: a picture cannot be decoded, or a file to continue from does not fit.
        NotANumber: the loss became NaN.
        Stopped: the user ended the job before its first step.
    """
    model, settings = session.model, session.settings[LossSettings]
    network = session.new_network()
    data = encode_pairs(session)
    encode = prompt_encoder(session, data.dataset.captions)
    masks = session.settings[MaskSettings]
    criterion = Criterion.of(model.schedule, settings, normalised_mask=masks.normalise_mask)
    lessons = Lessons(session, data, network)

    def loss_of_next_batch() -> torch.Tensor:
        lesson = next(lessons)
        batch = lesson.samples
        network.multiplier = lesson.strength
        told = encode(batch.prompts).framed(batch.framings)
        prediction = model.denoise(batch.latents, batch.timesteps, told)
        return criterion.loss(prediction, batch.labels, batch.timesteps, batch.mask)

    with network:
        try:
            return session.fit(network, loss_of_next_batch, data=data, order=lessons)
        finally:
            network.multiplier = 1.0


class Lessons(Iterator[Lesson]):
    """All batches of the training; the frozen model answers many of them at once.

    What a batch holds follows from its number and the seed alone.
    """

    def __init__(self, session: Session, data: PairData, network: Network) -> None:
        self._session = session
        self._data = data
        self._network = network
        self._frozen = FrozenModel(session.model, frozen_encoder(session, data.dataset.captions))
        training = session.settings[TrainingSettings]
        self._count = training.steps * training.gradient_accumulation_steps
        self._number = 0
        self._ahead: list[Lesson] = []
        self._first = -1
        """Number of the first batch of `_ahead`."""

    def __next__(self) -> Lesson:
        team = current_team()
        apart = team.size  # the batches between are other processes'
        place = (self._number - team.rank) // apart % LABELLED_AT_ONCE
        first = self._number - place * apart
        if first != self._first:
            numbers = range(first, min(first + LABELLED_AT_ONCE * apart, self._count), apart)
            questions = [
                _question(self._session, self._data, number, self._count) for number in numbers
            ]
            with self._network.at(0.0):
                self._ahead = _labelled(self._frozen, questions)
            self._first = first
        self._number += 1
        return self._ahead[place]

    def skip(self) -> None:
        """Leaves out the next batch."""
        self._number += 1

    def state(self) -> dict[str, int]:
        """Where it stands, for `restore`."""
        return {"batch": self._number}

    def restore(self, state: Mapping[str, int]) -> None:
        """Goes on where `state` was taken, with the batches that were labelled together there.

        What else is in a pass of the frozen model can change the last digit of an answer.
        """
        self._number = state["batch"]


@dataclass(frozen=True)
class _Question:
    asked: torch.Tensor
    """Noisy latents that the network is asked about, [n, c, h, w]."""
    shown: torch.Tensor
    """Those that the frozen model answers to instead."""
    timesteps: torch.Tensor
    captions: tuple[str, ...]
    mask: torch.Tensor | None
    framings: tuple[Framing, ...]
    strength: float


def _question(session: Session, data: PairData, number: int, count: int) -> _Question:
    """The batch of this number, of `count` in all, without its labels.

    Timesteps sweep the range once, from its lowest to its highest.  Even batches go from the
    picture after the change to the one before it at a positive strength, odd ones the other way
    at a negative one; below a ratio of 0 these hold the answers to pure noise instead.

    A batch and the one that goes back are of the same pairs under the same noise: what they teach
    then differs in nothing but the way, and the chance of the draw cancels out.
    """
    wanted, loss = session.settings[DirectionSettings], session.settings[LossSettings]
    schedule = session.model.schedule
    drawn = number // 2 if wanted.alternate_ratio > 0 else number
    generator = torch.Generator(session.model.device).manual_seed(session.seed * count + drawn)
    epoch, place = divmod(drawn, data.order.batches_per_epoch)
    batch = data.take(data.order.batches_of(epoch)[place])
    noise = torch.randn(batch.originals.shape, generator=generator, device=generator.device)
    places = torch.rand(len(noise), generator=generator, device=generator.device)
    places = places[:1].expand(len(noise)) if loss.fixed_timesteps_in_batch else places
    span = loss.max_timestep - loss.min_timestep
    timesteps = (loss.min_timestep + (number + places) / count * span).long()
    timesteps = timesteps.clamp(max=loss.max_timestep - 1)
    before, after = (
        schedule.add_noise(latents, noise, timesteps)
        for latents in (batch.originals, batch.targets)
    )
    strength = wanted.direction_strength
    if number % 2 == 0 or wanted.alternate_ratio == 0:
        return _Question(
            after, before, timesteps, batch.captions, batch.mask, batch.framings, strength
        )
    back = -strength * abs(wanted.alternate_ratio)
    if wanted.alternate_ratio < 0:
        return _Question(noise, noise, timesteps, batch.captions, None, batch.framings, back)
    return _Question(before, after, timesteps, batch.captions, batch.mask, batch.framings, back)


def _labelled(frozen: FrozenModel, questions: list[_Question]) -> list[Lesson]:
    """The frozen model's answers, asked together for all questions of one size."""
    by_size = defaultdict(list)
    for index, question in enumerate(questions):
        by_size[question.shown.shape[2:]].append(index)
    labels: dict[int, torch.Tensor] = {}
    for indices in by_size.values():
        alike = [questions[index] for index in indices]
        answers = frozen.predict(
            torch.cat([one.shown for one in alike]),
            torch.cat([one.timesteps for one in alike]),
            [caption for one in alike for caption in one.captions],
            [framing for one in alike for framing in one.framings],
        )
        parts = answers.split([len(one.shown) for one in alike])
        labels.update(zip(indices, parts, strict=True))
    return [
        Lesson(
            Samples(one.asked, one.timesteps, labels[index], one.captions, one.mask, one.framings),
            one.strength,
        )
        for index, one in enumerate(questions)
    ]
