"""The limit of delta W's norm, and the groups that learn at different rates."""

from __future__ import annotations

import pytest
import torch

from tests.networks.small_models import Model, shared_model, trained
from tests.networks.test_kinds import delta_weight, groups
from trainer.networks.build import parameter_groups
from trainer.networks.kinds import KINDS
from trainer.settings.groups import OptimizerSettings


def deltas(network: object) -> dict[str, torch.Tensor]:
    shapes = {target.name: target.module.weight.shape for target in network.targets}
    tensors = groups(network.tensors())
    return {name: delta_weight(tensors[name], shape) for name, shape in shapes.items()}


@pytest.mark.parametrize("kind", list(KINDS))
def test_what_is_too_large_is_shrunk_and_nothing_else(kind: str) -> None:
    network = trained(shared_model("sd1").network(kind, conv_rank=2, conv_alpha=3.0), size=0.2)
    before = deltas(network)
    sizes = sorted(delta.norm() for delta in before.values())
    most = float(sizes[len(sizes) // 2])
    for target in network.targets:
        norm = network.adapters[target.name].norm()
        torch.testing.assert_close(norm, before[target.name].norm(), rtol=1e-4, atol=1e-5)
    network.limit_norms(most)
    after = deltas(network)
    for name, delta in before.items():
        expected = delta * min(1.0, most / float(delta.norm()))
        assert (after[name] - expected).norm() <= 1e-4 * expected.norm(), name


def test_a_dora_keeps_its_magnitude_when_it_is_shrunk() -> None:
    network = trained(shared_model("sd1").network("dora"), size=0.5)
    before = [adapter.magnitude.clone() for adapter in network.adapters.values()]
    network.limit_norms(0.01)
    after = [adapter.magnitude for adapter in network.adapters.values()]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def test_without_lora_plus_there_is_one_group_for_each_model(model: Model) -> None:
    rates = OptimizerSettings(learning_rate=1e-4, text_encoder_learning_rate=1e-5)
    found = parameter_groups(model.network(), rates)
    assert [(group.name, group.learning_rate) for group in found] == [
        ("unet", 1e-4),
        ("text_encoder", 1e-5),
    ]


@pytest.mark.parametrize("kind", list(KINDS))
def test_lora_plus_is_for_the_weights_that_start_at_zero(kind: str) -> None:
    network = shared_model("sd1").network(kind)
    rates = OptimizerSettings(
        learning_rate=1e-4, text_encoder_learning_rate=1e-5, lora_plus_ratio=16
    )
    found = {group.name: group for group in parameter_groups(network, rates)}
    assert {name: group.learning_rate for name, group in found.items()} == pytest.approx(
        {"unet": 1e-4, "unet_fast": 16e-4, "text_encoder": 1e-5, "text_encoder_fast": 16e-5}
    )
    held = [id(weight) for group in found.values() for weight in group.parameters]
    assert sorted(held) == sorted(id(weight) for weight in network.parameters())
    for name, group in found.items():
        zero = [not weight.any() for weight in group.parameters]
        assert all(zero) if name.endswith("_fast") else not any(zero)
