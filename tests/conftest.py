"""What the tests share: a tiny checkpoint with random weights, and a folder of pictures."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from trainer.models.export import ldm_tensors, write_checkpoint
from trainer.models.families import FAMILIES, SD1, Family

torch.set_num_threads(1)


Modules = tuple[UNet2DConditionModel, AutoencoderKL, list[CLIPTextModel]]

TINY_UNETS = {
    "sd1": {
        "block_out_channels": (32, 32, 64, 64),
        "cross_attention_dim": 64,
        "attention_head_dim": 8,
    },
    "sd2": {
        "block_out_channels": (32, 32, 64, 64),
        "cross_attention_dim": 64,
        "attention_head_dim": (1, 1, 1, 1),
        "use_linear_projection": True,
    },
    "sdxl": {
        "block_out_channels": (32, 64, 128),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 1, 2),
        "cross_attention_dim": 64 + 128,
        "attention_head_dim": (1, 1, 2),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 96 + 6 * 256,
    },
}
"""UNets of the families' layouts at the smallest widths that these allow."""
TINY_TEXT_ENCODERS = {
    "sd1": [{"hidden_size": 64, "num_hidden_layers": 2, "hidden_act": "quick_gelu"}],
    "sd2": [{"hidden_size": 64, "num_hidden_layers": 3, "hidden_act": "gelu"}],
    "sdxl": [
        {"hidden_size": 64, "num_hidden_layers": 3, "hidden_act": "quick_gelu"},
        {
            "hidden_size": 128,
            "num_hidden_layers": 3,
            "hidden_act": "gelu",
            "projection_dim": 96,
            "num_attention_heads": 2,
        },
    ],
}
"""With every layer that a file of the family has."""


def tiny_modules(seed: int = 0, family: str = "sd1") -> Modules:
    """A family's modules at the smallest width that its layout allows, with random weights."""
    torch.manual_seed(seed)
    unet = UNet2DConditionModel(sample_size=64, **TINY_UNETS[family])
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(32, 32, 32, 32),
        latent_channels=4,
        layers_per_block=2,
    )
    encoders = []
    for sizes in TINY_TEXT_ENCODERS[family]:
        config = CLIPTextConfig(
            **{"num_attention_heads": 1, **sizes},
            intermediate_size=128,
            eos_token_id=49407,
            bos_token_id=49406,
        )
        projects = "projection_dim" in sizes
        encoder = (CLIPTextModelWithProjection if projects else CLIPTextModel)(config)
        for name, parameter in encoder.named_parameters():
            # They start at zero, so that biases mixed up in OpenCLIP's layout would not show.
            if sizes["hidden_act"] == "gelu" and name.endswith("bias"):
                torch.nn.init.normal_(parameter, std=0.02)
        encoders.append(encoder.eval())
    return unet.eval(), vae.eval(), encoders


def tiny_tensors(
    family: Family, seed: int = 0, dtype: torch.dtype = torch.float32
) -> dict[str, torch.Tensor]:
    """A checkpoint of a family in its file layout, with random weights."""
    return ldm_tensors(*tiny_modules(seed, family.name), family, dtype)


def adapted_layers(*modules: torch.nn.Module | None) -> int:
    """How many layers diffusers adapted with a LoRA file; skips the test where it cannot."""
    reason = "diffusers adapts layers by peft, and only with transformers newer than 4.33"
    tuners = pytest.importorskip("peft.tuners.tuners_utils", reason=reason)
    parts = [part for module in modules if module is not None for part in module.modules()]
    return sum(isinstance(part, tuners.BaseTunerLayer) for part in parts)


@pytest.fixture
def loads_lora() -> None:
    """Skips a test where diffusers has no `load_lora_weights`, before it works for it."""
    adapted_layers()


@pytest.fixture(scope="session")
def tiny_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint file of every family, by its name."""
    folder = tmp_path_factory.mktemp("checkpoints")
    files = {family.name: folder / f"{family.name}.safetensors" for family in FAMILIES}
    for family in FAMILIES:
        write_checkpoint(files[family.name], tiny_tensors(family))
    return files


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint file in SD1's layout with random weights."""
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    write_checkpoint(path, tiny_tensors(SD1))
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
