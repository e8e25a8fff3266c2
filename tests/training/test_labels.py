"""The pool of labels, on a model whose answers are known: the prompt's number times the latents."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import islice
from types import SimpleNamespace

import pytest
import torch

from trainer.diffusion.schedule import scaled_linear
from trainer.models.text import Conditioning
from trainer.training.labels import FrozenModel, PoolBatches, Question, Samples, ask, questions_for


def frozen() -> FrozenModel:
    def encode(prompts: Sequence[str]) -> Conditioning:
        return Conditioning(torch.tensor([float(prompt or 0) for prompt in prompts]))

    def denoise(latents: torch.Tensor, timesteps: torch.Tensor, told: Conditioning) -> torch.Tensor:
        return latents * told.context.view(-1, 1, 1, 1)

    model = SimpleNamespace(
        denoise=denoise,
        unet=SimpleNamespace(config=SimpleNamespace(in_channels=4)),
        schedule=scaled_linear(),
        device=torch.device("cpu"),
    )
    return FrozenModel(model, encode)  # type: ignore[arg-type]


def test_a_mix_is_the_weighted_sum_of_answers() -> None:
    latents = torch.randn(3, 4, 2, 2)
    mixes = [{"2": 1.0}, {"5": 3.0, "1": -2.0}, {"": 1.0}]
    (mixed,) = frozen().mixed(latents, torch.tensor([1, 2, 3]), mixes)
    factors = torch.tensor([2.0, 13.0, 0.0]).view(3, 1, 1, 1)
    torch.testing.assert_close(mixed, latents * factors)


def test_labels_belong_to_the_latents_and_the_trained_prompt() -> None:
    questions = [
        Question("7", {"3": 2.0, "7": -1.0}, None),
        Question("8", {"4": 1.0}, {"": 1.0}),
        Question("9", {"1": 1.0}, {"": 1.0}),
    ]
    parts = list(
        ask(
            frozen(),
            questions,
            (2, 3),
            timesteps=(0, 1000),
            steps=6,
            generator=torch.Generator().manual_seed(0),
        )
    )
    count = Counter(prompt for part in parts for prompt in part.prompts)
    assert count == {"7": 1, "8": 6, "9": 6}
    factor = {"7": -1.0, "8": 4.0, "9": 1.0}
    for part in parts:
        assert part.latents.shape[1:] == (4, 2, 3)
        factors = torch.tensor([factor[prompt] for prompt in part.prompts]).view(-1, 1, 1, 1)
        torch.testing.assert_close(part.labels, part.latents * factors)


def test_what_draws_a_picture_and_labels_it_is_predicted_once() -> None:
    one = frozen()
    question = Question("8", {"3": 1.0}, {"3": 3.0, "": -2.0})
    generator = torch.Generator().manual_seed(0)
    found = list(ask(one, [question], (1, 1), timesteps=(0, 1000), steps=6, generator=generator))
    assert len(found) == 6
    assert one.passes == 5 * 2 + 1  # the last latents draw nothing more


def test_only_timesteps_of_the_range_are_kept_and_about_as_many_as_wanted() -> None:
    span = (200, 600)
    count = questions_for(100, span, 10, drawn=True)
    questions = [Question("1", {"1": 1.0}, {"": 1.0})] * count
    found = ask(
        frozen(),
        questions,
        (1, 1),
        timesteps=span,
        steps=10,
        generator=torch.Generator().manual_seed(0),
    )
    timesteps = torch.cat([part.timesteps for part in found])
    assert ((timesteps >= 200) & (timesteps < 600)).all()
    assert len(timesteps) == 100


def test_no_picture_is_drawn_further_than_the_lowest_timestep_of_the_range() -> None:
    one = frozen()
    questions = [Question("1", {"1": 1.0}, {"1": 1.0})] * 3
    span, generator = (700, 1000), torch.Generator().manual_seed(0)
    found = list(ask(one, questions, (1, 1), timesteps=span, steps=10, generator=generator))
    assert sum(len(part) for part in found) == 9
    assert one.passes == 9  # a tenth of the schedule each, and not the seven tenths below


def test_memory_bounds_what_goes_through_the_model_at_once() -> None:
    sizes = []
    one = frozen()
    inner = one.model.denoise

    def counting(latents: torch.Tensor, *rest: object) -> torch.Tensor:
        sizes.append(len(latents))
        return inner(latents, *rest)  # type: ignore[arg-type]

    one.model.denoise = counting  # type: ignore[method-assign]
    latents = torch.zeros(20, 4, 64, 64)  # 512 x 512 px: eight at once
    one.predict(latents, torch.zeros(20, dtype=torch.long), ["1"] * 20)
    assert sizes == [8, 8, 4]
    assert one.passes == 20


def numbered(count: int, prompt: str) -> Samples:
    latents = torch.arange(count).float().view(-1, 1, 1, 1)
    return Samples(latents, torch.arange(count) * 10, latents, (prompt,) * count)


@pytest.mark.parametrize("order", ["shuffled", "random"])
def test_every_batch_holds_the_kinds_in_their_proportion(order: str) -> None:
    batches = PoolBatches([(numbered(9, "a"), 0.75), (numbered(5, "b"), 0.25)], 4, 3, order=order)
    for batch in islice(batches, 20):
        assert Counter(batch.prompts) == {"a": 3, "b": 1}
    halves = PoolBatches([(numbered(9, "a"), 0.5), (numbered(5, "b"), 0.5)], 1, 3, order=order)
    drawn = Counter(prompt for batch in islice(halves, 20) for prompt in batch.prompts)
    assert drawn == {"a": 10, "b": 10}


def test_shuffled_uses_every_sample_once_before_one_again() -> None:
    batches = PoolBatches([(numbered(12, "a"), 1.0)], 3, 5, order="shuffled")
    drawn = [int(value) for batch in islice(batches, 8) for value in batch.latents.flatten()]
    assert sorted(drawn[:12]) == sorted(drawn[12:]) == list(range(12))
    assert drawn[:12] != drawn[12:]


def test_same_noise_level_makes_batches_of_neighbours() -> None:
    kinds = [(numbered(40, "a"), 0.5), (numbered(40, "b"), 0.5)]
    for batch in islice(PoolBatches(kinds, 4, 5, order="random", same_noise_level=True), 20):
        assert int(batch.timesteps.max() - batch.timesteps.min()) <= 20


@pytest.mark.parametrize("order", ["shuffled", "random"])
def test_it_goes_on_where_it_stood(order: str) -> None:
    kinds = [(numbered(9, "a"), 0.6), (numbered(5, "b"), 0.4)]
    first, second = (PoolBatches(kinds, 2, 3, order=order) for _ in range(2))
    for _ in range(7):
        next(first)
    second.restore(first.state())
    for a, b in islice(zip(first, second, strict=True), 9):
        assert torch.equal(a.latents, b.latents)
        assert a.prompts == b.prompts
