from __future__ import annotations

import pytest
import torch

from tests.conftest import tiny_tensors
from trainer.models.detect import detect
from trainer.models.families import CONV_IN, FAMILIES, Family

UNET = "model.diffusion_model."
SDXL_TEXT = "conditioner.embedders.1.model.ln_final.weight"
SD2_TEXT = "cond_stage_model.model.transformer.resblocks.0.ln_1.weight"
REFINER_TEXT = "conditioner.embedders.0.model.ln_final.weight"
MIDDLE = UNET + "middle_block.1.proj_in.weight"


def fake(**shapes: tuple[int, ...]) -> dict[str, torch.Tensor]:
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_real_layout_is_told_at_any_width(family: Family):
    found = detect(tiny_tensors(family, dtype=torch.float16))
    assert found.family is family
    assert (found.title, found.reason) == (family.title, "")


@pytest.mark.parametrize(
    ("shapes", "title"),
    [
        ({CONV_IN: (320, 4, 3, 3), SDXL_TEXT: (1280,)}, "SSD-1B or a relative"),
        (
            {CONV_IN: (320, 4, 3, 3), SDXL_TEXT: (1280,), MIDDLE: (1,), "edm_mean": (4,)},
            "Playground 2.5 or a relative",
        ),
        (
            {CONV_IN: (320, 9, 3, 3), SDXL_TEXT: (1280,), MIDDLE: (1,)},
            "Stable Diffusion XL, inpainting",
        ),
        (
            {CONV_IN: (320, 4, 3, 3), UNET + "label_emb.0.0.weight": (1, 2816)},
            "a Stable Diffusion XL UNet without its text encoders",
        ),
        ({CONV_IN: (384, 4, 3, 3), REFINER_TEXT: (1280,)}, "the Stable Diffusion XL refiner"),
        ({CONV_IN: (320, 9, 3, 3), SD2_TEXT: (1,)}, "Stable Diffusion 2, inpainting"),
        ({CONV_IN: (320, 8, 3, 3), SD2_TEXT: (1,)}, "Stable Diffusion 2, instruct-pix2pix"),
        ({CONV_IN: (320, 4, 3, 3)}, "a UNet without a text encoder"),
        ({"lora_unet_mid_block_attentions_0_proj_in.lora_up.weight": (1,)}, "a LoRA file"),
        ({"model.diffusion_model.double_blocks.0.x": (1,)}, "a Flux checkpoint"),
        ({"model.diffusion_model.joint_blocks.0.x": (1,)}, "a Stable Diffusion 3 checkpoint"),
        ({"down_blocks.0.resnets.0.conv1.weight": (1,)}, "a file in the diffusers layout"),
        ({"decoder.conv_in.weight": (1,)}, "a VAE file"),
        ({"emb_params": (2, 768)}, "an embedding or another small file"),
        ({str(i): (1,) for i in range(9)}, "a file of an unknown architecture"),
    ],
)
def test_what_cannot_be_trained_on_is_called_by_its_name(shapes, title):
    found = detect(fake(**shapes))
    assert found.family is None
    assert found.title == title
    assert found.reason


def test_inpainting_sd1_names_the_channels():
    name = "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"
    found = detect(fake(**{CONV_IN: (320, 9, 3, 3), name: (49408, 768)}))
    assert found.family is None
    assert "9 channels" in found.reason
