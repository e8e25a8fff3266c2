"""Learning rates against diffusers' formulas."""

from __future__ import annotations

import math

import pytest
import torch

from trainer.errors import BadInput
from trainer.optim.schedules import Schedule, check_schedule
from trainer.settings.groups import OptimizerSettings

STEPS = 10


def rates(**settings) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
    schedule = Schedule(OptimizerSettings(**settings), optimizer, STEPS)
    found = []
    for _ in range(STEPS):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_cosine_falls_by_half_a_cosine():
    expected = [0.5 * (1 + math.cos(math.pi * i / STEPS)) for i in range(STEPS)]
    assert rates(lr_scheduler="cosine") == pytest.approx(expected)


def test_linear_with_warmup():
    expected = [0.0, 0.5, *(1 - i / 8 for i in range(8))]
    assert rates(lr_scheduler="linear", lr_warmup_steps=2) == pytest.approx(expected)


@pytest.mark.parametrize("name", ["constant", "constant_with_warmup"])
def test_constant_warms_up_too(name):
    expected = [0.0, 0.25, 0.5, 0.75, *([1.0] * 6)]
    assert rates(lr_scheduler=name, lr_warmup_steps=4) == pytest.approx(expected)


def test_constant_stays():
    assert rates(lr_scheduler="constant") == [1.0] * STEPS


def test_restarts_come_back_to_the_top():
    found = rates(lr_scheduler="cosine_with_restarts", lr_cycles=2)
    assert found[0] == found[5] == 1.0
    assert found[4] < 0.2


def test_polynomial_takes_power_and_further_arguments():
    found = rates(lr_scheduler="polynomial", lr_power=2.0, lr_scheduler_args="lr_end=0.5")
    expected = [0.5 + 0.5 * (1 - i / STEPS) ** 2 for i in range(STEPS)]
    assert found == pytest.approx(expected)


def test_piecewise_constant_follows_its_rules():
    found = rates(lr_scheduler="piecewise_constant", lr_step_rules="1:3,0.1:6,0.01")
    assert found == pytest.approx([1.0] * 3 + [0.1] * 3 + [0.01] * 4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr_scheduler": "piecewise_constant"}, "lr_step_rules: is empty"),
        ({"lr_scheduler_args": "lr_end=1"}, "does not take lr_end"),
        ({"lr_scheduler_args": "num_cycles=3"}, "field of its own"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(BadInput, match=message):
        check_schedule(OptimizerSettings(**settings))
