"""ADDifT: what each batch asks, at which strength, and what the labels are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import islice
from pathlib import Path

import pytest
import torch

from trainer.control import Control
from trainer.hosts.standalone import StandaloneHost
from trainer.methods import addift
from trainer.methods.addift import Lesson, Lessons
from trainer.settings.groups import ModelSettings
from trainer.settings.schema import parse
from trainer.training.distributed import Team
from trainer.training.encoding import encode_pairs, frozen_encoder
from trainer.training.plan import make_plan
from trainer.training.session import Session
from trainer.training.training_data import PairData

STEPS = 10
Taught = Callable[..., AbstractContextManager[tuple[Session, PairData, list[Lesson]]]]


@pytest.fixture
def taught(jobs: dict[str, dict[str, object]], tmp_path: Path) -> Taught:
    """A training's session, its pairs, and all its lessons."""

    @contextmanager
    def make(
        method: str = "addift", **changes: object
    ) -> Iterator[tuple[Session, PairData, list[Lesson]]]:
        settings = parse(
            {**jobs[method], "method": method, "steps": STEPS, "blocks": "M00", **changes}
        )
        host = StandaloneHost(tmp_path, tmp_path / "out", "cpu")
        plan = make_plan(settings, host)
        with host.borrow(settings[ModelSettings]) as model:
            session = Session(settings, plan, model, host, control=Control(), sink=lambda _: None)
            data, network = encode_pairs(session), session.new_network()
            with network:
                yield session, data, list(islice(Lessons(session, data, network), STEPS))

    return make


def test_timesteps_sweep_the_range_once(taught: Taught) -> None:
    with taught(min_timestep=200, max_timestep=400, batch_size=4) as (_, _, lessons):
        for number, lesson in enumerate(lessons):
            # batch n of 10 has the n-th tenth of 200 to 400
            low = 200 + 20 * number
            assert all(low <= t < low + 20 for t in lesson.samples.timesteps.tolist())
        assert len(set(lessons[0].samples.timesteps.tolist())) > 1
    with taught(fixed_timesteps_in_batch=True, batch_size=4) as (_, _, lessons):
        assert all(len(set(one.samples.timesteps.tolist())) == 1 for one in lessons)


@pytest.mark.parametrize(
    ("ratio", "back"), [(1.0, -0.25), (0.5, -0.125), (-2.0, -0.5), (0.0, 0.25)]
)
def test_every_second_batch_goes_back_at_its_ratio(
    ratio: float, back: float, taught: Taught
) -> None:
    with taught(alternate_ratio=ratio, direction_strength=0.25) as (_, _, lessons):
        assert [lesson.strength for lesson in lessons] == [0.25, back] * 5


def clean(session: Session, lesson: Lesson, noise: torch.Tensor) -> torch.Tensor:
    """The latents that a lesson asks about, given their noise."""
    signal = session.model.schedule.alphas_cumprod[lesson.samples.timesteps].view(-1, 1, 1, 1)
    return (lesson.samples.latents - (1 - signal).sqrt() * noise) / signal.sqrt()


def noise_of(session: Session, lesson: Lesson, asked: torch.Tensor) -> torch.Tensor:
    """The noise that a lesson has added to these latents."""
    signal = session.model.schedule.alphas_cumprod[lesson.samples.timesteps].view(-1, 1, 1, 1)
    return (lesson.samples.latents - signal.sqrt() * asked) / (1 - signal).sqrt()


def test_each_way_the_other_picture_is_answered_under_the_same_noise(taught: Taught) -> None:
    with taught(original_prompt="a cat", max_timestep=500) as (session, data, lessons):
        pair = data.take([0])
        schedule, encode = session.model.schedule, frozen_encoder(session, ["a cat"])
        for lesson, asked, shown in (
            (lessons[0], pair.targets, pair.originals),
            (lessons[1], pair.originals, pair.targets),
        ):
            at = lesson.samples.timesteps
            noise = noise_of(session, lesson, asked)
            with torch.no_grad():
                answer = session.model.denoise(
                    schedule.add_noise(shown, noise, at), at, encode(["a cat"])
                )
            assert lesson.samples.prompts == ("a cat",)
            torch.testing.assert_close(lesson.samples.labels, answer, rtol=1e-3, atol=1e-3)
            torch.testing.assert_close(clean(session, lesson, noise), asked, rtol=1e-3, atol=1e-3)


