"""What every kind of network does on every family."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Mapping

import pytest
import torch
from torch import nn

from tests.networks.small_models import Model, shared_model, small_model, trained
from trainer.networks.kinds import KINDS
from trainer.networks.network import Network
from trainer.networks.sizes import Sizes

WITH_CONVOLUTIONS = [name for name, kind in KINDS.items() if kind.convolutions]
SIZES = Sizes(4, 2.0, conv_rank=2, conv_alpha=3.0)
FAMILIES = ("sd1", "sd2", "sdxl")
EVERY_KIND_AND_FAMILY = [
    pytest.param((kind, family), id=f"{kind}-{family}")
    for kind in KINDS
    for family in FAMILIES
    # one of each pair with and without convolutions on the families that name layers otherwise
    if family == "sd1" or KINDS[kind].convolutions or kind == "lierla"
]


@pytest.fixture(params=EVERY_KIND_AND_FAMILY)
def pair(request: pytest.FixtureRequest) -> tuple[Model, Network]:
    kind, family = request.param
    model = shared_model(family)
    drawn = torch.Generator().manual_seed(2)
    return model, model.network(kind, conv_rank=2, conv_alpha=3.0, generator=drawn)


def delta_weight(group: Mapping[str, torch.Tensor], shape: torch.Size) -> torch.Tensor:
    """Delta W of one group of a file, by the formulas of facts/formats.md A.2 and B."""
    if "lora_up.weight" in group:
        down = group["lora_down.weight"]
        delta, rank = group["lora_up.weight"].flatten(1) @ down.flatten(1), down.shape[0]
    elif "hada_w1_a" in group:
        first = group["hada_w1_a"] @ group["hada_w1_b"]
        delta, rank = first * (group["hada_w2_a"] @ group["hada_w2_b"]), len(group["hada_w1_b"])
    else:
        rank, w1, w2 = None, group["lokr_w1"], group.get("lokr_w2")
        if w2 is None:
            rank, w2 = len(group["lokr_w2_b"]), group["lokr_w2_a"] @ group["lokr_w2_b"]
        kernel = shape[2:] if len(shape) == 4 else ()
        w2 = w2.reshape(len(w2), -1, *kernel)
        delta = torch.kron(w1.reshape(*w1.shape, *(1 for _ in kernel)), w2)
    scale = 1.0 if rank is None else float(group["alpha"]) / rank
    return scale * delta.reshape(shape)


def changed_weight(
    group: Mapping[str, torch.Tensor], weight: torch.Tensor, strength: float
) -> torch.Tensor:
    """What a layer's weight becomes, by the formulas of facts/formats.md A.2 and B."""
    delta = delta_weight(group, weight.shape)
    if "dora_scale" not in group:
        return weight + strength * delta
    direction = weight + delta
    by_input = direction.detach().transpose(0, 1).flatten(1).norm(dim=1)
    size = group["dora_scale"] / by_input.view(1, -1, *(1 for _ in weight.shape[2:]))
    return weight + strength * (direction * size - weight)


