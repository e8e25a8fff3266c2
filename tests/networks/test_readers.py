"""What other programs demand of a file: A1111's Lora extension and sd-scripts' merge.

The rules are those of facts/formats.md A.2, A.6 and B; the tests marked `webui` ask the real
extension: set WEBUI_DIR to a checkout of AUTOMATIC1111's webui 1.10.1.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
import safetensors.torch
import torch
from torch import nn
from torch.nn import functional as F

from tests.networks.small_models import Model, shared_model, trained
from tests.networks.test_kinds import EVERY_KIND_AND_FAMILY, changed_weight, groups
from trainer.networks import kohya
from trainer.networks.naming import ldm_unet_path
from trainer.networks.network import Network

WEBUI_DIR = os.environ.get("WEBUI_DIR", "")
FACTORIES: dict[str, tuple[set[str], ...]] = {
    "lora": ({"lora_up.weight", "lora_down.weight"},),
    "hada": ({"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"},),
    "lokr": (
        {"lokr_w1", "lokr_w2"},
        {"lokr_w1", "lokr_w2_a", "lokr_w2_b"},
    ),
}
"""A group must hold exactly one of these sets; beside it any group may hold the following."""
BESIDE = {"alpha", "dora_scale"}


@pytest.fixture(params=EVERY_KIND_AND_FAMILY)
def pair(request: pytest.FixtureRequest) -> tuple[Model, Network]:
    kind, family = request.param
    model = shared_model(family)
    alphas = {"alpha": 4.0, "conv_alpha": 2.0} if kind.startswith("dora") else {"conv_alpha": 3.0}
    network = model.network(kind, conv_rank=2, **alphas)
    return model, trained(network)


def test_every_group_is_of_one_type(pair: tuple[Model, Network]) -> None:
    _, network = pair
    for name, group in groups(network.tensors(torch.float16)).items():
        held = set(group) - BESIDE
        types = [kind for kind, sets in FACTORIES.items() if held in sets]
        assert len(types) == 1, (name, sorted(group))
        assert group["alpha"].shape == ()


def test_shapes_are_those_that_readers_rebuild(pair: tuple[Model, Network]) -> None:
    _, network = pair
    in_file = groups(network.tensors())
    for target in network.targets:
        group, weight = in_file[target.name], target.module.weight
        width_out, width_in, *kernel = weight.shape
        ones = [1] * len(kernel)
        if "lora_down.weight" in group:
            rank = len(group["lora_down.weight"])
            assert list(group["lora_down.weight"].shape) == [rank, width_in, *kernel]
            assert list(group["lora_up.weight"].shape) == [width_out, rank, *ones]
        if "hada_w1_a" in group:
            rank = len(group["hada_w1_b"])
            for which in ("1", "2"):
                assert list(group[f"hada_w{which}_a"].shape) == [width_out, rank]
                assert list(group[f"hada_w{which}_b"].shape) == [rank, weight[0].numel()]
        if "dora_scale" in group:
            assert list(group["dora_scale"].shape) == [1, width_in, *ones]
            assert float(group["alpha"]) == len(group["lora_down.weight"])


@pytest.mark.parametrize("kind", ["lierla", "c3lier"])
def test_sd_scripts_merges_what_was_trained(kind: str) -> None:
    """Its merge by layer type: Linear, 1x1 convolution, and a kernel through a convolution."""
    network = trained(shared_model("sd1").network(kind, conv_rank=2, conv_alpha=3.0))
    in_file = groups(network.tensors())
    for target in network.targets:
        group, weight = in_file[target.name], target.module.weight
        up, down = group["lora_up.weight"], group["lora_down.weight"]
        scale = float(group["alpha"]) / len(down)
        if weight.ndim == 2:
            delta = up @ down
        elif weight.shape[2:] == (1, 1):
            delta = (up[:, :, 0, 0] @ down[:, :, 0, 0])[:, :, None, None]
        else:
            delta = F.conv2d(down.permute(1, 0, 2, 3), up).permute(1, 0, 2, 3)
        merged = weight + 0.7 * scale * delta
        torch.testing.assert_close(merged, changed_weight(group, weight, 0.7))


class Extension:
    """A1111's Lora extension, with stand-ins for the rest of the webui."""

    def __init__(self, networks: ModuleType, shared: Any) -> None:
        self.networks = networks
        self.shared = shared

    def load(self, path: Path, model: Model) -> tuple[dict[str, Any], dict[str, Any]]:
        """The file's modules by layer, and every tensor by its key in the file."""
        self.shared.sd_model = webui_model(model)
        self.networks.assign_network_names_to_compvis_modules(self.shared.sd_model)
        on_disk = SimpleNamespace(filename=str(path))
        loaded = self.networks.load_network("file", on_disk)
        loaded.te_multiplier = loaded.unet_multiplier = 1.0
        return loaded.modules, self.networks.sd_models.read_state_dict(str(path))


