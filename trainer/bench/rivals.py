"""What our step is measured against: the bare UNet, and a plain peft + diffusers loop.

Each rival works on modules of its own over the same weights, so that nothing that it hooks or
replaces is seen by the others, and no weight exists twice.
"""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from diffusers import UNet2DConditionModel
from torch import nn

from ..models.convolution import take_over
from ..models.model import DiffusionModel
from ..models.text import Conditioning, PromptEncoder
from ..networks.network import Network
from ..networks.targets import Target

Step = Callable[[], object]
Module = TypeVar("Module", bound=nn.Module)

PEFT_KINDS = ("lierla", "c3lier")
"""Kinds of network that peft's LoRA makes as well."""


def same_weights(module: Module, instead: Mapping[int, object] | None = None) -> Module:
    """Another module over the very same parameters, without anyone's hooks.

    Args:
        instead: what takes the place of parts of it, by their `id`.
    """
    memo = {id(tensor): tensor for tensor in module.parameters()} | dict(instead or {})
    copied = copy.deepcopy(module, memo)
    for part in copied.modules():
        part._forward_hooks.clear()
        part._forward_pre_hooks.clear()
        vars(part).pop("forward", None)
    return copied


def plain_unet(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """The UNet as diffusers makes it, for the rivals: the weights that lie otherwise, copied."""
    convolutions = (layer for layer in unet.modules() if isinstance(layer, nn.Conv2d))
    return same_weights(unet, {id(layer): plain_convolution(layer) for layer in convolutions})


def plain_convolution(layer: nn.Conv2d) -> nn.Conv2d:
    """torch's own layer with the weight in its usual order."""
    with torch.device("meta"):
        plain = nn.Conv2d(layer.in_channels, layer.out_channels, 1)
    take_over(plain, layer)
    plain.weight = nn.Parameter(layer.weight.contiguous(), requires_grad=False)
    plain.bias = layer.bias
    return plain.eval()


def paths(root: nn.Module, targets: Sequence[Target]) -> list[str]:
    """Where inside `root` the targets' layers are; those of other models are left out."""
    wanted = {id(target.module) for target in targets}
    return [path for path, module in root.named_modules() if id(module) in wanted]


class Floor:
    """Forward and backward with gradients from the first trained layer on, and nothing else.

    Args:
        unet: as diffusers lays it out; the model's own tells which layers are trained.
        latents: [n, c, h, w], random ones of the step's size.
    """

    def __init__(
        self,
        model: DiffusionModel,
        unet: UNet2DConditionModel,
        network: Network,
        latents: torch.Tensor,
    ) -> None:
        self._latents = latents
        self._timesteps = torch.full((len(latents),), 500, device=model.device)
        encoders = [replace(e, model=same_weights(e.model)) for e in model.prompts.encoders]
        prompts = PromptEncoder(model.prompts.tokenizer, encoders)
        self._model = replace(model, unet=same_weights(unet), prompts=prompts)
        self._trains_text = bool(network.text_encoder_parameters())
        with torch.no_grad():
            self._told = self._encode()
        for own, copied in zip(model.text_encoders, self._model.text_encoders, strict=True):
            mark_first(copied, paths(own, network.targets), self._encode)
        mark_first(self._model.unet, paths(model.unet, network.targets), self.forward)

    def _encode(self) -> Conditioning:
        return self._model.encode_prompts([""] * len(self._latents))

    @torch.no_grad()
    def forward(self) -> torch.Tensor:
        """One forward pass without a graph: what a second prediction costs."""
        return self._model.denoise(self._latents, self._timesteps, self._told)

    def step(self) -> None:
        """Forward and backward."""
        told = self._encode() if self._trains_text else self._told
        self._model.denoise(self._latents, self._timesteps, told).square().mean().backward()


def mark_first(root: nn.Module, layers: Sequence[str], forward: Step) -> None:
    """Makes the output of the layer that is called first the place where the graph begins."""
    called: list[str] = []
    handles = [
        root.get_submodule(path).register_forward_hook(
            lambda _layer, _inputs, _output, path=path: called.append(path)  # type: ignore[misc]
        )
        for path in layers
    ]
    if not layers:
        return
    with torch.no_grad():
        forward()
    for handle in handles:
        handle.remove()
    root.get_submodule(called[0]).register_forward_hook(
        lambda _layer, _inputs, output: output.detach().requires_grad_(torch.is_grad_enabled())
    )


def has_peft() -> bool:
    """Whether the plain loop can be measured."""
    return importlib.util.find_spec("peft") is not None


class PlainLoop:
    """The step of diffusers' example scripts: peft's LoRA, AdamW, clipping, a constant rate."""

    def __init__(
        self,
        model: DiffusionModel,
        unet: UNet2DConditionModel,
        network: Network,
        latents: torch.Tensor,
        rank: int,
    ) -> None:
        """Puts peft's layers on the targets of `network` inside the UNet."""
        from diffusers import DDPMScheduler
        from peft import LoraConfig, inject_adapter_in_model

        self._latents = latents
        own = same_weights(unet)
        self._model = replace(model, unet=own)
        layers = paths(model.unet, network.targets)
        config = LoraConfig(r=rank, lora_alpha=rank, target_modules=layers)
        inject_adapter_in_model(config, own)
        self._parameters = [p for p in own.parameters() if p.requires_grad]
        for parameter in self._parameters:
            parameter.data = parameter.data.float()
        self._optimizer = torch.optim.AdamW(self._parameters, lr=1e-4)
        self._rates = torch.optim.lr_scheduler.LambdaLR(self._optimizer, lambda _: 1.0)
        self._schedule = DDPMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
        )
        with torch.no_grad():
            self._told = model.encode_prompts([""] * len(latents))

    def step(self) -> None:
        """One optimizer update."""
        noise = torch.randn_like(self._latents)
        timesteps = torch.randint(0, 1000, (len(noise),), device=noise.device)
        noisy = self._schedule.add_noise(self._latents, noise, timesteps)
        prediction = self._model.denoise(noisy, timesteps, self._told)
        loss = torch.nn.functional.mse_loss(prediction, noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self._optimizer.step()
        self._rates.step()
        self._optimizer.zero_grad()


def rivals(
    model: DiffusionModel,
    unet: UNet2DConditionModel,
    network: Network,
    latents: torch.Tensor,
    values: Mapping[str, object],
    *,
    forward: bool,
    plain: bool,
) -> dict[str, Step]:
    """Every rival's step: `floor`, `forward` (a loop without labels has it too), `plain`."""
    floor = Floor(model, unet, network, latents)
    found: dict[str, Step] = {"floor": floor.step}
    if forward:
        found["forward"] = floor.forward
    kind = values["network"]
    if plain and kind in PEFT_KINDS and has_peft() and not network.text_encoder_parameters():
        rank = int(str(values["rank"]))
        found["plain"] = PlainLoop(model, unet, network, latents, rank).step
    return found
