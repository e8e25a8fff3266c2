"""From the settings to a network and to the groups in which its weights are trained."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from ..models.model import DTYPES
from ..optim.optimizers import ParameterGroup
from ..settings.groups import NetworkSettings, OptimizerSettings
from ..settings.groups.network import block_values
from .dropout import Dropout
from .kinds import KINDS
from .network import Network
from .sizes import Sizes
from .targets import find_targets

TRAINED_IN = {**DTYPES, "fp16": torch.float32}
"""The dtype of the weights by network_precision.  float16 is for computing only: updates are
smaller than its steps, and their squares, which optimizers gather, smaller than its least number.

Source: Micikevicius et al. 2018, "Mixed Precision Training", section 3.1.
"""
FAST = "_fast"
"""Ends the name of a group of weights that LoRA+ gives a higher learning rate."""


def build_network(
    wanted: NetworkSettings,
    unet: nn.Module,
    text_encoders: Sequence[nn.Module],
    *,
    family: str,
    device: torch.device | None = None,
    generator: torch.Generator | None = None,
) -> Network:
    """A new network by the settings, not attached yet; it changes nothing until it is trained.

    Args:
        text_encoders: in the family's order; empty where they are not to be trained.
        family: decides how modules are named in the file.
        device: where its weights lie; None puts each beside its layer.
        generator: a CPU generator for the initial weights; None uses torch's own.

    Raises:
        BadInput: the choice holds no layer at all.
    """
    targets = find_targets(
        unet,
        text_encoders,
        family=family,
        blocks=wanted.blocks,
        element=wanted.element,
        convolutions=KINDS[wanted.network].convolutions,
    )
    return Network(
        targets,
        wanted.network,
        sizes_of(wanted),
        dropout=Dropout(wanted.network_dropout, wanted.rank_dropout, wanted.module_dropout),
        dtype=TRAINED_IN[wanted.network_precision],
        device=device,
        generator=generator,
    )


def sizes_of(wanted: NetworkSettings) -> Sizes:
    """Rank and alpha of every layer, as the settings say."""
    ranks = block_values(wanted.block_ranks)
    return Sizes(
        wanted.rank,
        wanted.alpha,
        conv_rank=wanted.conv_rank,
        conv_alpha=wanted.conv_alpha,
        block_ranks={block: int(rank) for block, rank in ranks.items()},
        block_alphas=block_values(wanted.block_alphas),
        factor=wanted.lokr_factor,
    )


def parameter_groups(network: Network, rates: OptimizerSettings) -> list[ParameterGroup]:
    """The network's weights by learning rate: UNet, text encoders, and the fast part of each.

    Source of the fast part: Hayou et al. 2024, LoRA+: Efficient Low Rank Adaptation of Large
    Models, section 4.
    """
    assert rates.text_encoder_learning_rate is not None  # it inherits learning_rate
    parts = (
        ("unet", network.unet_parameters(), rates.learning_rate),
        ("text_encoder", network.text_encoder_parameters(), rates.text_encoder_learning_rate),
    )
    if rates.lora_plus_ratio == 1.0:
        return [ParameterGroup(name, tuple(weights), rate) for name, weights, rate in parts]
    fast = {id(weight) for weight in network.fast_parameters()}
    groups = []
    for name, weights, rate in parts:
        slow_part = tuple(weight for weight in weights if id(weight) not in fast)
        fast_part = tuple(weight for weight in weights if id(weight) in fast)
        groups.append(ParameterGroup(name, slow_part, rate))
        groups.append(ParameterGroup(name + FAST, fast_part, rate * rates.lora_plus_ratio))
    return groups
