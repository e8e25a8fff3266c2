"""Weights in 8 bits: how near they are, what a step holds, and what is left alone."""

from __future__ import annotations

import runpy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.conftest import tiny_tensors
from trainer.errors import BadInput
from trainer.models import packing
from trainer.models.families import SDXL
from trainer.models.model import DiffusionModel, assemble_model, kept_in
from trainer.models.packing import STORAGES, PackedConv2d, PackedLinear, pack, place, unpack
from trainer.networks.targets import find_targets
from trainer.settings.groups import BLOCKS

CPU = torch.device("cpu")
every_storage = pytest.mark.parametrize("name", list(STORAGES))


@every_storage
@pytest.mark.parametrize("shape", [(7, 5), (6, 4, 3, 3)])
def test_a_weight_is_as_near_as_its_format_allows(name: str, shape: tuple[int, ...]) -> None:
    """int8: half a step; e4m3: half of the last of 3 bits, or of the least number, 2^-9."""
    torch.manual_seed(0)
    weight = torch.randn(shape) * torch.logspace(-6, 1, shape[0]).view(-1, *[1] * (len(shape) - 1))
    packed, scale = pack(weight, STORAGES[name])
    assert packed.dtype == STORAGES[name].dtype
    assert packed.shape == weight.shape
    assert scale.shape == (shape[0], *[1] * (len(shape) - 1))
    off = (unpack(packed, scale, torch.float32) - weight).abs()
    allowed = 0.5 * scale if name == "int8" else (weight.abs() / 16).maximum(scale * 2**-10)
    assert bool((off <= allowed * 1.001).all())
    largest = weight.flatten(1).abs().argmax(1, keepdim=True)
    torch.testing.assert_close(  # every channel's largest weight is hit
        unpack(packed, scale, torch.float32).flatten(1).gather(1, largest),
        weight.flatten(1).gather(1, largest),
    )


def test_torch_of_the_first_webui_has_no_fp8(monkeypatch: pytest.MonkeyPatch) -> None:
    """The webui 1.7 brings torch 2.0.1: everything else works there."""
    monkeypatch.delattr(torch, "float8_e4m3fn")
    storages = runpy.run_path(packing.__file__, run_name=packing.__name__)["STORAGES"]
    assert list(storages) == ["int8"]
    monkeypatch.setattr("trainer.models.model.STORAGES", storages)
    assert kept_in("auto", torch.float16, torch.device("cuda")) is None
    with pytest.raises(BadInput, match="which torch .* does not have"):
        kept_in("fp8", torch.float16, CPU)


def test_zeros_stay_zeros() -> None:
    for storage in STORAGES.values():
        assert not unpack(*pack(torch.zeros(3, 4), storage), torch.float32).any()


LAYERS = {
    "linear": (nn.Linear(6, 5), torch.randn(2, 3, 6)),
    "without bias": (nn.Linear(6, 5, bias=False), torch.randn(2, 6)),
    "convolution": (nn.Conv2d(4, 6, 3, stride=2, padding=1), torch.randn(2, 4, 9, 8)),
    "1x1": (nn.Conv2d(4, 6, 1), torch.randn(2, 4, 5, 5)),
}


@every_storage
@pytest.mark.parametrize("layer", list(LAYERS))
def test_output_and_gradient_are_those_of_the_weight_put_together(name: str, layer: str) -> None:
    exact, x = LAYERS[layer]
    kind = PackedConv2d if isinstance(exact, nn.Conv2d) else PackedLinear
    packed = kind(exact, STORAGES[name], torch.float32)
    assert isinstance(packed, type(exact))
    assert not any(parameter is packed.weight for parameter in packed.parameters())
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    output = packed(ours)
    if isinstance(exact, nn.Conv2d):
        how = (exact.stride, exact.padding)
        expected = F.conv2d(theirs, packed.weight, exact.bias, *how)
    else:
        expected = F.linear(theirs, packed.weight, exact.bias)
    torch.testing.assert_close(output, expected)
    drawn = torch.randn_like(expected)
    output.backward(drawn)
    expected.backward(drawn)
    torch.testing.assert_close(ours.grad, theirs.grad)


@every_storage
def test_a_step_keeps_the_packed_weights_only(name: str) -> None:
    layer = PackedLinear(nn.Linear(64, 32), STORAGES[name], torch.float32)
    kept: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        layer(torch.randn(1, 64, requires_grad=True))
    assert {(t.dtype, t.numel()) for t in kept} == {
        (STORAGES[name].dtype, 64 * 32),
        (torch.float32, 32),
    }


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    return tiny_tensors(SDXL)


@every_storage
@torch.no_grad()
def test_a_model_packed_computes_nearly_the_same(
    name: str, tensors: dict[str, torch.Tensor]
) -> None:
    before = {n: t.clone() for n, t in tensors.items()}
    exact = assemble_model(tensors, SDXL, device=CPU)
    packed = assemble_model(tensors, SDXL, device=CPU, storage=STORAGES[name])
    latents, timesteps = torch.randn(1, 4, 8, 8), torch.tensor([500])
    expected, found = (
        one.denoise(latents, timesteps, one.encode_prompts(["a cat"])) for one in (exact, packed)
    )
    # 3 bits after the point are 1/16 of each weight, 7 bits 1/254 of a channel's largest.
    assert (found - expected).norm() < (0.1 if name == "fp8" else 0.03) * expected.norm()
    assert not torch.equal(found, expected)
    assert all(torch.equal(before[n], t) for n, t in tensors.items())
    assert bytes_of(packed.unet) < 0.4 * bytes_of(exact.unet)
    assert packed.compute_dtype is torch.float32
    assert [t.name for t in targets(packed)] == [t.name for t in targets(exact)]
    assert not isinstance(packed.unet.conv_in, PackedConv2d)
    assert type(packed.vae.encoder.conv_in) is nn.Conv2d
    assert sum(isinstance(m, PackedLinear) for m in packed.text_encoders[1].modules()) == 3 * 6


def bytes_of(module: nn.Module) -> int:
    held = [*module.parameters(), *module.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in held)


def targets(model: DiffusionModel) -> list:
    return find_targets(
        model.unet, model.text_encoders, family="sdxl", blocks=BLOCKS, convolutions=True
    )


def test_what_is_there_already_is_not_copied() -> None:
    layer = nn.Linear(3, 3)
    address = layer.weight.data_ptr()
    assert not place(layer, CPU)
    assert layer.weight.data_ptr() == address
    assert place(layer, CPU, torch.float64)
    assert layer.weight.dtype is torch.float64


def test_weights_in_8_bits_already_are_shared_as_they_are() -> None:
    weight = torch.randn(4, 3).to(torch.float8_e4m3fn)
    layer = nn.Linear(3, 4)
    layer.weight = nn.Parameter(weight, requires_grad=False)
    packed = PackedLinear(layer, STORAGES["fp8"], torch.float32)
    assert packed.packed.data_ptr() == layer.weight.data_ptr()
    x = torch.randn(2, 3)
    torch.testing.assert_close(packed(x), F.linear(x, weight.float(), layer.bias))
