"""Attaching, multipliers, parameters and continuing from files, on the small SD1 model."""

from __future__ import annotations

import pytest
import torch

from tests.modules import END, START
from tests.networks.small_models import Model, small_model, trained
from trainer.errors import BadInput
from trainer.networks.network import Network
from trainer.networks.sizes import Sizes

UP, DOWN = "lora_up.weight", "lora_down.weight"
FIRST = "lora_unet_down_blocks_0_attentions_0_proj_in"
LINEAR = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"


def test_attach_and_detach(model: Model) -> None:
    network = trained(model.network())
    bare = model.noise_pred()
    network.attach()
    assert network.attached
    assert not torch.equal(model.noise_pred(), bare)
    with pytest.raises(RuntimeError, match="attached already"):
        network.attach()
    network.detach()
    network.detach()
    assert not network.attached
    assert torch.equal(model.noise_pred(), bare)


def test_an_error_detaches(model: Model) -> None:
    network = trained(model.network())
    bare = model.noise_pred()
    with pytest.raises(KeyError), network:
        raise KeyError
    assert torch.equal(model.noise_pred(), bare)


def test_multiplier_switches_while_attached(model: Model) -> None:
    network = trained(model.network())
    bare = model.noise_pred()
    with network:
        full = model.noise_pred()
        network.multiplier = 0.0
        assert torch.equal(model.noise_pred(), bare)
        network.multiplier = 1.0
        assert torch.equal(model.noise_pred(), full)
        with network.at(0.0):
            assert torch.equal(model.noise_pred(), bare)
        assert network.multiplier == 1.0
        assert torch.equal(model.noise_pred(), full)