@pytest.fixture
def extension() -> Iterator[Extension]:
    if not WEBUI_DIR:
        pytest.skip("WEBUI_DIR names no webui")
    folder = str(Path(WEBUI_DIR) / "extensions-builtin/Lora")
    before = set(sys.modules)
    modules = MagicMock()
    stand_ins = ("sd_models", "cache", "errors", "hashes", "shared", "devices", "scripts")
    others = ("sd_hijack", "patches", "textual_inversion", "textual_inversion.textual_inversion")
    sd3 = ("models", "models.sd3", "models.sd3.mmdit")
    for name in (*stand_ins, *others, *sd3):
        sys.modules[f"modules.{name}"] = MagicMock()
    sys.modules["modules"] = modules
    for name in stand_ins:
        setattr(modules, name, sys.modules[f"modules.{name}"])
    modules.models.sd3.mmdit.QkvLinear = type("QkvLinear", (), {})
    modules.devices.cpu, modules.devices.dtype = torch.device("cpu"), torch.float32
    modules.sd_models.read_state_dict = safetensors.torch.load_file
    for name in ("gradio", "einops"):
        sys.modules.setdefault(name, MagicMock())
    sys.path.insert(0, folder)
    try:
        yield Extension(importlib.import_module("networks"), modules.shared)
    finally:
        sys.path.remove(folder)
        for name in set(sys.modules) - before:
            del sys.modules[name]


@pytest.mark.webui
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_extension_changes_weights_as_the_live_network_does(
    pair: tuple[Model, Network], dtype: torch.dtype, tmp_path: Path, extension: Extension
) -> None:
    model, network = pair
    path = tmp_path / "file.safetensors"
    kohya.save(path, network.tensors(dtype), {})
    modules, tensors = extension.load(path, model)
    assert len(modules) == len(network.targets), "every group belongs to a layer"
    in_file = {
        name: {k: t.float() for k, t in group.items()} for name, group in groups(tensors).items()
    }
    by_key = {module.network_key.partition(".")[0]: module for module in modules.values()}
    for target in network.targets:
        weight = target.module.weight.detach()
        updown, bias = by_key[target.name].calc_updown(weight)
        expected = changed_weight(in_file[target.name], weight, 1.0)
        assert bias is None
        assert (weight + updown - expected).norm() <= 2e-3 * (expected - weight).norm() + 1e-6


def webui_model(model: Model) -> Any:
    """The model as the webui holds it: ldm's module tree, and OpenCLIP's text encoders."""
    root = nn.Module()
    levels = [hasattr(block, "attentions") for block in model.unet.up_blocks]
    paths = {id(module): path for path, module in model.unet.named_modules()}
    for target in model.targets(convolutions=True):
        if target.block != "BASE":
            path = ldm_unet_path(paths[id(target.module)], levels)
            _plant(root, f"diffusion_model.{path}", target.module)
    parts: dict[str, Any] = {"model": root, "is_sdxl": model.family == "sdxl"}
    encoders = [_encoder(encoder) for encoder in model.text_encoders]
    if model.family == "sdxl":
        encoders[1] = _open_clip(model.text_encoders[1])
        parts["conditioner"] = SimpleNamespace(embedders=encoders)
    elif model.family == "sd2":
        parts["cond_stage_model"] = _open_clip(model.text_encoders[0])
    else:
        parts["cond_stage_model"] = encoders[0]
    return SimpleNamespace(**parts)


def _encoder(encoder: nn.Module) -> SimpleNamespace:
    wrapped = nn.Module()
    wrapped.transformer = encoder
    return SimpleNamespace(wrapped=wrapped)


def _open_clip(encoder: nn.Module) -> SimpleNamespace:
    """OpenCLIP's tree over the same layers; q, k and v are one parameter of an attention there."""
    wrapped = nn.Module()
    for index, layer in enumerate(encoder.text_model.encoder.layers):
        attention = layer.self_attn
        fused = nn.MultiheadAttention(attention.embed_dim, attention.num_heads)
        fused.out_proj = attention.out_proj
        base = f"model.transformer.resblocks.{index}"
        _plant(wrapped, f"{base}.attn", fused)
        _plant(wrapped, f"{base}.mlp.c_fc", layer.mlp.fc1)
        _plant(wrapped, f"{base}.mlp.c_proj", layer.mlp.fc2)
    return SimpleNamespace(wrapped=wrapped)


def _plant(root: nn.Module, path: str, module: nn.Module) -> None:
    """Put a module at a path, making what lies above it."""
    *above, name = path.split(".")
    for part in above:
        if not hasattr(root, part):
            root.add_module(part, nn.Module())
        root = root.get_submodule(part)
    root.add_module(name, module)
