"""LoHa's two ways to compute the same, and what they keep for the backward pass."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from trainer.networks import loha
from trainer.networks.adapter import Adapter, Size
from trainer.networks.loha import ConvForm, Hadamard, LinearForm, Loha, PairedHadamard, build


def doubles(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("way", [Hadamard, PairedHadamard])
def test_the_gradients_of_a_linear_are_right(way: type[torch.autograd.Function]) -> None:
    torch.manual_seed(0)
    factors = doubles(6, 2), doubles(2, 5), doubles(6, 2), doubles(2, 5)
    assert torch.autograd.gradcheck(way.apply, (doubles(2, 3, 5), *factors, LinearForm()))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("way", [Hadamard, PairedHadamard])
def test_the_gradients_of_a_convolution_are_right(
    way: type[torch.autograd.Function], stride: int
) -> None:
    torch.manual_seed(0)
    factors = doubles(3, 2), doubles(2, 18), doubles(3, 2), doubles(2, 18)
    form = ConvForm((3, 3), (stride, stride), (1, 1))
    assert torch.autograd.gradcheck(way.apply, (doubles(2, 2, 5, 4), *factors, form))


def layer_and_adapter(layer: nn.Module) -> tuple[nn.Module, Adapter]:
    layer.requires_grad_(False)
    adapter = build(layer, Size(3, 2.0))  # type: ignore[arg-type]
    with torch.no_grad():
        for weight in adapter.parameters():
            weight.normal_()
    return layer, adapter


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(12, 20), (3, 7, 12)),
        (nn.Conv2d(12, 20, 1), (2, 12, 6, 4)),
        (nn.Conv2d(12, 20, 3, stride=2, padding=1), (2, 12, 6, 4)),
    ],
    ids=["linear", "conv 1x1", "conv 3x3"],
)
def test_every_way_gives_the_same(
    layer: nn.Module, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    layer, adapter = layer_and_adapter(layer)
    layer.double()
    adapter.double()
    found = []
    for paired, small_rank in ((False, 0), (True, 0), (True, 8)):
        monkeypatch.setattr(Loha, "pairs_are_cheaper", lambda *_, paired=paired: paired)
        monkeypatch.setattr(loha, "SMALL_RANK", small_rank)
        x = torch.ones(shape).double().cumsum(1).sin().requires_grad_()
        adapter.zero_grad()
        output = adapter(x, layer(x))
        output.square().sum().backward()
        found.append([output.detach(), x.grad, *(w.grad.clone() for w in adapter.parameters())])
    for whole, by_pairs, by_few_pairs in zip(*found, strict=True):
        torch.testing.assert_close(by_pairs, whole)
        torch.testing.assert_close(by_few_pairs, whole)


def test_pairs_are_for_small_ranks_and_small_pictures() -> None:
    layer = nn.Linear(1280, 1280)
    small, large = build(layer, Size(4, 4.0)), build(layer, Size(64, 64.0))
    assert isinstance(small, Loha) and isinstance(large, Loha)
    assert small.pairs_are_cheaper(4096)
    assert not large.pairs_are_cheaper(4096)
    middle = build(layer, Size(32, 32.0))
    assert isinstance(middle, Loha)
    assert middle.pairs_are_cheaper(16)
    assert not middle.pairs_are_cheaper(4096)


@pytest.mark.parametrize("paired", [False, True])
def test_only_the_input_and_the_factors_are_kept(
    paired: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Loha, "pairs_are_cheaper", lambda *_: paired)
    layer = nn.Linear(96, 64).requires_grad_(False)
    adapter = build(layer, Size(10, 1.0))
    kept: list[int] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.numel())
        return tensor

    x = torch.randn(5, 96, requires_grad=True)
    output = layer(x)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        adapter(x, output)
    assert sorted(kept) == sorted([5 * 96, 64 * 10, 64 * 10, 96 * 10, 96 * 10])
