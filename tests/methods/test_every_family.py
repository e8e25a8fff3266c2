"""Every method on every family: the steps, the file, and the file in diffusers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline

from tests.conftest import adapted_layers
from tests.modules import tiny_modules
from trainer.events import Event
from trainer.methods import TRAIN
from trainer.networks import kohya
from trainer.networks.naming import block_of
from trainer.training.loop import Outcome

Run = Callable[..., tuple[Path, Outcome, list[Event]]]
BLOCKS = "BASE,IN04,M00,OUT05"
OTHERS = [(family, method) for family in ("sd2", "sdxl") for method in TRAIN]
TEXT_ENCODERS = {"sd1": ["lora_te"], "sd2": ["lora_te"], "sdxl": ["lora_te1", "lora_te2"]}
VERSIONS = {"sd1": "sd_v1", "sd2": "sd_v2", "sdxl": "sdxl_base_v1-0"}
ARCHITECTURES = {
    "sd1": "stable-diffusion-v1/lora",
    "sd2": "stable-diffusion-v2-512/lora",
    "sdxl": "stable-diffusion-xl-v1-base/lora",
}
CARDS = {"sd1": "SD1", "sd2": "SD2", "sdxl": "SDXL"}


def pipeline_of(family: str) -> StableDiffusionPipeline | StableDiffusionXLPipeline:
    unet, vae, encoders = tiny_modules(family=family)
    parts = {"unet": unet, "vae": vae, "scheduler": DDIMScheduler(), "tokenizer": None}
    if family == "sdxl":
        first, second = encoders
        return StableDiffusionXLPipeline(
            **parts, text_encoder=first, text_encoder_2=second, tokenizer_2=None
        )
    return StableDiffusionPipeline(
        **parts,
        text_encoder=encoders[0],
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


@pytest.mark.parametrize(("family", "method"), OTHERS)
def test_the_file_is_the_familys(
    family: str, method: str, run: Run, tiny_checkpoints: dict[str, Path]
) -> None:
    file, outcome, _ = run(
        method,
        checkpoint=str(tiny_checkpoints[family]),
        blocks=BLOCKS,
        prediction_type="epsilon",
        save_preview=method == "lora",
    )
    assert outcome.steps == 3
    tensors, metadata = kohya.load(file)
    groups = {name.partition(".")[0] for name in tensors}
    prefixes = {name.partition("_text_model")[0] for name in groups if "_text_model" in name}
    assert sorted(prefixes) == TEXT_ENCODERS[family]
    assert {block_of(name) for name in groups} == set(BLOCKS.split(","))
    ldm_style = any("input_blocks_4_1" in name for name in groups)
    assert ldm_style == (family == "sdxl")
    assert metadata["ss_base_model_version"] == VERSIONS[family]
    assert metadata["ss_v2"] == str(family == "sd2")
    assert metadata["modelspec.architecture"] == ARCHITECTURES[family]
    assert metadata["ss_clip_skip"] == "None"
    assert json.loads(file.with_suffix(".json").read_text("utf-8"))["sd version"] == CARDS[family]
    assert file.with_suffix(".png").exists() == (method == "lora")
    trained = {
        name.partition(".")[0]
        for name, tensor in tensors.items()
        if name.endswith("lora_up.weight") and tensor.abs().max() > 0
    }
    # Of SDXL's first encoder the last layer is not used, and so learns nothing.
    unused = {name for name in groups if name.startswith("lora_te1_text_model_encoder_layers_2")}
    assert trained == groups - unused

    adapted_layers()  # skips the rest where diffusers cannot load the file
    pipeline = pipeline_of(family)
    pipeline.load_lora_weights(file.parent, weight_name=file.name)
    beyond = {name for name in groups if family == "sd2" and "_layers_2_" in name}
    assert not beyond
    second = getattr(pipeline, "text_encoder_2", None)
    assert adapted_layers(pipeline.unet, pipeline.text_encoder, second) == len(groups)


@pytest.mark.parametrize("family", ["sd2", "sdxl"])
def test_a_velocity_with_zero_terminal_snr_is_trained_and_drawn(
    family: str, run: Run, tiny_checkpoints: dict[str, Path]
) -> None:
    file, outcome, _ = run(
        "lora",
        checkpoint=str(tiny_checkpoints[family]),
        prediction_type="v_prediction",
        zero_terminal_snr="on",
        gradient_checkpointing=True,
        checkpointed_parts="all",
        blocks="BASE,M00",
    )
    assert outcome.steps == 3
    _, metadata = kohya.load(file)
    assert metadata["modelspec.prediction_type"] == "v"
    assert metadata["ss_zero_terminal_snr"] == "True"
    assert file.with_suffix(".png").exists()
    assert torch.isfinite(torch.tensor(outcome.loss))
