"""The saved file in diffusers' own loader: every key is consumed, and the outputs are the same."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)

from tests.conftest import adapted_layers
from tests.networks.small_models import Model, shared_model, trained
from trainer.networks import kohya
from trainer.networks.network import Network
from trainer.networks.sizes import Sizes


def pipeline_for(model: Model) -> StableDiffusionPipeline | StableDiffusionXLPipeline:
    """diffusers' pipeline around copies of the model's modules."""
    vae = AutoencoderKL(block_out_channels=(32,), latent_channels=4)
    parts = {
        "vae": vae,
        "unet": copy.deepcopy(model.unet),
        "text_encoder": copy.deepcopy(model.text_encoders[0]),
        "tokenizer": None,
        "scheduler": DDIMScheduler(),
    }
    if model.family == "sdxl":
        second = copy.deepcopy(model.text_encoders[1])
        return StableDiffusionXLPipeline(**parts, text_encoder_2=second, tokenizer_2=None)
    return StableDiffusionPipeline(
        **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )


@pytest.mark.usefixtures("loads_lora")
@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
@pytest.mark.parametrize("kind", ["lierla", "c3lier"])
def test_diffusers_computes_the_same(tmp_path: Path, family: str, kind: str) -> None:
    model = shared_model(family)
    network = trained(model.network(kind, conv_rank=2, conv_alpha=3.0))
    path = tmp_path / "a.safetensors"
    kohya.save(path, network.tensors(), {"ss_v2": "False"})
    pipeline = pipeline_for(model)

    pipeline.load_lora_weights(tmp_path, weight_name=path.name)

    encoders = [pipeline.text_encoder, getattr(pipeline, "text_encoder_2", None)]
    layers = adapted_layers(pipeline.unet)
    assert layers == sum(target.block != "BASE" for target in network.targets)
    assert layers + sum(adapted_layers(e) for e in encoders if e) == len(network.targets)
    theirs = Model(family, pipeline.unet, [encoder for encoder in encoders if encoder])
    with network:
        expected = model.noise_pred()
        states = [model.text_states(i) for i in range(len(model.text_encoders))]
    assert (expected - model.noise_pred()).norm() > 0.01 * expected.norm()
    torch.testing.assert_close(theirs.noise_pred(), expected, rtol=1e-5, atol=1e-5)
    for index, state in enumerate(states):
        torch.testing.assert_close(theirs.text_states(index), state, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_the_conversion_leaves_no_key_over(tmp_path: Path, family: str) -> None:
    """diffusers itself raises if keys are left; what it makes is counted here."""
    model = shared_model(family)
    network = trained(model.network())
    path = tmp_path / "a.safetensors"
    kohya.save(path, network.tensors(torch.float16), {"ss_v2": "False"})
    pipeline = StableDiffusionXLPipeline if family == "sdxl" else StableDiffusionPipeline
    state, alphas = pipeline.lora_state_dict(
        tmp_path, weight_name=path.name, unet_config=model.unet.config
    )
    assert len(state) == 2 * len(network.targets)
    assert len(alphas) == len(network.targets)
    assert set(alphas.values()) == {2.0}


@pytest.mark.usefixtures("loads_lora")
def test_a_saved_strength_is_what_diffusers_applies(tmp_path: Path) -> None:
    model = shared_model("sd1")
    network = trained(Network(model.targets(blocks=("IN04", "M00")), "lierla", Sizes(4, 2.0)))
    kohya.save(tmp_path / "a.safetensors", network.tensors(strength=-0.6), {})
    pipeline = pipeline_for(model)
    pipeline.load_lora_weights(tmp_path, weight_name="a.safetensors")
    with network, network.at(-0.6):
        expected = model.noise_pred()
    theirs = Model("sd1", pipeline.unet, [])
    torch.testing.assert_close(theirs.noise_pred(), expected, rtol=1e-5, atol=1e-5)


def test_diffusers_leaves_the_magnitudes_of_a_dora_out(tmp_path: Path) -> None:
    """Why the help of the parameter says so: it knows only magnitudes by output."""
    network = trained(shared_model("sd1").network("dora", alpha=4.0))
    kohya.save(tmp_path / "a.safetensors", network.tensors(), {})
    state, _ = StableDiffusionPipeline.lora_state_dict(tmp_path, weight_name="a.safetensors")
    assert len(state) == 2 * len(network.targets)
    assert not any("magnitude" in key or "dora" in key for key in state)
