"""What a training step of a full-size model keeps for its backward pass, counted without computing.

The model lies on the meta device: every operation gives a shape and no numbers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import pytest
import torch
from diffusers import Transformer2DModel, UNet2DConditionModel
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from trainer.models.convolution import freeze_convolutions
from trainer.networks.network import Network
from trainer.networks.sizes import Sizes
from trainer.networks.targets import find_targets
from trainer.settings.groups import BLOCKS
from trainer.training.memory import keep_inputs

MIDDLE = "mid_block."
"""Where the name of what is left alone, if attention is checkpointed, begins."""


class FusedAttention(torch.autograd.Function):
    """Keeps what fused kernels keep: their inputs and their output, no matrix of weights.

    It has no backward pass: the step is counted, not made.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        output = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, output)
        return output


def kept_bytes(
    unet: UNet2DConditionModel, family: str, cells: int, patch: pytest.MonkeyPatch
) -> dict[str, int]:
    """Bytes kept by a sample of `cells` x `cells` latents, by the checkpointed parts ("": none)."""
    patch.setattr(
        torch.nn.functional,
        "scaled_dot_product_attention",
        lambda query, key, value, **how: FusedAttention.apply(query, key, value),
    )
    unet.requires_grad_(False).train()
    freeze_convolutions(unet, shared=True)
    for module in unet.modules():  # as autocast does
        if isinstance(module, nn.GroupNorm | nn.LayerNorm):
            module.float().register_forward_pre_hook(lambda module, given: (given[0].float(),))
        elif isinstance(module, nn.Linear | nn.Conv2d):
            module.register_forward_pre_hook(
                lambda module, given: (given[0].to(module.weight.dtype),)
            )
    _, by_unit = _pass(unet, family, cells)
    whole = sum(by_unit.values())
    keep_inputs(unet, False)
    inputs, by_unit = _pass(unet, family, cells)
    attention = {n for n in inputs if ".attentions." in n and not n.startswith(MIDDLE)}

    def kept(again: Collection[str]) -> int:
        """What is computed again keeps its input, and all of it in its turn."""
        rest = sum(size for name, size in by_unit.items() if name not in again)
        most = max((by_unit.get(name, 0) for name in again), default=0)
        return rest + sum(inputs[name] for name in again) + most

    return {"": whole, "attention": kept(attention), "all": kept(inputs)}


def _units(unet: UNet2DConditionModel) -> Iterator[nn.Module]:
    """What is computed again as a whole under gradient checkpointing."""
    for module in unet.modules():
        if isinstance(module, ResnetBlock2D):
            yield module
        elif isinstance(module, Transformer2DModel):
            blocks = module.transformer_blocks
            yield from [module] if len(blocks) == 1 else blocks


def _pass(
    unet: UNet2DConditionModel, family: str, cells: int
) -> tuple[dict[str, int], dict[str, int]]:
    """Bytes that go into each unit, and that each keeps ("": what lies in none)."""
    targets = find_targets(unet, [], family=family, blocks=BLOCKS)
    network = Network(targets, "lierla", Sizes(1, 1.0), dtype=unet.dtype, device="meta")
    weights = {p.untyped_storage()._cdata for p in (*unet.parameters(), *network.parameters())}
    seen: dict[int, Tensor] = {}
    by_unit: dict[str, int] = {}
    inputs: dict[str, int] = {}
    current: list[str] = [""]
    names = {id(module): name for name, module in unet.named_modules()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights and storage._cdata not in seen:
            seen[storage._cdata] = tensor
            by_unit[current[-1]] = by_unit.get(current[-1], 0) + storage.nbytes()
        return tensor

    def enter(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        current.append(names[id(module)])
        inputs[current[-1]] = given[0].nbytes

    def leave(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        current.pop()

    units = list(_units(unet))
    handles = [module.register_forward_pre_hook(enter) for module in units]
    handles += [module.register_forward_hook(leave) for module in units]
    told = {"dtype": unet.dtype, "device": "meta"}
    latents = torch.empty(1, 4, cells, cells, **told)
    context = torch.empty(1, 77, unet.config.cross_attention_dim, **told)
    added = {}
    if family == "sdxl":
        sizes = {"text_embeds": torch.empty(1, 1280, **told), "time_ids": torch.empty(1, 6, **told)}
        added = {"added_cond_kwargs": sizes}
    with network, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        unet(latents, torch.empty(1, device="meta"), context, **added)
    for handle in handles:
        handle.remove()
    return inputs, by_unit