def test_back_and_forth_the_same_noise_and_pictures_are_asked_about(taught: Taught) -> None:
    with taught("multi_addift", max_timestep=500, batch_size=1) as (session, data, lessons):
        for there, back in zip(lessons[0::2], lessons[1::2], strict=True):
            assert there.samples.prompts == back.samples.prompts
            (pair,) = (
                pair
                for pair in (data.take([index]) for index in range(len(data.masks)))
                if pair.captions == there.samples.prompts
            )
            noises = [
                noise_of(session, lesson, asked)
                for lesson, asked in ((there, pair.targets), (back, pair.originals))
            ]
            torch.testing.assert_close(*noises, rtol=1e-3, atol=1e-3)
    with taught(alternate_ratio=0, max_timestep=500) as (session, data, lessons):
        targets = data.take([0]).targets
        first, second = (noise_of(session, lesson, targets) for lesson in lessons[:2])
        assert not torch.allclose(first, second, atol=0.1)


def test_reverting_exchanges_the_pictures(taught: Taught) -> None:
    with taught() as (_, plain, _), taught(revert=True) as (_, reverted, _):
        assert torch.equal(plain.take([0]).originals, reverted.take([0]).targets)
        assert torch.equal(plain.take([0]).targets, reverted.take([0]).originals)


def test_below_0_every_second_batch_holds_pure_noise(taught: Taught) -> None:
    with taught(alternate_ratio=-1, mask="difference", batch_size=4) as (session, _, lessons):
        held = lessons[1].samples
        assert held.mask is None
        assert float(held.latents.std()) == pytest.approx(1, abs=0.1)
        with torch.no_grad():
            encode = frozen_encoder(session, [""])
            answer = session.model.denoise(held.latents, held.timesteps, encode([""] * 4))
        # the label is what the bare model, whose network is still empty, answers to the same
        torch.testing.assert_close(held.labels, answer, rtol=1e-3, atol=1e-3)
        assert all(one.samples.mask is not None for one in lessons[0::2])


def test_captions_and_trigger_words_of_a_folder_are_told(taught: Taught) -> None:
    with taught("multi_addift", trigger_word="ohwx") as (_, _, lessons):
        told = {prompt for lesson in lessons for prompt in lesson.samples.prompts}
        assert told == {"ohwx, caption 0", "ohwx, caption 1"}


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_of_a_team_goes_on_with_its_own_batches(
    rank: int, taught: Taught, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Labelled with the same others as before: the last digit of an answer depends on them."""
    monkeypatch.setattr(addift, "current_team", lambda: Team(rank, 2))
    monkeypatch.setattr(addift, "LABELLED_AT_ONCE", 3)

    def taken(lessons: Lessons) -> Iterator[Lesson]:
        """As the loop takes them: one, and the other process one."""
        for _ in range(lessons.state()["batch"], STEPS, 2):
            for skipped in (rank == 1, rank == 0):
                if skipped:
                    lessons.skip()
                else:
                    yield next(lessons)

    with taught() as (session, data, alone):
        network = session.new_network()
        whole = list(taken(Lessons(session, data, network)))
        for lesson, own in zip(whole, alone[rank::2], strict=True):
            assert lesson.strength == own.strength
            assert torch.equal(lesson.samples.latents, own.samples.latents)
            torch.testing.assert_close(lesson.samples.labels, own.samples.labels)
        for step in range(len(whole)):
            again = Lessons(session, data, network)
            again.restore({"batch": 2 * step})
            for lesson, wanted in zip(taken(again), whole[step:], strict=True):
                assert lesson.strength == wanted.strength
                assert torch.equal(lesson.samples.latents, wanted.samples.latents)
                assert torch.equal(lesson.samples.labels, wanted.samples.labels)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 4, 6, 7])
def test_an_epoch_of_pairs_is_as_long_as_planned(
    taught: Taught, pairs: Path, batch_size: int
) -> None:
    three = {
        "original_image": "\n".join([str(pairs / "0.png")] * 3),
        "target_image": "\n".join([str(pairs / "0_after.png")] * 3),
    }
    with taught("addift", batch_size=batch_size, **three) as (session, data, _):
        assert session.plan.steps_per_epoch == data.order.batches_per_epoch
