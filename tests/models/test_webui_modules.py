"""The assembled modules against the webui's own: ldm and sgm, filled with the same tensors.

Set WEBUI_DIR to a checkout of AUTOMATIC1111's webui with its repositories, and run this with the
Python of its environment.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.conftest import tiny_tensors
from tests.modules import END, START
from trainer.models.families import FAMILIES, SD2, SDXL, Family
from trainer.models.ldm_names import UNET_PREFIX, VAE_PREFIX
from trainer.models.model import DiffusionModel, assemble_model

WEBUI_DIR = os.environ.get("WEBUI_DIR", "")
REPOSITORIES = Path(WEBUI_DIR) / "repositories"
pytestmark = [
    pytest.mark.webui,
    pytest.mark.skipif(not WEBUI_DIR, reason="WEBUI_DIR names no webui"),
]
CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def repositories() -> Iterator[None]:
    pytest.importorskip("einops")
    pytest.importorskip("kornia")
    before = list(sys.path)
    sys.path[:0] = [
        str(REPOSITORIES / "stable-diffusion-stability-ai"),
        str(REPOSITORIES / "generative-models"),
    ]
    yield
    sys.path[:] = before


@pytest.fixture(scope="module")
def checkpoints() -> dict[str, dict[str, torch.Tensor]]:
    return {family.name: tiny_tensors(family, seed=4) for family in FAMILIES}


def assembled(family: Family, checkpoints: dict[str, dict[str, torch.Tensor]]) -> DiffusionModel:
    return assemble_model(checkpoints[family.name], family, device=CPU)


def fill(module: nn.Module, tensors: dict[str, torch.Tensor], prefix: str) -> nn.Module:
    own = {n[len(prefix) :]: t for n, t in tensors.items() if n.startswith(prefix)}
    left = module.load_state_dict(own, strict=False)
    assert not left.missing_keys, left.missing_keys
    return module.eval()


def original_unet(family: Family) -> nn.Module:
    common: dict[str, Any] = {
        "in_channels": 4,
        "out_channels": 4,
        "model_channels": 32,
        "num_res_blocks": 2,
        "use_spatial_transformer": True,
        "use_checkpoint": False,
        "legacy": False,
    }
    if family is SDXL:
        from sgm.modules.diffusionmodules.openaimodel import UNetModel as SgmUNet

        return SgmUNet(
            **common,
            channel_mult=[1, 2, 4],
            attention_resolutions=[4, 2],
            transformer_depth=[1, 1, 2],
            num_head_channels=64,
            context_dim=192,
            use_linear_in_transformer=True,
            num_classes="sequential",
            adm_in_channels=96 + 6 * 256,
        )
    from ldm.modules.diffusionmodules.openaimodel import UNetModel

    return UNetModel(
        **common,
        num_heads=1 if family is SD2 else 8,
        use_linear_in_transformer=family is SD2,
        image_size=32,
        channel_mult=[1, 1, 2, 2],
        attention_resolutions=[4, 2, 1],
        transformer_depth=1,
        context_dim=64,
    )


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
@torch.no_grad()
def test_unet(family: Family, checkpoints: dict[str, dict[str, torch.Tensor]]) -> None:
    theirs = fill(original_unet(family), checkpoints[family.name], UNET_PREFIX)
    model = assembled(family, checkpoints)
    told = model.encode_prompts(["a cat", "a dog on a hill"])
    latents, timesteps = torch.randn(2, 4, 8, 16), torch.tensor([3, 700])
    extra = {}
    if family is SDXL:
        from sgm.modules.encoders.modules import ConcatTimestepEmbedderND

        embed = ConcatTimestepEmbedderND(256)
        height_width = torch.tensor([[64.0, 128.0]] * 2)
        sizes = [embed(s) for s in (height_width, torch.zeros(2, 2), height_width)]
        extra = {"y": torch.cat([told.pooled, *sizes], 1)}
    expected = theirs(latents, timesteps, context=told.context, **extra)
    found = model.denoise(latents, timesteps, told)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def ids() -> torch.Tensor:
    windows = [[START, 320, 2368, END], [START, 320, 1929, 525, 320, 4102, END]]
    return torch.tensor([window + [0] * (77 - len(window)) for window in windows])


def original_openclip(kind: type, width: int, heads: int, projection: int) -> nn.Module:
    """The webui's embedder around an encoder of a small size."""
    from open_clip.transformer import TextTransformer

    embedder = kind.__new__(kind)
    nn.Module.__init__(embedder)
    encoder = TextTransformer(width=width, heads=heads, layers=3, output_dim=projection)
    encoder.transformer.grad_checkpointing = False
    embedder.model = encoder
    embedder.layer, embedder.layer_idx = "penultimate", 1
    embedder.legacy, embedder.return_pooled = False, True
    return embedder


