"""The models that are measured: the embedded checkpoint, and SD1 at full size without a file."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from ..control import Control
from ..demo.checkpoint import CHECKPOINT
from ..diffusion.schedule import scaled_linear
from ..hosts.standalone import StandaloneHost
from ..models.convolution import freeze_convolutions
from ..models.detect import Detection
from ..models.families import SD1
from ..models.model import DTYPES, DiffusionModel, Origin
from ..models.text import PromptEncoder, TextEncoder
from ..models.tokenizer import clip_tokenizer
from ..settings.groups import ModelSettings

Module = TypeVar("Module", bound=nn.Module)
WORLD, FULL = "world", "full"


def world(device: torch.device, precision: str) -> DiffusionModel:
    """The embedded checkpoint, a narrow SD1."""
    folder = CHECKPOINT.parent
    settings = ModelSettings(checkpoint=str(CHECKPOINT), base_precision=precision)
    with tempfile.TemporaryDirectory() as out:  # a host notes the checkpoint's hash there
        host = StandaloneHost(folder, Path(out), str(device))
        with host.borrow(settings) as model:
            return model


def full(device: torch.device, precision: str) -> DiffusionModel:
    """SD1's UNet and text encoder at full size with random weights; the VAE is a small one.

    Only times and memory can be measured with it: what it predicts means nothing.
    """
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            block_out_channels=(320, 640, 1280, 1280), cross_attention_dim=768, attention_head_dim=8
        )
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                hidden_size=768,
                intermediate_size=3072,
                num_hidden_layers=12,
                num_attention_heads=12,
                hidden_act="quick_gelu",
                projection_dim=768,
            )
        )
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(32,) * 4,
            latent_channels=4,
            layers_per_block=2,
        )
    unet = _drawn(unet, device, DTYPES[precision])
    text_encoder = _drawn(text_encoder, device, DTYPES[precision])
    embeddings = text_encoder.text_model.embeddings
    positions = torch.arange(embeddings.position_embedding.num_embeddings, device=device)
    embeddings.position_ids = positions[None]
    return DiffusionModel(
        family=SD1,
        unet=unet,
        vae=_drawn(vae, device, torch.float32),
        prompts=PromptEncoder(clip_tokenizer(), [TextEncoder(text_encoder, SD1.text_encoders[0])]),
        schedule=scaled_linear().to(device),
        device=device,
        compute_dtype=DTYPES[precision],
        origin=Origin("random weights"),
    )


def _drawn(module: Module, device: torch.device, dtype: torch.dtype) -> Module:
    """The frozen module with weights that keep the size of what passes through about the same."""
    module = module.to(dtype).to_empty(device=device)
    generator = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if weight.ndim > 1:
                bound = (1.5 / weight[0].numel()) ** 0.5
                weight.uniform_(-bound, bound, generator=generator)
            else:
                weight.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
    module.requires_grad_(False)
    freeze_convolutions(module, shared=False)
    return module.eval()


MODELS: dict[str, Callable[[torch.device, str], DiffusionModel]] = {WORLD: world, FULL: full}


@dataclass
class BenchHost:
    """A host that holds one model, as a webui does, and a folder for what a job leaves."""

    model: DiffusionModel
    folder: Path

    @property
    def output_dir(self) -> Path:
        return self.folder

    @property
    def log_dir(self) -> Path:
        return self.folder / "logs"

    def check_model(self, settings: ModelSettings) -> Detection:
        """See `Host.check_model`: there is but one."""
        del settings
        weights = sum(parameter.numel() for parameter in self.model.unet.parameters())
        return Detection(self.model.family, self.model.family.title, unet_weights=weights)

    @contextmanager
    def borrow(
        self, settings: ModelSettings, control: Control | None = None
    ) -> Iterator[DiffusionModel]:
        """See `Host.borrow`: it is loaded already."""
        del settings, control
        yield self.model

    def published(self, path: Path) -> None:
        """See `Host.published`."""

    def checkpoints(self) -> list[str]:
        """See `Host.checkpoints`."""
        return [self.model.origin.name]

    def vaes(self) -> list[str]:
        """See `Host.vaes`."""
        return []

    def loras(self) -> list[str]:
        """See `Host.loras`."""
        return []

    def loaded_checkpoint(self) -> str:
        """See `Host.loaded_checkpoint`."""
        return self.model.origin.name
