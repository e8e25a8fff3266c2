"""What the tests share: a tiny checkpoint with random weights, and a folder of pictures."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel

from trainer.models.export import ldm_tensors, write_checkpoint
from trainer.models.families import SD1

torch.set_num_threads(1)


def tiny_modules(
    seed: int = 0,
) -> tuple[UNet2DConditionModel, AutoencoderKL, CLIPTextModel]:
    """SD1's modules at the smallest width that its layout allows, with random weights."""
    torch.manual_seed(seed)
    unet = UNet2DConditionModel(
        block_out_channels=(32, 32, 64, 64), cross_attention_dim=64, attention_head_dim=8
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(32, 32, 32, 32),
        latent_channels=4,
        layers_per_block=2,
    )
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=1,
            hidden_act="quick_gelu",
            eos_token_id=49407,
            bos_token_id=49406,
        )
    )
    return unet.eval(), vae.eval(), text_encoder.eval()


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint file in SD1's layout with random weights."""
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    write_checkpoint(path, ldm_tensors(*tiny_modules(), SD1, torch.float32))
    return path


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of four captioned pictures in two shapes."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, (width, height) in enumerate(((64, 64), (64, 64), (96, 64), (64, 64))):
        Image.new("RGB", (width, height), (60 * number, 90, 200)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"picture number {number}", "utf-8")
    return folder
