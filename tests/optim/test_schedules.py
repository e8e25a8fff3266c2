"""Learning rates against diffusers' and torch's own schedules, and against their formulas."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable

import pytest
import torch
from diffusers.optimization import get_scheduler
from torch.optim import lr_scheduler

from trainer.errors import BadInput
from trainer.optim.schedules import KINDS, Schedule, check_schedule, learning_rates, warmup_steps
from trainer.settings.groups import OptimizerSettings
from trainer.settings.groups.optimizer import SCHEDULES
from trainer.settings.schema import parse

STEPS = 12
JOB = {"method": "lora", "checkpoint": "model.safetensors", "images": "pictures"}
RULES = {"piecewise_constant": {"lr_step_rules": "1:3,0.1:6,0.01"}}


def optimizer(*rates: float) -> torch.optim.Optimizer:
    groups = [{"params": [torch.zeros(1)], "lr": rate} for rate in rates or (1.0,)]
    return torch.optim.SGD(groups, lr=1.0)


def rates(**settings: object) -> list[float]:
    return learning_rates(OptimizerSettings(learning_rate=1.0, **settings), STEPS)


def of_library(make: Callable[[torch.optim.Optimizer], object], steps: int = STEPS) -> list[float]:
    """The rates that a library's own schedule gives at each step."""
    made = optimizer()
    schedule = make(made)
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(steps):
            found.append(made.param_groups[0]["lr"])
            schedule.step()
    return found


def test_every_choice_has_a_row() -> None:
    assert set(KINDS) == set(SCHEDULES)


@pytest.mark.parametrize("warmup", [0, 3])
@pytest.mark.parametrize(
    ("name", "further"),
    [
        ("constant_with_warmup", {}),
        ("linear", {}),
        ("cosine", {}),
        ("cosine_with_restarts", {"num_cycles": 2}),
        ("polynomial", {"power": 2.0}),
    ],
)
def test_diffusers_names_are_diffusers_schedules(
    name: str, further: dict[str, object], warmup: int
) -> None:
    expected = of_library(
        lambda made: get_scheduler(
            name, made, num_warmup_steps=warmup, num_training_steps=STEPS, **further
        )
    )
    ours = {f"lr_{name.removeprefix('num_')}": value for name, value in further.items()}
    found = rates(lr_scheduler=name, lr_warmup_steps=warmup, **ours)
    assert found == pytest.approx(expected)


@pytest.mark.parametrize(
    ("name", "ours", "make"),
    [
        (
            "cosine_annealing",
            {"lr_scheduler_args": "eta_min=0.1"},
            lambda made: lr_scheduler.CosineAnnealingLR(made, STEPS, eta_min=0.1),
        ),
        (
            "cosine_annealing_with_restarts",
            {"lr_cycles": 3},
            lambda made: lr_scheduler.CosineAnnealingWarmRestarts(made, 4),
        ),
        (
            "exponential",
            {"lr_scheduler_args": "gamma=0.7"},
            lambda made: lr_scheduler.ExponentialLR(made, 0.7),
        ),
        (
            "step",
            {"lr_scheduler_args": "step_size=5; gamma=0.5"},
            lambda made: lr_scheduler.StepLR(made, 5, gamma=0.5),
        ),
        (
            "multi_step",
            {"lr_scheduler_args": "milestones=[2, 5]"},
            lambda made: lr_scheduler.MultiStepLR(made, [2, 5]),
        ),
        (
            "cyclic",
            {"lr_cycles": 2},
            lambda made: lr_scheduler.CyclicLR(made, 0.1, 1.0, 3, cycle_momentum=False),
        ),
        (
            "one_cycle",
            {"lr_scheduler_args": "pct_start=0.5"},
            lambda made: lr_scheduler.OneCycleLR(
                made, 1.0, STEPS, pct_start=0.5, cycle_momentum=False
            ),
        ),
    ],
)
def test_other_names_are_torchs_schedules(
    name: str, ours: dict[str, object], make: Callable[[torch.optim.Optimizer], object]
) -> None:
    found = rates(lr_scheduler=name, **ours)
    assert found == pytest.approx(of_library(make, STEPS - 1) + found[-1:])


@pytest.mark.parametrize("name", sorted(set(SCHEDULES) - {"constant_with_warmup"}))
def test_a_warmup_rises_to_where_the_schedule_begins(name: str) -> None:
    """Then the schedule has the steps that are left."""
    settings = {"lr_scheduler": name, **RULES.get(name, {})}
    warmed = rates(**settings, lr_warmup_steps=4)
    left = learning_rates(OptimizerSettings(learning_rate=1.0, **settings), STEPS - 4)
    assert warmed[:4] == pytest.approx([left[0] * part for part in (0, 0.25, 0.5, 0.75)])
    assert warmed[4:] == pytest.approx(left)


def test_a_warmup_begins_above_0_for_an_optimizer_that_needs_a_rate() -> None:
    found = rates(optimizer="DAdaptSGD", lr_scheduler="constant", lr_warmup_steps=4)
    assert found == pytest.approx([0.2, 0.4, 0.6, 0.8, *([1.0] * 8)])
    assert rates(optimizer="DAdaptSGD", lr_scheduler="constant") == [1.0] * STEPS


