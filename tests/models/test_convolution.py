"""Frozen convolutions: what they compute, what they keep, and whose weights they move."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from trainer.models.convolution import (
    FrozenConv2d,
    ReorderedConv2d,
    freeze_convolutions,
    reordering_pays,
)

LAYERS = {
    "3x3": nn.Conv2d(4, 6, 3, padding=1),
    "1x1": nn.Conv2d(4, 6, 1),
    "without bias": nn.Conv2d(4, 6, 3, padding=1, bias=False),
    "wide": nn.Conv2d(4, 6, 3, padding=2, dilation=2),
    "narrowing": nn.Conv2d(4, 6, 3),
    "halving": nn.Conv2d(4, 6, 3, stride=2, padding=1),
}


def can_reorder() -> bool:
    try:
        ReorderedConv2d(layer("3x3", torch.bfloat16))
    except (AttributeError, RuntimeError):
        return False
    return True


def layer(name: str, dtype: torch.dtype = torch.float32) -> nn.Conv2d:
    return copy.deepcopy(LAYERS[name]).to(dtype).requires_grad_(False)


needs_order = pytest.mark.skipif(not can_reorder(), reason="oneDNN has no such order here")


@pytest.fixture
def pays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Re-ordered weights are taken, however fast they are on this processor."""
    monkeypatch.setattr("trainer.models.convolution.reordering_pays", lambda: True)


def frozen(plain: nn.Conv2d, *, shared: bool) -> nn.Conv2d:
    module = nn.Sequential(copy.copy(plain))
    freeze_convolutions(module, shared=shared)
    return module[0]


def computed(layer: nn.Conv2d, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The output, and the gradient of the input for a fixed gradient of the output."""
    x = x.clone().requires_grad_()
    output = layer(x)
    drawn = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
    output.backward(drawn.to(output.dtype))
    return output.detach(), x.grad


@pytest.mark.parametrize("name", list(LAYERS))
@pytest.mark.parametrize("keeps_input", [True, False])
@pytest.mark.parametrize("shared", [True, False])
def test_output_and_gradient_are_those_of_the_plain_one(
    name: str, keeps_input: bool, shared: bool
) -> None:
    plain, x = layer(name), torch.randn(2, 4, 7, 5)
    own = frozen(plain, shared=shared)
    assert isinstance(own, FrozenConv2d)
    own.keeps_input = keeps_input
    for found, expected in zip(computed(own, x), computed(plain, x), strict=True):
        torch.testing.assert_close(found, expected)


@needs_order
@pytest.mark.usefixtures("pays")
@pytest.mark.parametrize("name", [name for name in LAYERS if name != "halving"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_reordered_one_computes_the_same(name: str, dtype: torch.dtype) -> None:
    """As near as bfloat16, of 8 bits, is to float32; what comes in that is taken all the same."""
    plain, x = layer(name, torch.bfloat16), torch.randn(2, 4, 7, 5).bfloat16()
    own, exact = frozen(plain, shared=False), copy.deepcopy(plain).float()
    assert isinstance(own, ReorderedConv2d)
    assert torch.equal(own.weight, plain.weight)
    for found, expected in zip(computed(own, x.to(dtype)), computed(exact, x.float()), strict=True):
        assert (found.float() - expected).norm() < 0.01 * expected.norm()


@pytest.mark.usefixtures("pays")
def test_a_stride_is_not_reordered() -> None:
    assert isinstance(frozen(layer("halving", torch.bfloat16), shared=False), FrozenConv2d)


def kept(layer: nn.Conv2d) -> int:
    """Numbers that a pass keeps, the layer's own weights aside."""
    found: list[int] = []
    own = {p.data_ptr() for p in layer.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in own:
            found.append(tensor.numel())
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        layer(torch.randn(1, 4, 8, 8, dtype=layer.weight.dtype, requires_grad=True))
    return sum(found)


def test_the_input_need_not_be_kept() -> None:
    own = frozen(layer("3x3"), shared=True)
    assert kept(own) == 4 * 8 * 8
    own.keeps_input = False
    assert kept(own) == 0


@needs_order
@pytest.mark.usefixtures("pays")
def test_a_reordered_one_keeps_nothing() -> None:
    assert kept(frozen(layer("3x3", torch.bfloat16), shared=False)) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_that_somebody_else_holds_stay_where_they_are(dtype: torch.dtype) -> None:
    plain = layer("3x3", dtype)
    own = frozen(plain, shared=True)
    assert own.weight is plain.weight
    assert own.weight.is_contiguous()
    assert own.bias is plain.bias


def test_float32_weights_of_ones_own_have_their_channels_last() -> None:
    plain = layer("3x3")
    before = plain.weight.clone()
    own = frozen(plain, shared=False)
    assert own.weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(own.weight, before)


@pytest.fixture
def fresh_trial() -> Iterator[None]:
    """What this processor gains is tried anew in the test, and after it."""
    reordering_pays.cache_clear()
    yield
    reordering_pays.cache_clear()


@pytest.mark.usefixtures("fresh_trial")
def test_without_onednn_bfloat16_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise RuntimeError("not compiled with oneDNN")

    monkeypatch.setattr(torch, "mkldnn_convolution", missing)
    assert isinstance(frozen(layer("3x3", torch.bfloat16), shared=False), FrozenConv2d)


@needs_order
@pytest.mark.usefixtures("fresh_trial")
@pytest.mark.parametrize(("share", "taken"), [(0.5, True), (0.9, False), (1.5, False)])
def test_only_what_is_much_faster_is_worth_a_copy(
    share: float, taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seconds(layer: nn.Conv2d, _: torch.Tensor) -> float:
        return share if isinstance(layer, ReorderedConv2d) else 1.0

    monkeypatch.setattr("trainer.models.convolution._seconds", seconds)
    own = frozen(layer("3x3", torch.bfloat16), shared=False)
    assert isinstance(own, ReorderedConv2d if taken else FrozenConv2d)


def test_other_layers_and_foreign_paddings_are_left_alone() -> None:
    round_the_edge = nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular")
    module = nn.Sequential(round_the_edge, nn.Linear(4, 4))
    freeze_convolutions(module, shared=True)
    assert module[0] is round_the_edge
    assert type(module[1]) is nn.Linear