@torch.no_grad()
def test_text_encoder_of_sd2(checkpoints: dict[str, dict[str, torch.Tensor]]) -> None:
    from ldm.modules.encoders.modules import FrozenOpenCLIPEmbedder

    tensors = checkpoints["sd2"]
    theirs = original_openclip(FrozenOpenCLIPEmbedder, 64, 1, 64)
    tensors = {**tensors, "cond_stage_model.model.text_projection": torch.zeros(64, 64)}
    fill(theirs.model, tensors, "cond_stage_model.model.")
    (encoder,) = assembled(SD2, checkpoints).prompts.encoders
    expected = theirs.encode_with_transformer(ids())
    torch.testing.assert_close(encoder(ids())[0], expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_second_text_encoder_of_sdxl(checkpoints: dict[str, dict[str, torch.Tensor]]) -> None:
    from sgm.modules.encoders.modules import FrozenOpenCLIPEmbedder2

    theirs = original_openclip(FrozenOpenCLIPEmbedder2, 128, 2, 96)
    fill(theirs.model, checkpoints["sdxl"], "conditioner.embedders.1.model.")
    _, encoder = assembled(SDXL, checkpoints).prompts.encoders
    expected = theirs.encode_with_transformer(ids())
    states, pooled = encoder(ids())
    torch.testing.assert_close(states, expected["penultimate"], atol=1e-5, rtol=0)
    torch.testing.assert_close(pooled, expected["pooled"], atol=1e-5, rtol=0)


@torch.no_grad()
def test_vae(checkpoints: dict[str, dict[str, torch.Tensor]]) -> None:
    from ldm.modules.diffusionmodules.model import Decoder, Encoder

    sizes = {
        "ch": 32,
        "out_ch": 3,
        "ch_mult": (1, 1, 1, 1),
        "num_res_blocks": 2,
        "attn_resolutions": [],
        "in_channels": 3,
        "resolution": 64,
        "z_channels": 4,
        "double_z": True,
    }
    tensors = checkpoints["sd1"]
    encoder = fill(Encoder(**sizes), tensors, VAE_PREFIX + "encoder.")
    decoder = fill(Decoder(**sizes), tensors, VAE_PREFIX + "decoder.")
    quant = fill(nn.Conv2d(8, 8, 1), tensors, VAE_PREFIX + "quant_conv.")
    post_quant = fill(nn.Conv2d(4, 4, 1), tensors, VAE_PREFIX + "post_quant_conv.")
    vae = assembled(FAMILIES[0], checkpoints).vae
    pixels = torch.rand(1, 3, 64, 128) * 2 - 1
    mean = quant(encoder(pixels)).chunk(2, 1)[0]
    torch.testing.assert_close(vae.encode(pixels).latent_dist.mean, mean, atol=1e-5, rtol=0)
    expected = decoder(post_quant(mean))
    torch.testing.assert_close(vae.decode(mean).sample, expected, atol=1e-5, rtol=0)
