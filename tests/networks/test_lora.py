"""One adapter on one layer, against the formula and against peft."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from tests.networks.small_models import trained
from trainer.networks.network import Network
from trainer.networks.sizes import Sizes
from trainer.networks.targets import Target

LAYERS = {
    "linear": (lambda: nn.Linear(12, 20), (3, 7, 12)),
    "linear without bias": (lambda: nn.Linear(12, 20, bias=False), (5, 12)),
    "conv 1x1": (lambda: nn.Conv2d(12, 20, 1), (2, 12, 6, 4)),
    "conv 3x3": (lambda: nn.Conv2d(12, 20, 3, padding=1), (2, 12, 6, 4)),
    "conv 3x3 stride 2": (lambda: nn.Conv2d(12, 20, 3, stride=2, padding=1), (2, 12, 6, 4)),
}
RANK, ALPHA = 3, 2.0


@pytest.fixture(params=list(LAYERS))
def layer_and_input(request: pytest.FixtureRequest) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    make, shape = LAYERS[request.param]
    layer = make().requires_grad_(False)
    return layer, torch.randn(shape)


def network_on(layer: nn.Module, rank: int = RANK, **options: object) -> Network:
    root = Target("lora_unet_layer", layer, "IN01")  # type: ignore[arg-type]
    return Network([root], "c3lier", Sizes(rank, ALPHA), **options)  # type: ignore[arg-type]


def down_and_up(network: Network) -> tuple[torch.Tensor, torch.Tensor]:
    tensors = network.tensors()
    down = tensors["lora_unet_layer.lora_down.weight"]
    return down, tensors["lora_unet_layer.lora_up.weight"]


def by_the_formula(
    layer: nn.Module, down: torch.Tensor, up: torch.Tensor, x: torch.Tensor, scale: float
) -> torch.Tensor:
    """W x + b with W + scale * up . down in the place of W (facts/formats.md A.2)."""
    merged = copy.deepcopy(layer)
    delta = (up.flatten(1) @ down.flatten(1)).reshape(merged.weight.shape)
    merged.weight.data += scale * delta
    with torch.no_grad():
        return merged(x)


@pytest.mark.parametrize("multiplier", [1.0, 0.25, -1.0])
def test_forward_is_the_formula(
    layer_and_input: tuple[nn.Module, torch.Tensor], multiplier: float
) -> None:
    layer, x = layer_and_input
    network = trained(network_on(layer), size=1.0)
    expected = by_the_formula(layer, *down_and_up(network), x, multiplier * ALPHA / RANK)
    network.multiplier = multiplier
    with network, torch.no_grad():
        torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)


def test_a_new_network_changes_nothing(layer_and_input: tuple[nn.Module, torch.Tensor]) -> None:
    layer, x = layer_and_input
    before = layer(x)
    with network_on(layer):
        assert torch.equal(layer(x), before)


@pytest.mark.parametrize("name", ["linear", "conv 1x1", "conv 3x3 stride 2"])
def test_forward_and_gradients_equal_those_of_peft(name: str) -> None:
    library = pytest.importorskip("peft", reason="peft needs a newer transformers than 4.30")
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    layer, x = make().requires_grad_(False), torch.randn(shape)
    network = trained(network_on(layer), size=1.0)
    down, up = down_and_up(network)
    config = library.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=["0"])
    peft = library.inject_adapter_in_model(config, nn.Sequential(copy.deepcopy(layer)))
    peft[0].lora_A["default"].weight.data = down.clone()
    peft[0].lora_B["default"].weight.data = up.clone()

    expected = peft(x)
    expected.square().sum().backward()
    with network:
        output = layer(x)
        output.square().sum().backward()

    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)
    weights = network.adapters["lora_unet_layer"].weights()
    for name_in_file, in_peft in (
        ("lora_down.weight", peft[0].lora_A["default"].weight),
        ("lora_up.weight", peft[0].lora_B["default"].weight),
    ):
        torch.testing.assert_close(weights[name_in_file].grad, in_peft.grad, rtol=1e-4, atol=1e-4)


def test_gradients_reach_the_adapters_alone(
    layer_and_input: tuple[nn.Module, torch.Tensor],
) -> None:
    layer, x = layer_and_input
    network = trained(network_on(layer))
    with network:
        layer(x).square().mean().backward()
    assert all(weight.grad.abs().sum() > 0 for weight in network.parameters())
    assert all(weight.grad is None for weight in layer.parameters())


def test_down_is_drawn_as_a_linear_draws_its_weight() -> None:
    layer = nn.Linear(300, 400)
    down, up = down_and_up(network_on(layer, rank=200))
    bound = 1 / math.sqrt(300)
    assert 0.99 * bound < down.max() <= bound
    assert -bound <= down.min() < -0.99 * bound
    assert abs(down.std() - bound / math.sqrt(3)) < 0.01 * bound
    assert not up.any()


def test_a_seed_gives_the_same_weights() -> None:
    layer = nn.Linear(12, 20)
    drawn = [
        down_and_up(network_on(layer, generator=torch.Generator().manual_seed(seed)))[0]
        for seed in (5, 5, 6)
    ]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_kernels_have_their_own_rank_and_alpha() -> None:
    layers = [nn.Conv2d(12, 20, 3), nn.Conv2d(12, 20, 1), nn.Linear(12, 20)]
    targets = [Target(f"lora_unet_{i}", layer, "IN01") for i, layer in enumerate(layers)]
    network = Network(targets, "c3lier", Sizes(4, 2.0, conv_rank=6, conv_alpha=1.0))
    sizes = [(adapter.rank, adapter.alpha) for adapter in network.adapters.values()]
    assert sizes == [(6, 1.0), (4, 2.0), (4, 2.0)]
    inherited = Network(targets, "c3lier", Sizes(4, 2.0))
    assert [adapter.rank for adapter in inherited.adapters.values()] == [4, 4, 4]


def test_autocast_computes_in_bf16_and_trains_in_fp32(
    layer_and_input: tuple[nn.Module, torch.Tensor],
) -> None:
    layer, x = layer_and_input
    network = trained(network_on(layer), size=0.3)
    exact = by_the_formula(layer, *down_and_up(network), x, ALPHA / RANK)
    with network, torch.autocast("cpu", torch.bfloat16):
        output = layer(x)
        output.float().square().mean().backward()
    assert output.dtype == torch.bfloat16
    assert (output - exact).norm() < 0.02 * exact.norm()
    for weight in network.parameters():
        assert weight.dtype == weight.grad.dtype == torch.float32
        assert weight.grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_layer_in_half_precision_keeps_its_dtype(
    layer_and_input: tuple[nn.Module, torch.Tensor], dtype: torch.dtype
) -> None:
    layer, x = layer_and_input
    layer, x = layer.to(dtype), x.to(dtype)
    network = trained(network_on(layer), size=0.3)
    exact = by_the_formula(layer.float(), *down_and_up(network), x.float(), ALPHA / RANK)
    layer.to(dtype)
    with network:
        output = layer(x)
        output.float().square().mean().backward()
    assert output.dtype == dtype
    assert (output.float() - exact).norm() < 0.02 * exact.norm()
    assert all(weight.grad.dtype == torch.float32 for weight in network.parameters())


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_gives_the_same_gradients(
    layer_and_input: tuple[nn.Module, torch.Tensor], reentrant: bool
) -> None:
    layer, x = layer_and_input
    x.requires_grad_()
    gradients = []
    for run in (layer, lambda given: checkpoint(layer, given, use_reentrant=reentrant)):
        network = trained(network_on(layer, generator=torch.Generator().manual_seed(1)))
        with network:
            F.silu(run(x)).sum().backward()
        gradients.append([weight.grad for weight in network.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        assert torch.equal(plain, checkpointed)
