"""OpenCLIP's text transformer from its published description, to check the assembled one with."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch.nn import functional as F

Tensors = Mapping[str, torch.Tensor]
Norm = Callable[[torch.Tensor], torch.Tensor]


@torch.no_grad()
def openclip_states(
    tensors: Tensors, prefix: str, ids: torch.Tensor, heads: int
) -> tuple[list[torch.Tensor], Norm, torch.Tensor]:
    """The output of every layer, the final norm, and the projected state of the end mark.

    Pre-norm blocks with a causal mask and exact GELU; the projection is multiplied from the right.

    Source: Radford et al. 2021, section 2.4, and the layout of the open_clip files.
    """
    own = {n[len(prefix) :]: t for n, t in tensors.items() if n.startswith(prefix)}
    width = own["ln_final.weight"].shape[0]
    x = own["token_embedding.weight"][ids] + own["positional_embedding"]
    mask = torch.full((77, 77), float("-inf")).triu(1)
    layers = []

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.layer_norm(x, (width,), own[f"{name}.weight"], own[f"{name}.bias"])

    while (block := f"transformer.resblocks.{len(layers)}.") + "ln_1.weight" in own:
        attention = torch.nn.MultiheadAttention(width, heads, batch_first=True)
        held = {n[len(block) + 5 :]: t for n, t in own.items() if n.startswith(block + "attn.")}
        attention.load_state_dict(held)
        normed = norm(x, block + "ln_1")
        x = x + attention(normed, normed, normed, need_weights=False, attn_mask=mask)[0]
        inner = F.linear(
            norm(x, block + "ln_2"), own[block + "mlp.c_fc.weight"], own[block + "mlp.c_fc.bias"]
        )
        x = x + F.linear(
            F.gelu(inner), own[block + "mlp.c_proj.weight"], own[block + "mlp.c_proj.bias"]
        )
        layers.append(x)

    def final(x: torch.Tensor) -> torch.Tensor:
        return norm(x, "ln_final")

    if "text_projection" not in own:
        return layers, final, torch.empty(0)
    end = final(x)[torch.arange(len(ids)), ids.argmax(-1)]
    return layers, final, end @ own["text_projection"]