def test_cosine_falls_by_half_a_cosine() -> None:
    expected = [0.5 * (1 + math.cos(math.pi * i / STEPS)) for i in range(STEPS)]
    assert rates(lr_scheduler="cosine") == pytest.approx(expected)


def test_stages_and_falls_without_arguments() -> None:
    assert rates(lr_scheduler="step") == pytest.approx([1.0] * 4 + [0.1] * 4 + [0.01] * 4)
    assert rates(lr_scheduler="multi_step") == pytest.approx([1.0] * 6 + [0.1] * 3 + [0.01] * 3)
    exponential = rates(lr_scheduler="exponential")
    assert exponential == pytest.approx([0.01 ** (step / STEPS) for step in range(STEPS)])


@pytest.mark.parametrize("name", ["constant", "constant_with_warmup"])
def test_constant_warms_up_too(name: str) -> None:
    expected = [0.0, 0.25, 0.5, 0.75, *([1.0] * 8)]
    assert rates(lr_scheduler=name, lr_warmup_steps=4) == pytest.approx(expected)


def test_piecewise_constant_follows_its_rules() -> None:
    found = rates(lr_scheduler="piecewise_constant", lr_step_rules="1:3,0.1:6,0.01")
    assert found == pytest.approx([1.0] * 3 + [0.1] * 3 + [0.01] * 6)


def test_a_warmup_may_be_a_part_of_the_steps() -> None:
    assert warmup_steps(OptimizerSettings(lr_warmup_percent=10), 1000) == 100
    assert warmup_steps(OptimizerSettings(lr_warmup_steps=7), 1000) == 7
    assert rates(lr_scheduler="linear", lr_warmup_percent=25) == rates(
        lr_scheduler="linear", lr_warmup_steps=3
    )
    with pytest.raises(BadInput, match="lr_warmup_percent: 10 % is set beside"):
        parse({**JOB, "lr_warmup_percent": 10, "lr_warmup_steps": 7})


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_every_group_has_its_own_rate(name: str) -> None:
    settings = OptimizerSettings(lr_scheduler=name, lr_warmup_steps=2, **RULES.get(name, {}))
    made = optimizer(1.0, 0.5)
    schedule = Schedule(settings, made, STEPS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(STEPS):
            first, second = (group["lr"] for group in made.param_groups)
            assert second == pytest.approx(first / 2)
            schedule.step()


@pytest.mark.parametrize("place", [0, 2, 7])
@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_going_on_has_the_same_rates_to_the_bit(name: str, place: int) -> None:
    settings = OptimizerSettings(
        lr_scheduler=name, lr_warmup_steps=2, lr_cycles=2, **RULES.get(name, {})
    )
    losses = [torch.tensor(1.0 + 0.1 * (step % 3)) for step in range(STEPS)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = optimizer(1.0, 0.3)
        schedule, state, expected = Schedule(settings, made, STEPS), {}, []
        for step in range(STEPS):
            if step == place:
                state = json.loads(json.dumps(schedule.state_dict()))
            if step >= place:
                expected.append([group["lr"] for group in made.param_groups])
            schedule.step(losses[step])
        again = optimizer(1.0, 0.3)
        later = Schedule(settings, again, STEPS)
        later.load_state_dict(state)
        for step in range(place, STEPS):
            assert [group["lr"] for group in again.param_groups] == expected[step - place]
            later.step(losses[step])


def test_a_plateau_lowers_the_rate_and_falling_losses_do_not() -> None:
    settings = OptimizerSettings(
        lr_scheduler="reduce_on_plateau", lr_scheduler_args="patience=3; factor=0.5"
    )
    for slope, expected in ((0.0, 0.5), (-0.1, 1.0)):
        made = optimizer()
        schedule = Schedule(settings, made, 100)
        for step in range(6):
            schedule.step(torch.tensor(1.0 + slope * step))
        assert made.param_groups[0]["lr"] == expected


def test_the_course_does_not_foresee_a_plateau() -> None:
    assert rates(lr_scheduler="reduce_on_plateau") == [1.0] * STEPS


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr_scheduler": "piecewise_constant"}, "lr_step_rules: is empty"),
        ({"lr_scheduler_args": "lr_end=1"}, "does not take lr_end"),
        ({"lr_scheduler_args": "num_cycles=3"}, "field of its own"),
        ({"lr_scheduler": "step", "lr_scheduler_args": "gama=3"}, "did you mean gamma"),
        ({"lr_scheduler": "one_cycle", "lr_scheduler_args": "max_lr=3"}, "field of its own"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        check_schedule(OptimizerSettings(**settings))


def test_a_refused_value_is_named() -> None:
    settings = OptimizerSettings(lr_scheduler="one_cycle", lr_scheduler_args="pct_start=7")
    with pytest.raises(BadInput, match="one_cycle refuses them"):
        Schedule(settings, optimizer(), STEPS)
