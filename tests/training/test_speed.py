"""What a step does and what it does not, counted instead of timed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from transformers.models.clip import modeling_clip

from tests.conftest import tiny_tensors
from trainer.control import Control
from trainer.events import ignore
from trainer.hosts.standalone import StandaloneHost
from trainer.models.families import FAMILIES, Family
from trainer.models.model import DiffusionModel, assemble_model
from trainer.networks.network import Network
from trainer.networks.sizes import Sizes
from trainer.networks.targets import find_targets
from trainer.run import run_job
from trainer.settings.groups import ModelSettings
from trainer.settings.groups.network import BLOCKS
from trainer.settings.schema import parse
from trainer.training.loop import Loop
from trainer.training.memory import gradient_checkpointing

STEPS = 3
ALL = BLOCKS[1:]
BLOCK, RESNET, PROJECTION = "BasicTransformerBlock", "ResnetBlock2D", ".proj_in"
OUT = tuple(block for block in BLOCKS if block.startswith("OUT"))


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> DiffusionModel:
    host = StandaloneHost(tiny_checkpoint.parent, tmp_path_factory.mktemp("out"), "cpu")
    with host.borrow(ModelSettings(checkpoint=str(tiny_checkpoint))) as model:
        return model


def job(checkpoint: Path, pictures: Path, **changes: object) -> dict[str, object]:
    return {
        "checkpoint": str(checkpoint),
        "name": "result",
        "steps": STEPS,
        "rank": 2,
        "alpha": 2,
        "image_size_px": 64,
        "save_preview": False,
        "save_state_every_steps": 0,
        "seed": 1,
        **changes,
    }


def lora(checkpoint: Path, pictures: Path) -> dict[str, object]:
    return job(checkpoint, pictures, method="lora", images=str(pictures), bucket_step_px=0)


def ileco(checkpoint: Path, pictures: Path) -> dict[str, object]:
    words = {"original_prompt": "red", "target_prompt": "blue"}
    return job(checkpoint, pictures, method="ileco", pool_size=4, pool_denoise_steps=4, **words)


class Operations(TorchDispatchMode):
    """Counts torch's operations by name."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: dict[str, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        name = str(func.overloadpacket)
        self.counts[name] = self.counts.get(name, 0) + 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("method", [lora, ileco])
def test_a_step_is_one_pass_of_the_unet_and_never_waits_for_the_device(
    method: Callable[..., dict[str, object]],
    tiny_checkpoint: Path,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    passes: list[int] = []
    operations = Operations()
    denoise, update = DiffusionModel.denoise, Loop.update

    def counted(self: DiffusionModel, latents: torch.Tensor, *rest: Any) -> torch.Tensor:
        passes.append(len(latents))
        return denoise(self, latents, *rest)

    def watched(self: Loop, loss: Any) -> torch.Tensor:
        before = len(passes)
        with operations:
            total = update(self, loss)
        assert len(passes) == before + 1
        return total

    monkeypatch.setattr(DiffusionModel, "denoise", counted)
    monkeypatch.setattr(Loop, "update", watched)
    if mask := getattr(modeling_clip, "_make_causal_mask", None):
        # transformers 4.30 reads a number from the device for it, in every pass of an encoder.
        monkeypatch.setattr(modeling_clip, "_make_causal_mask", uncounted(mask))
    host = StandaloneHost(tmp_path, tmp_path / "out", "cpu")
    settings = parse(method(tiny_checkpoint, pictures))
    assert run_job(settings, host, control=Control(), sink=ignore).steps == STEPS
    assert operations.counts["aten.convolution"] > 0
    assert "aten._local_scalar_dense" not in operations.counts  # .item(), float(), bool()
    assert "aten.nonzero" not in operations.counts


def uncounted(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        with _disable_current_modes():
            return function(*args, **kwargs)

    return call


def kept_mb(model: DiffusionModel, blocks: tuple[str, ...]) -> tuple[float, float]:
    """MB that a forward pass keeps for the backward pass: up to the middle block, and in all."""
    targets = find_targets(model.unet, model.text_encoders, family="sd1", blocks=blocks)
    weights = {p.untyped_storage().data_ptr() for p in model.unet.parameters()}
    kept: dict[int, int] = {}
    below: list[int] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in weights:
            kept[place] = tensor.untyped_storage().nbytes()
        return tensor

    handle = model.unet.mid_block.register_forward_hook(lambda *_: below.append(sum(kept.values())))
    latents, context = torch.randn(1, 4, 8, 8), model.encode_prompts([""])
    network = Network(targets, "lierla", Sizes(2, 2.0))
    with network, saved_tensors_hooks(keep, lambda tensor: tensor):
        model.denoise(latents, torch.tensor([500]), context).sum().backward()
    handle.remove()
    return below[0] / 2**20, sum(kept.values()) / 2**20


def test_nothing_is_kept_below_the_first_trained_layer(model: DiffusionModel) -> None:
    below, in_all = kept_mb(model, OUT)
    assert below == 0
    assert in_all > 0
    assert kept_mb(model, ALL)[0] > 0


def calls(model: DiffusionModel, parts: str) -> dict[str, int]:
    """How often blocks of the UNet and what leads to them run in a step, by their names."""
    counted: dict[str, int] = {}
    handles = []
    for name, module in model.unet.named_modules():
        if type(module).__name__ in (BLOCK, RESNET) or name.endswith(PROJECTION):

            def note(*_: object, name: str = name) -> None:
                counted[name] = counted.get(name, 0) + 1

            handles.append(module.register_forward_pre_hook(note))
    family = model.family
    targets = find_targets(model.unet, [], family=family.name, blocks=family.blocks[1:])
    with Network(targets, "lierla", Sizes(2, 2.0)), gradient_checkpointing(model, parts):
        latents, told = torch.randn(1, 4, 8, 8), model.encode_prompts([""])
        model.denoise(latents, torch.tensor([500]), told).sum().backward()
    for handle in handles:
        handle.remove()
    return counted


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_what_checkpointing_computes_twice(family: Family) -> None:
    """How much that keeps is counted at full size, in test_estimate.py."""
    model = assemble_model(tiny_tensors(family), family, device=torch.device("cpu"))
    some, everything = calls(model, "attention"), calls(model, "all")
    for name in some:
        second_block = name.replace(PROJECTION, ".transformer_blocks.1")
        attends = "transformer_blocks" in name or (PROJECTION in name and second_block not in some)
        assert some[name] == (2 if attends and not name.startswith("mid") else 1), name
        assert everything[name] == 2 or not attends, name
    resnets = [name for name in everything if "resnets" in name]
    first = "down_blocks.0.resnets.0"  # nothing is trained before it, so that it keeps nothing
    assert everything[first] == 1
    assert sum(everything[name] == 2 for name in resnets) > 0.7 * len(resnets)
    assert not model.unet.training
    assert not model.unet.is_gradient_checkpointing


def test_checkpointing_everything_keeps_less_than_half(model: DiffusionModel) -> None:
    _, without = kept_mb(model, ALL)
    with gradient_checkpointing(model, "all"):
        _, with_it = kept_mb(model, ALL)
    assert with_it < 0.5 * without
