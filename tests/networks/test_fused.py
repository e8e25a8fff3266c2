"""A Linear and its LoRA in one step of autograd, against the same by a hook."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn

from tests.networks.small_models import trained
from trainer.models.packing import STORAGES, PackedLinear
from trainer.networks.network import Network
from trainer.networks.sizes import Sizes
from trainer.networks.targets import Target

IN, OUT = 12, 20
LAYERS: dict[str, Callable[[], nn.Linear]] = {
    "plain": lambda: nn.Linear(IN, OUT),
    "without bias": lambda: nn.Linear(IN, OUT, bias=False),
    "in bf16": lambda: nn.Linear(IN, OUT).bfloat16(),
    "in 8 bits": lambda: PackedLinear(nn.Linear(IN, OUT), STORAGES["int8"], torch.float32),
}


def layer(name: str) -> nn.Linear:
    torch.manual_seed(0)
    return LAYERS[name]().requires_grad_(False)


def network_on(layer: nn.Linear, kind: str = "lierla") -> Network:
    return trained(Network([Target("lora_unet_layer", layer, "IN01")], kind, Sizes(3, 2.0)))


def pass_through(
    layer: nn.Linear, network: Network, x: Tensor, *, fuses: bool, half: bool
) -> tuple[Tensor, ...]:
    """Output and gradients: of the weights, and of x where it asks for one."""
    network.fuses = fuses
    network.zero_grad()
    wanted = [*network.parameters(), *([x] if x.requires_grad else [])]
    with network, torch.autocast("cpu", torch.bfloat16) if half else nullcontext():
        assert ("forward" in vars(layer)) is fuses
        output = layer(x)
    return output, *torch.autograd.grad(output.float().square().sum(), wanted)


@pytest.mark.parametrize("name", list(LAYERS))
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize(
    "x",
    [
        torch.randn(5, IN),
        torch.randn(2, 7, IN, requires_grad=True),
        torch.randn(2, IN, 7).transpose(1, 2).requires_grad_(),
        torch.randn(2, 7, IN, dtype=torch.bfloat16, requires_grad=True),
    ],
    ids=["no gradient of x", "plain", "transposed", "bf16"],
)
def test_it_computes_what_a_hook_does(name: str, half: bool, x: Tensor) -> None:
    frozen = layer(name)
    network = network_on(frozen)
    if not half:  # nothing casts for a hook
        x = x.detach().to(frozen.weight.dtype).requires_grad_(x.requires_grad)
    fused = pass_through(frozen, network, x, fuses=True, half=half)
    hooked = pass_through(frozen, network, x, fuses=False, half=half)
    coarse = half or frozen.weight.dtype is torch.bfloat16
    for one, other in zip(fused, hooked, strict=True):
        assert one.dtype is other.dtype
        assert (one - other).norm() <= (2e-2 if coarse else 1e-6) * other.norm()


def test_a_weight_in_8_bits_is_not_kept_whole_for_the_way_back() -> None:
    frozen = layer("in 8 bits")
    kept: list[tuple[int, ...]] = []

    def note(tensor: Tensor) -> Tensor:
        kept.append(tuple(tensor.shape))
        return tensor

    with (
        network_on(frozen),
        torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
    ):
        frozen(torch.randn(7, IN))
    assert sorted(kept) == [(3, IN), (7, 3), (7, IN), (OUT, 3)]


@pytest.mark.parametrize("first", [0, 1])
def test_a_second_network_on_a_layer_adds_to_the_first(first: int) -> None:
    frozen, x = layer("plain"), torch.randn(7, IN)
    networks = [network_on(frozen), network_on(frozen)]
    bare = frozen(x)
    added = []
    for network in networks:
        with network:
            added.append(frozen(x) - bare)
    for network in networks:
        network.attach()
    torch.testing.assert_close(frozen(x), bare + added[0] + added[1])
    networks[first].detach()
    torch.testing.assert_close(frozen(x), bare + added[1 - first])
    networks[1 - first].detach()
    assert torch.equal(frozen(x), bare)
    assert "forward" not in vars(frozen)


@pytest.mark.parametrize("kind", ["dora", "loha", "lokr"])
def test_other_kinds_take_a_hook(kind: str) -> None:
    frozen = layer("plain")
    with network_on(frozen, kind):
        assert "forward" not in vars(frozen)
        assert frozen._forward_hooks


def test_a_layer_that_is_trained_itself_keeps_its_gradient() -> None:
    own, x = nn.Linear(IN, OUT), torch.randn(7, IN)
    with network_on(own):
        own(x).sum().backward()
    assert own.weight.grad is not None
