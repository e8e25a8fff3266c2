from __future__ import annotations

import itertools
import math

import pytest
import torch

from trainer.control import Control, Request
from trainer.events import StepDone, ignore
from trainer.optim.optimizers import ParameterGroup
from trainer.settings.groups import OptimizerSettings, TrainingSettings
from trainer.training import stopwatch
from trainer.training.loop import Loop, NotANumber


def make(weight: torch.nn.Parameter, *, lr: float = 0.1, **training) -> Loop:
    settings = OptimizerSettings(lr_scheduler="constant", optimizer_args="weight_decay=0")
    return Loop(
        [ParameterGroup("unet", (weight,), lr), ParameterGroup("text_encoder", (), lr)],
        TrainingSettings(**training),
        settings,
        steps_per_epoch=2.5,
    )


@pytest.mark.parametrize("accumulation", [1, 3])
def test_exactly_as_many_updates_as_asked_for(accumulation):
    weight = torch.nn.Parameter(torch.zeros(1))
    calls, events = [], []

    def loss() -> torch.Tensor:
        calls.append(1)
        return (weight - 1).square().sum()

    loop = make(weight, steps=5, gradient_accumulation_steps=accumulation)
    outcome = loop.run(loss, control=Control(), sink=events.append)
    assert outcome.steps == 5
    assert len(calls) == 5 * accumulation
    steps = [event for event in events if isinstance(event, StepDone)]
    assert [event.step for event in steps] == [1, 2, 3, 4, 5]
    assert [event.epoch for event in steps] == [1, 1, 2, 2, 2]
    assert all(event.total_steps == 5 for event in steps)
    assert steps[-1].left_s == 0


def test_updates_are_those_of_torchs_adamw_with_accumulated_clipped_gradients():
    ours, theirs = (torch.nn.Parameter(torch.tensor([1.0, 2.0])) for _ in range(2))
    targets = [torch.tensor([float(i), -float(i)]) for i in range(6)]
    loop = make(ours, steps=3, gradient_accumulation_steps=2, max_grad_norm=0.5)
    stream = iter(targets)
    loop.run(lambda: (ours - next(stream)).square().mean(), control=Control(), sink=ignore)
    optimizer = torch.optim.AdamW([theirs], lr=0.1, weight_decay=0)
    for first in (0, 2, 4):
        optimizer.zero_grad()
        losses = [(theirs - t).square().mean() for t in targets[first : first + 2]]
        (sum(losses) / 2).backward()
        torch.nn.utils.clip_grad_norm_([theirs], 0.5)
        optimizer.step()
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


def test_smoothed_loss_starts_as_the_plain_mean():
    weight = torch.nn.Parameter(torch.zeros(1))
    values = iter([4.0, 2.0, 3.0])
    events: list[StepDone] = []
    make(weight, steps=3).run(
        lambda: (weight * 0 + next(values)).sum(), control=Control(), sink=events.append
    )
    assert [e.loss for e in events] == [4.0, 2.0, 3.0]
    assert [e.smoothed_loss for e in events] == pytest.approx([4.0, 3.0, 3.0])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nan_ends_the_run_with_advice(bad):
    weight = torch.nn.Parameter(torch.zeros(1))
    values = iter([1.0, bad, 1.0])
    with pytest.raises(NotANumber, match="step 2.*learning_rate"):
        make(weight, steps=3).run(
            lambda: (weight * 0 + next(values)).sum(), control=Control(), sink=ignore
        )


@pytest.mark.parametrize("way", ["stop", "stop_and_save"])
def test_stop_is_honoured_at_the_next_step(way):
    weight = torch.nn.Parameter(torch.zeros(1))
    control = Control()

    def after_step(step: int) -> None:
        if step == 2:
            getattr(control, way)()

    outcome = make(weight, steps=50).run(
        lambda: weight.square().sum(), control=control, sink=ignore, after_step=after_step
    )
    assert outcome.steps == 2
    assert outcome.request is Request(way)


def test_float16_scales_the_loss_and_trains():
    weight = torch.nn.Parameter(torch.zeros(1))
    loop = Loop(
        [ParameterGroup("unet", (weight,), 0.1)],
        TrainingSettings(steps=3),
        OptimizerSettings(lr_scheduler="constant"),
        compute_dtype=torch.float16,
    )
    scales = []

    def loss() -> torch.Tensor:
        weight.register_hook(lambda grad: scales.append(float(grad.abs())))
        return (weight - 1).square().sum()

    loop.run(loss, control=Control(), sink=ignore)
    assert scales[0] > 1000  # the gradient of the unscaled loss is 2
    assert 0 < weight.item() < 1


def test_what_began_in_float32_goes_on_in_float16():
    def loop(dtype: torch.dtype) -> Loop:
        weight = torch.nn.Parameter(torch.zeros(1))
        groups = [ParameterGroup("unet", (weight,), 0.1)]
        settings = OptimizerSettings(lr_scheduler="constant")
        return Loop(groups, TrainingSettings(steps=3), settings, compute_dtype=dtype)

    first, second = loop(torch.float32), loop(torch.float16)
    first.update(lambda: (first.parameters[0] - 1).square().sum())
    second.restore(*first.state())
    assert second.step == 1


@pytest.fixture
def clock(monkeypatch):
    """Seconds that only pass where a test adds to them."""
    now = [0.0]
    monkeypatch.setattr(stopwatch, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize("away_s", [0, 40])
def test_time_of_a_pause_is_no_time_of_training(clock, away_s):
    weight = torch.nn.Parameter(torch.zeros(1))
    control, events = Control(), []
    checks = itertools.count()

    def give_way() -> None:
        clock[0] += away_s if next(checks) == 6 else 0

    def loss() -> torch.Tensor:
        clock[0] += 2
        return weight.square().sum()

    control.give_way = give_way
    loop = make(weight, steps=10)
    loop.run(loss, control=control, sink=events.append)
    assert [event.elapsed_s for event in events] == [2.0 * step for step in range(1, 11)]
    assert {event.steps_per_s for event in events} == {0.5}
    assert [event.left_s for event in events] == [2.0 * (10 - step) for step in range(1, 11)]


def test_a_run_that_goes_on_counts_on_from_where_it_was_stopped(clock):
    def trained(loop: Loop, control: Control) -> list[StepDone]:
        events: list[StepDone] = []

        def loss() -> torch.Tensor:
            clock[0] += 2
            return loop.parameters[0].square().sum()

        def after_step(step: int) -> None:
            if step == 3:
                control.stop()

        loop.run(loss, control=control, sink=events.append, after_step=after_step)
        return events

    first = make(torch.nn.Parameter(torch.zeros(1)), steps=5)
    trained(first, Control())
    clock[0] += 1000
    second = make(torch.nn.Parameter(torch.zeros(1)), steps=5)
    second.restore(*first.state())
    assert [event.elapsed_s for event in trained(second, Control())] == [8.0, 10.0]