def groups(tensors: Mapping[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    found: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, tensor_name = key.partition(".")
        found.setdefault(name, {})[tensor_name] = tensor
    return found


def merged(model: Model, network: Network, strength: float) -> Model:
    """A copy of the model whose own weights hold what the network's file says."""
    other = copy.deepcopy(model)
    in_file = groups(network.tensors())
    for target in other.targets(convolutions=network.kind.convolutions):
        weight = target.module.weight
        weight.data = changed_weight(in_file[target.name], weight.data, strength)
    return other


def outputs(model: Model) -> list[torch.Tensor]:
    encoders = range(len(model.text_encoders))
    return [model.noise_pred(), *(model.text_states(which) for which in encoders)]


def assert_outputs_close(
    found: list[torch.Tensor], expected: list[torch.Tensor], relative: float = 1e-5
) -> None:
    for one, other in zip(found, expected, strict=True):
        assert (one - other).norm() <= relative * other.norm()


def roots(model: Model) -> list[nn.Module]:
    return [model.unet, *model.text_encoders]


def marks(model: Model) -> Iterator[object]:
    """Everything about the modules that a trace could be left in."""
    for root in roots(model):
        for name, module in root.named_modules():
            yield name, type(module), module.__dict__.get("forward")
            yield sorted(module.__dict__)
            for kind in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks"):
                yield len(getattr(module, kind))
        for name, parameter in root.named_parameters():
            yield name, id(parameter), parameter.data_ptr(), parameter.requires_grad
        yield list(root.state_dict())


def test_live_network_equals_weights_merged_from_its_file(pair: tuple[Model, Network]) -> None:
    model, network = pair
    trained(network)
    bare = outputs(model)
    network.multiplier = -0.7
    with network:
        live = outputs(model)
    assert_outputs_close(live, outputs(merged(model, network, -0.7)))
    network.multiplier = 1.0
    assert all(
        (one - other).norm() > 0.01 * other.norm() for one, other in zip(live, bare, strict=True)
    )


def test_attached_it_trains_and_detached_it_leaves_no_trace(pair: tuple[Model, Network]) -> None:
    model, network = pair
    before, bare = list(marks(model)), outputs(model)
    with network:
        assert list(marks(model)) != before
        # new: nothing is added yet
        assert_outputs_close(outputs(model), bare, 0.0)
        trained(network)
        model.noise_pred(requires_grad=True).square().mean().backward()
    assert list(marks(model)) == before
    assert all(torch.equal(a, b) for a, b in zip(outputs(model), bare, strict=True))
    frozen = [weight for root in roots(model) for weight in root.parameters()]
    assert all(weight.grad is None for weight in frozen)
    weights = network.unet_parameters()
    assert weights
    assert all(weight.grad is not None and weight.grad.any() for weight in weights)


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_new_network_in_bf16_changes_nothing_and_all_of_it_learns(kind: str) -> None:
    model = small_model("sd1")
    bare = model.noise_pred()
    network = model.network(kind, dtype=torch.bfloat16)
    with network:
        assert torch.equal(model.noise_pred(), bare)
        before = {name: weight.clone() for name, weight in network.named_parameters()}
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, weight_decay=0)
        for _ in range(2):  # at the first, half of a network has no gradient
            network.zero_grad()
            model.noise_pred(requires_grad=True).square().mean().backward()
            optimizer.step()
    moved: dict[str, bool] = {}
    for path, weight in network.named_parameters():
        name = path.rpartition(".")[2]
        moved[name] = moved.get(name, False) or not torch.equal(weight, before[path])
    assert all(moved.values()), moved


@pytest.mark.parametrize("kind", list(KINDS))
def test_gradients_equal_those_of_the_formula(kind: str) -> None:
    """Autograd through delta W written out, by torch.func, against the adapters' own path."""
    model = small_model("sd1")
    network = trained(model.network(kind, conv_rank=2, conv_alpha=3.0))
    targets = [target for target in network.targets if target.block in ("IN02", "M00")]
    names = {id(module): name for name, module in model.unet.named_modules()}
    scaled = {}
    leaves: dict[str, dict[str, torch.Tensor]] = {}
    in_file = groups(network.tensors())
    with torch.no_grad():
        for target in network.targets:
            if target.block != "BASE" and target not in targets:
                changed = changed_weight(in_file[target.name], target.module.weight, 1.0)
                scaled[f"{names[id(target.module)]}.weight"] = changed
    for target in targets:
        leaves[target.name] = {
            name: tensor.clone().requires_grad_(name != "alpha")
            for name, tensor in in_file[target.name].items()
        }
        changed = changed_weight(leaves[target.name], target.module.weight, 1.0)
        scaled[f"{names[id(target.module)]}.weight"] = changed

    class Caller(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unet = model.unet
            self.config = model.unet.config

        def forward(self, *args: object, **kwargs: object) -> object:
            return torch.func.functional_call(model.unet, scaled, args, kwargs)

    written_out = Model(model.family, Caller(), [])  # type: ignore[arg-type]
    written_out.noise_pred(requires_grad=True).square().sum().backward()
    with network:
        model.noise_pred(requires_grad=True).square().sum().backward()
    for target in targets:
        for name, weight in network.adapters[target.name].weights().items():
            expected = leaves[target.name][name].grad
            # 32 channels in 32 groups of a norm: a time embedding's true gradient is 0 there
            assert (weight.grad - expected).norm() <= 1e-3 * expected.norm() + 1e-6, name


@pytest.mark.parametrize("kind", WITH_CONVOLUTIONS)
def test_unet_checkpointing_and_autocast_train(kind: str) -> None:
    model = small_model("sd1")
    network = trained(model.network(kind))
    gradients = []
    for checkpointing in (False, True):
        model.unet.train()
        if checkpointing:
            model.unet.enable_gradient_checkpointing()
        network.zero_grad()
        with network, torch.autocast("cpu", torch.bfloat16):
            loss = model.noise_pred(requires_grad=True).float().square().mean()
            loss.backward()
        gradients.append([weight.grad.clone() for weight in network.unet_parameters()])
        assert all(grad.dtype == torch.float32 for grad in gradients[-1])
    difference = sum((a - b).norm() ** 2 for a, b in zip(*gradients, strict=True)) ** 0.5
    size = sum(grad.norm() ** 2 for grad in gradients[0]) ** 0.5
    assert size > 0
    assert difference <= 0.02 * size


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_file_is_read_back(
    pair: tuple[Model, Network], dtype: torch.dtype, caplog: pytest.LogCaptureFixture
) -> None:
    _, network = pair
    trained(network)
    tensors = network.tensors(dtype)
    assert {tensor.dtype for tensor in tensors.values()} == {dtype}
    again = Network(network.targets, network.kind.name, SIZES)
    with caplog.at_level(logging.WARNING):
        again.load(tensors)
    assert not caplog.records
    assert {weight.dtype for weight in again.parameters()} == {torch.float32}
    for key, tensor in again.tensors(dtype).items():
        assert torch.equal(tensor, tensors[key]), key


def test_a_file_of_another_rank_wins(
    pair: tuple[Model, Network], caplog: pytest.LogCaptureFixture
) -> None:
    model, network = pair
    trained(network)
    with network:
        expected = outputs(model)
    other = Network(network.targets, network.kind.name, Sizes(1, 7.0))
    with caplog.at_level(logging.WARNING):
        other.load(network.tensors())
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert other.facts() == network.facts()
    with other:
        assert_outputs_close(outputs(model), expected, 0.0)


def test_strength_is_worked_into_the_file(pair: tuple[Model, Network]) -> None:
    model, network = pair
    trained(network)
    network.multiplier = 1.75
    with network:
        expected = outputs(model)
    network.multiplier = 1.0
    stronger = Network(network.targets, network.kind.name, Sizes(4, 2.0))
    stronger.load(network.tensors(strength=1.75))
    with stronger:
        assert_outputs_close(outputs(model), expected)
    assert stronger.facts() == network.facts()


def test_names_under_the_other_style_are_read(pair: tuple[Model, Network]) -> None:
    _, network = pair
    trained(network)
    other_names = {t.name: t.aliases[0] for t in network.targets if t.aliases}
    tensors = {}
    for key, tensor in network.tensors().items():
        name, _, tensor_name = key.partition(".")
        tensors[f"{other_names.get(name, name)}.{tensor_name}"] = tensor
    again = Network(network.targets, network.kind.name, Sizes(4, 2.0))
    again.load(tensors)
    assert all(
        torch.equal(a, b) for a, b in zip(again.parameters(), network.parameters(), strict=True)
    )


@pytest.mark.parametrize("kind", WITH_CONVOLUTIONS)
def test_it_learns(kind: str) -> None:
    """A few steps bring the model nearer to another model, in the UNet's output."""
    model = small_model("sd1")
    network = model.network(kind, generator=torch.Generator().manual_seed(0))
    goal = copy.deepcopy(model.unet)
    drawn = torch.Generator().manual_seed(9)
    for weight in goal.parameters():
        weight.data += 0.1 * weight.std() * torch.randn(weight.shape, generator=drawn)
    label = Model(model.family, goal, []).noise_pred()
    optimizer = torch.optim.AdamW(network.unet_parameters(), lr=5e-3, weight_decay=0.0)
    losses = []
    with network:
        for _ in range(15):
            loss = (model.noise_pred(requires_grad=True) - label).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
