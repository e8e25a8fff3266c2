from __future__ import annotations

import pytest
import torch

from trainer.errors import BadInput
from trainer.optim.optimizers import ParameterGroup, new_optimizer
from trainer.settings.groups import OptimizerSettings


def groups(parameter: torch.nn.Parameter) -> list[ParameterGroup]:
    return [ParameterGroup("unet", (parameter,), 0.1)]


def test_adamw_makes_torchs_own_step():
    ours = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    theirs = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    settings = OptimizerSettings(optimizer_args="weight_decay=0.3; betas=(0.8, 0.9)")
    found = new_optimizer(settings, groups(ours))
    expected = torch.optim.AdamW([theirs], lr=0.1, weight_decay=0.3, betas=(0.8, 0.9))
    for parameter, optimizer in ((ours, found), (theirs, expected)):
        for factor in (1.0, 0.5):
            parameter.grad = torch.tensor([0.3, 0.7]) * factor
            optimizer.step()
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("weight_decy=0.1", "did you mean weight_decay"),
        ("lr=1", "lr here - it has a field of its own"),
        ("fused=False", "fused here"),
        ("eps=-1", "AdamW refuses them"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    settings = OptimizerSettings(optimizer_args=arguments)
    with pytest.raises(BadInput, match=message):
        new_optimizer(settings, groups(torch.nn.Parameter(torch.ones(2))))