def test_at_multiplier_zero_nothing_is_computed(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = trained(model.network())
    computed = []
    for adapter in network.adapters.values():
        monkeypatch.setattr(type(adapter), "forward", lambda *_: computed.append(1))
    with network.at(0.0), network:
        model.noise_pred()
    assert not computed


def test_two_networks_add_up(model: Model) -> None:
    """Two LoRAs together are one whose rank is the sum of theirs."""
    targets = model.targets()
    one = trained(Network(targets, "lierla", Sizes(2, 2.0)), seed=1)
    two = trained(Network(targets, "lierla", Sizes(3, 1.5)), seed=2)
    merged = Network(targets, "lierla", Sizes(5, 5.0))
    held, of_one, of_two = {}, one.tensors(), two.tensors()
    for key, tensor in merged.tensors().items():
        a, b = of_one[key], of_two[key]
        if key.endswith(DOWN):
            held[key] = torch.cat([a, b], dim=0)
        elif key.endswith(UP):
            held[key] = torch.cat([a * (2.0 / 2), b * (1.5 / 3)], dim=1)
        else:
            held[key] = tensor
    merged.load(held)
    with merged:
        expected = model.noise_pred()
    with one, two:
        found = model.noise_pred()
    assert (found - expected).norm() <= 1e-5 * expected.norm()


def test_parameters_are_parted_by_model(model: Model) -> None:
    network = model.network()
    of_unet, of_text = network.unet_parameters(), network.text_encoder_parameters()
    assert len(of_unet) == 2 * 192
    assert len(of_text) == 2 * 2 * 6  # two layers of the tiny text encoder
    assert {id(w) for w in (*of_unet, *of_text)} == {id(w) for w in network.parameters()}
    assert all(weight.requires_grad for weight in network.parameters())
    unet_alone = Network(model.targets(blocks=("IN01", "M00")), "lierla", Sizes(4, 2.0))
    assert unet_alone.text_encoder_parameters() == []


def test_text_encoder_trains(model: Model) -> None:
    network = trained(model.network())
    encoder = model.text_encoders[0]
    ids = torch.tensor([[START, 5, 6, END]])
    with network:
        encoder(ids).last_hidden_state.square().mean().backward()
    assert all(weight.grad.any() for weight in network.text_encoder_parameters())
    assert all(weight.grad is None for weight in network.unet_parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_have_the_dtype_asked_for(model: Model, dtype: torch.dtype) -> None:
    network = trained(model.network(dtype=dtype))
    assert {weight.dtype for weight in network.parameters()} == {dtype}
    with network:
        assert model.noise_pred(requires_grad=True).dtype == torch.float32


def test_adapters_lie_beside_their_layers() -> None:
    model = small_model("sd1")
    model.unet.to("meta")
    network = model.network()
    assert {weight.device.type for weight in network.unet_parameters()} == {"meta"}
    assert {weight.device.type for weight in network.text_encoder_parameters()} == {"cpu"}
    network = model.network(device="cpu")
    assert {weight.device.type for weight in network.parameters()} == {"cpu"}


def test_tensors_have_the_shapes_of_the_format(model: Model) -> None:
    """facts/formats.md A.2, for a Linear and a 1x1 convolution."""
    tensors = model.network().tensors(torch.float16)
    shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    assert shapes[f"{FIRST}.{DOWN}"] == (4, 32, 1, 1)
    assert shapes[f"{FIRST}.{UP}"] == (32, 4, 1, 1)
    assert shapes[f"{LINEAR}.{DOWN}"] == (4, 32)
    assert shapes[f"{LINEAR}.{UP}"] == (32, 4)
    assert shapes[f"{LINEAR}.alpha"] == ()
    assert tensors[f"{LINEAR}.alpha"] == 2.0
    assert len(tensors) == 3 * (192 + 12)


def test_tensors_are_a_snapshot(model: Model) -> None:
    network = model.network()
    tensors = network.tensors()
    before = tensors[f"{LINEAR}.{DOWN}"].clone()
    trained(network)
    assert torch.equal(tensors[f"{LINEAR}.{DOWN}"], before)
    assert not tensors[f"{LINEAR}.{DOWN}"].requires_grad


def test_loading_keeps_the_parameters_of_the_same_shape(model: Model) -> None:
    """An optimizer made before goes on holding the network's own parameters."""
    network, other = model.network(), trained(model.network())
    before = [id(weight) for weight in network.parameters()]
    network.load(other.tensors())
    assert [id(weight) for weight in network.parameters()] == before


def test_loading_while_attached_takes_effect(model: Model) -> None:
    network, other = model.network(), trained(model.network(rank=2, alpha=1.0))
    with other:
        expected = model.noise_pred()
    with network:
        network.load(other.tensors())
        assert torch.equal(model.noise_pred(), expected)


def test_a_frozen_network_stays_frozen(model: Model) -> None:
    network = model.network().requires_grad_(False)
    network.load(trained(model.network(rank=2)).tensors())
    assert not any(weight.requires_grad for weight in network.parameters())


def test_layers_that_the_file_lacks_start_anew(model: Model) -> None:
    only_unet = trained(Network(model.targets(blocks=("IN01",)), "lierla", Sizes(4, 2.0)))
    with only_unet:
        expected = model.noise_pred()
    network = model.network()
    network.load(only_unet.tensors())
    with network:
        assert torch.equal(model.noise_pred(), expected)


def test_a_file_without_alpha_means_alpha_equal_to_rank(model: Model) -> None:
    network = trained(model.network(alpha=4.0))
    without = {key: t for key, t in network.tensors().items() if not key.endswith(".alpha")}
    again = model.network(alpha=1.0)
    again.load(without)
    assert again.facts() == network.facts()


def test_a_kernel_of_one_may_be_written_out_or_left_out(model: Model) -> None:
    network = trained(model.network())
    tensors = network.tensors()
    odd = {
        key: tensor[:, :, None, None] if tensor.ndim == 2 else tensor.squeeze()
        for key, tensor in tensors.items()
    }
    again = model.network()
    again.load(odd)
    assert all(torch.equal(a, tensors[key]) for key, a in again.tensors().items())


def refused(network: Network, tensors: dict[str, torch.Tensor]) -> list[str]:
    """The problems of a file, after checking that the network did not change."""
    before = {key: tensor.clone() for key, tensor in network.tensors().items()}
    with pytest.raises(BadInput) as error:
        network.load(tensors, source="old.safetensors")
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.tensors().items())
    assert all(problem.where == "old.safetensors" for problem in error.value.problems)
    return [str(problem) for problem in error.value.problems]


def test_layers_that_are_not_trained_are_refused(model: Model) -> None:
    """The message names the blocks that are missing."""
    tensors = trained(model.network()).tensors()
    network = Network(model.targets(blocks=("IN01", "IN02")), "lierla", Sizes(4, 2.0))
    (message,) = refused(network, tensors)
    assert "lora_te_text_model_encoder_layers_0_mlp_fc1" in message
    assert "BASE, IN04, IN05, IN07, IN08, M00, OUT03" in message


def test_convolutions_in_the_file_are_refused_by_a_lora_without(model: Model) -> None:
    (message,) = refused(model.network(), model.network("c3lier").tensors())
    # 278 - 192, but a convolution of 32 to 32 channels needs no shortcut in the small model
    assert "holds 85 layers that are not trained: " in message


def test_another_kind_of_network_is_named(model: Model) -> None:
    (message,) = refused(model.network(), model.network("loha").tensors())
    assert "is no lierla network" in message
    assert "choose network loha" in message


def test_an_unknown_kind_of_network_is_refused(model: Model) -> None:
    tensors = model.network().tensors()
    tensors[f"{LINEAR}.dora_scale"] = torch.ones(1, 32)
    (message,) = refused(model.network(), tensors)
    assert "dora_scale" in message


def test_a_file_for_another_width_is_refused(model: Model) -> None:
    tensors = model.network().tensors()
    tensors[f"{LINEAR}.{DOWN}"] = torch.zeros(4, 320)
    tensors[f"{FIRST}.{UP}"] = torch.zeros(320, 4, 1, 1)
    (message,) = refused(model.network(), tensors)
    assert "holds 2 layers that cannot be used: " in message
    assert "has the shape [4, 320] where [4, 32] belongs" in message


def test_a_file_for_another_family_is_refused(model: Model) -> None:
    network = Network(small_model("sdxl").targets(blocks=("OUT00",)), "lierla", Sizes(4, 2.0))
    (message,) = refused(network, {f"{FIRST}.{UP}": torch.zeros(1, 1)})
    assert "none of its 1 layers belongs to this model" in message


def test_every_problem_is_listed(model: Model) -> None:
    tensors = model.network().tensors()
    tensors[f"{LINEAR}.{DOWN}"][0, 0] = float("nan")
    tensors["lora_unet_conv_in.lora_up.weight"] = torch.zeros(1, 1)
    messages = refused(model.network(), tensors)
    assert len(messages) == 2
    assert "lora_unet_conv_in" in messages[0]
    assert f"{LINEAR}.{DOWN}" in messages[1]


@pytest.mark.parametrize(
    ("name", "tensor", "complaint"),
    [
        (f"{LINEAR}.{DOWN}", None, f"{DOWN} is missing"),
        (f"{LINEAR}.{UP}", None, f"{UP} is missing"),
        (f"{LINEAR}.{DOWN}", torch.zeros(()), "has the shape []"),
        (f"{LINEAR}.{DOWN}", torch.zeros(0, 32), "has the shape [0, 32]"),
        (f"{LINEAR}.{UP}", torch.zeros(32, 5), "has the shape [32, 5] where [32, 4] belongs"),
        (f"{LINEAR}.alpha", torch.tensor(0.0), "alpha is 0"),
        (f"{LINEAR}.alpha", torch.ones(2), "alpha has the shape [2]"),
    ],
)
def test_broken_groups_are_refused(
    model: Model, name: str, tensor: torch.Tensor | None, complaint: str
) -> None:
    tensors = model.network().tensors()
    del tensors[name]
    if tensor is not None:
        tensors[name] = tensor
    (message,) = refused(model.network(), tensors)
    assert complaint in message


def test_nothing_at_all_is_refused(model: Model) -> None:
    assert refused(model.network(), {}) == [
        "old.safetensors: holds no tensors - choose a LoRA file"
    ]
