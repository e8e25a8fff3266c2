"""How much memory a training will take, before anything is loaded."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch

from ..models.convolution import reordering_pays
from ..models.detect import Detection
from ..models.model import compute_dtype
from ..models.packing import STORAGES
from ..networks.kinds import KINDS as NETWORKS
from ..networks.naming import BASE
from ..optim.kinds import KINDS as OPTIMIZERS
from ..settings.groups import (
    ModelSettings,
    NetworkSettings,
    OptimizerSettings,
    SizeSettings,
    TrainingSettings,
)
from ..settings.schema import JobSettings

CELL_PX = 8
TRAINED_BYTES = 4
"""Of every trained weight, of its gradient, and of each number that the optimizer keeps of it."""
ENCODED_PIXEL_BYTES = 4 * 128 * 4
"""Of every pixel that the VAE encodes: about four feature maps of 128 channels in float32."""
MARGIN = 1.1
"""For what libraries and the allocator need beside what is counted."""


@dataclass(frozen=True)
class Costs:
    """What a full-size model of a family costs; tests/training/test_estimate.py counts it."""

    unet_weights: int
    convolution_weights: int
    """Those of them that a CPU holds twice in bfloat16."""
    text_weights: int
    unet_weights_a_rank: int
    """Of a network on all attention and feed-forward layers."""
    text_weights_a_rank: int
    resnet_weights_a_rank: int
    """Of one for convolutions, beside those: on layers of the resnets without a kernel."""
    kernel_weights_a_rank: int
    """The same, on the convolutions that have one and their own rank."""
    kept_bytes: tuple[int, int]
    """Of every latent cell, kept for the backward pass: in float32, and in half precision."""
    kept_bytes_checkpointed: Mapping[str, tuple[int, int]]
    """The same, for each choice of the checkpointed parts."""


COSTS: Mapping[str, Costs] = {
    "sd1": Costs(
        *(859_520_964, 569_674_240, 123_060_480, 423_936, 165_888, 82_880, 544_000),
        (447_800, 295_200),
        {"attention": (114_000, 91_300), "all": (73_300, 41_800)},
    ),
    "sd2": Costs(
        *(865_910_724, 544_893_440, 340_387_840, 432_128, 423_936, 82_880, 544_000),
        (447_800, 295_200),
        {"attention": (114_000, 91_300), "all": (73_300, 41_800)},
    ),
    "sdxl": Costs(
        *(2_567_463_684, 328_624_640, 816_081_920, 2_659_840, 903_168, 58_560, 355_840),
        (828_700, 514_800),
        {"attention": (200_000, 138_400), "all": (80_600, 45_400)},
    ),
}


def peak_mb(
    settings: JobSettings, found: Detection, frames_px: Collection[tuple[int, int]] = ()
) -> float:
    """About how much memory the device needs at most, the model's weights included.

    Args:
        found: what the checkpoint is; its family must be known.
        frames_px: (height, width) of the samples; empty: the size that is set.

    Raises:
        ValueError: nobody knows the family.
    """
    if found.family is None:
        raise ValueError(f"{found.title} cannot be trained on")
    costs = COSTS[found.family.name]
    model, network = settings[ModelSettings], settings[NetworkSettings]
    training = settings[TrainingSettings]
    share = found.unet_weights / costs.unet_weights if found.unet_weights else 1.0
    computed = compute_dtype(model.base_precision, torch.float16, _device())
    half = computed is not torch.float32
    a_number = torch.empty(0, dtype=computed).element_size()
    a_weight = 1 if model.base_precision in STORAGES else a_number
    with_text = BASE in network.blocks
    weights = (costs.unet_weights + with_text * costs.text_weights) * share * a_weight
    if _device().type == "cpu" and computed is torch.bfloat16 and reordering_pays():
        weights += costs.convolution_weights * share * a_number
    # What a layer keeps, and what a rank holds, grows with its width, its weights with the square.
    narrow = math.sqrt(share)
    numbers = 2 + OPTIMIZERS[settings[OptimizerSettings].optimizer].keeps
    trained = _trained_weights(costs, network) * narrow * numbers * TRAINED_BYTES
    frames_px = frames_px or (settings[SizeSettings].image_size_px,)
    pixels = max(height * width for height, width in frames_px)
    kept = costs.kept_bytes
    if training.gradient_checkpointing:
        kept = costs.kept_bytes_checkpointed[training.checkpointed_parts]
    step = kept[half] * narrow * pixels / CELL_PX**2 * training.batch_size
    encoding = ENCODED_PIXEL_BYTES * narrow * pixels
    return (weights + trained + max(step, encoding)) * MARGIN / 2**20


def _trained_weights(costs: Costs, network: NetworkSettings) -> int:
    """Of a network on every layer that its kind trains; a LoKr has fewer, by its factor."""
    kind = NETWORKS[network.network]
    a_rank = costs.unet_weights_a_rank
    if BASE in network.blocks:
        a_rank += costs.text_weights_a_rank
    kernels = 0
    if kind.convolutions:
        a_rank += costs.resnet_weights_a_rank
        kernels = costs.kernel_weights_a_rank * (network.conv_rank or network.rank)
    return kind.products * (a_rank * network.rank + kernels)


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
