"""The modules of every family: full-size shapes as published, and tiny ones with random weights."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

START, END = 49406, 49407
"""CLIP's tokens around every text."""

FULL_UNETS = {
    "sd1": {
        "block_out_channels": (320, 640, 1280, 1280),
        "layers_per_block": 2,
        "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        "attention_head_dim": 8,
        "cross_attention_dim": 768,
        "use_linear_projection": False,
    },
    "sd2": {
        "block_out_channels": (320, 640, 1280, 1280),
        "layers_per_block": 2,
        "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        "attention_head_dim": [5, 10, 20, 20],
        "cross_attention_dim": 1024,
        "use_linear_projection": True,
    },
    "sdxl": {
        "block_out_channels": (320, 640, 1280),
        "layers_per_block": 2,
        "down_block_types": ("DownBlock2D",) + ("CrossAttnDownBlock2D",) * 2,
        "up_block_types": ("CrossAttnUpBlock2D",) * 2 + ("UpBlock2D",),
        "transformer_layers_per_block": [1, 2, 10],
        "attention_head_dim": [5, 10, 20],
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}
"""Source: unet/config.json of the published stable-diffusion-v1-5, -2-1 and -xl-base-1.0."""
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
    "sd2": [
        {
            "hidden_size": 64,
            "intermediate_size": 4 * 64,
            "num_hidden_layers": 3,
            "hidden_act": "gelu",
        }
    ],
    "sdxl": [
        {"hidden_size": 64, "num_hidden_layers": 3, "hidden_act": "quick_gelu"},
        {
            "hidden_size": 128,
            "intermediate_size": 4 * 128,
            "num_hidden_layers": 3,
            "hidden_act": "gelu",
            "projection_dim": 96,
            "num_attention_heads": 2,
        },
    ],
}
"""With every layer that a file of the family has; OpenCLIP's are four times as wide inside."""


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
            **{"num_attention_heads": 1, "intermediate_size": 128, **sizes},
            eos_token_id=END,
            bos_token_id=START,
        )
        projects = "projection_dim" in sizes
        encoder = (CLIPTextModelWithProjection if projects else CLIPTextModel)(config)
        for name, parameter in encoder.named_parameters():
            # They start at zero, so that biases mixed up in OpenCLIP's layout would not show.
            if sizes["hidden_act"] == "gelu" and name.endswith("bias"):
                torch.nn.init.normal_(parameter, std=0.02)
        encoders.append(encoder.eval())
    return unet.eval(), vae.eval(), encoders
