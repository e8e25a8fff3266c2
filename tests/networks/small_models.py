"""Small models with random weights, in the layouts of SD1, SD2 and SDXL, and full-size ones."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass

import torch
from diffusers import UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from tests.modules import END, FULL_UNETS, START, tiny_modules
from trainer.networks.kinds import KINDS
from trainer.networks.network import Network
from trainer.networks.sizes import Sizes
from trainer.networks.targets import Target, find_targets
from trainer.settings.groups import BLOCKS


@dataclass
class Model:
    """The modules of one checkpoint."""

    family: str
    unet: UNet2DConditionModel
    text_encoders: list[nn.Module]

    def targets(self, convolutions: bool = False, **chosen: object) -> list[Target]:
        chosen = {"blocks": BLOCKS, **chosen}
        return find_targets(
            self.unet,
            self.text_encoders,
            family=self.family,
            convolutions=convolutions,
            **chosen,  # type: ignore[arg-type]
        )

    def network(self, kind: str = "lierla", **options: object) -> Network:
        of_sizes = {field.name for field in dataclasses.fields(Sizes)}
        sizes = {"rank": 4, "alpha": 2.0} | {k: v for k, v in options.items() if k in of_sizes}
        others = {k: v for k, v in options.items() if k not in of_sizes}
        targets = self.targets(convolutions=KINDS[kind].convolutions)
        return Network(targets, kind, Sizes(**sizes), **others)  # type: ignore[arg-type]

    def noise_pred(self, seed: int = 0, requires_grad: bool = False) -> torch.Tensor:
        """The UNet's output for a fixed random input [2, 4, 16, 8]."""
        drawn = torch.Generator().manual_seed(seed)
        latents = torch.randn(2, 4, 16, 8, generator=drawn)
        states = torch.randn(2, 7, self.unet.config.cross_attention_dim, generator=drawn)
        added = {}
        if self.family == "sdxl":
            pooled = torch.randn(2, self.text_encoders[1].config.projection_dim, generator=drawn)
            sizes = torch.tensor([[64.0, 32, 0, 0, 64, 32]] * 2)
            added = {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": sizes}}
        steps = torch.tensor([10, 900])
        with torch.set_grad_enabled(requires_grad):
            return self.unet(latents, steps, states, **added).sample

    def text_states(self, which: int = 0) -> torch.Tensor:
        ids = torch.tensor([[START, *range(1, 40), END]])
        with torch.no_grad():
            return self.text_encoders[which](ids).last_hidden_state


def small_model(family: str) -> Model:
    unet, _, encoders = tiny_modules(1, family)
    for module in (unet, *encoders):
        module.requires_grad_(False)
    return Model(family, unet, list(encoders))


@functools.cache
def shared_model(family: str) -> Model:
    """A small model for tests that leave it as it is, as every detached network does."""
    return small_model(family)


def full_model(family: str) -> Model:
    """The full-size module tree on the meta device: every name and shape, no memory."""
    sizes = {
        "sd1": [(768, 12, 12)],
        "sd2": [(1024, 23, 16)],
        "sdxl": [(768, 12, 12), (1280, 32, 20)],
    }
    with torch.device("meta"):
        unet = UNet2DConditionModel(**FULL_UNETS[family])
        encoders: list[nn.Module] = [
            CLIPTextModel(
                CLIPTextConfig(
                    hidden_size=width,
                    intermediate_size=4 * width,
                    num_hidden_layers=layers,
                    num_attention_heads=heads,
                )
            )
            for width, layers, heads in sizes[family]
        ]
    return Model(family, unet, encoders)


def trained(network: Network, seed: int = 3, size: float = 0.05) -> Network:
    """The network as if it had been trained: no weight is zero."""
    drawn = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in network.parameters():
            weight += size * torch.randn(weight.shape, generator=drawn).to(weight)
    return network
