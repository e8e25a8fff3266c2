"""What a checkpoint predicts, noise or velocity, and whether its last step is pure noise."""

from __future__ import annotations

from collections.abc import Container, Mapping

import torch
from diffusers import UNet2DConditionModel

from ..diffusion.schedule import TRAIN_TIMESTEPS, PredictionType
from ..settings.groups import ModelSettings

VELOCITY_MARK, ZERO_SNR_MARK = "v_pred", "ztsnr"
"""Tensors, empty or not, that mark such a model among its own."""
MODELSPEC: Mapping[str, PredictionType] = {"v": "v_prediction", "epsilon": "epsilon"}
"""Values of a file's modelspec.prediction_type."""
PROBE_CELLS = 32
NOISE_SHARE = 0.5
"""Between a correlation near 1 with the noise, and one near 0."""


def marked_prediction(
    tensors: Container[str], metadata: Mapping[str, str]
) -> PredictionType | None:
    """What a file says of itself, by a tensor's name or in its metadata; None: nothing."""
    if VELOCITY_MARK in tensors:
        return "v_prediction"
    return MODELSPEC.get(metadata.get("modelspec.prediction_type", ""))


def chosen_prediction(
    settings: ModelSettings, said: PredictionType | None
) -> PredictionType | None:
    """What the model predicts: as set, or as file or host say of it."""
    if settings.prediction_type == "auto":
        return said
    return "epsilon" if settings.prediction_type == "epsilon" else "v_prediction"


def chosen_zero_snr(settings: ModelSettings, predicted: PredictionType | None, said: bool) -> bool:
    """Whether the model's last step is pure noise: as set, or as file or host say of it.

    What they say of a model that predicts the noise is passed over, because it cannot be true.
    """
    if settings.zero_terminal_snr == "auto":
        return said and predicted == "v_prediction"
    return settings.zero_terminal_snr == "on"


@torch.no_grad()
def predicts_velocity(unet: UNet2DConditionModel) -> bool:
    """Asks a UNet what it predicts, where its file does not say.

    At the noisiest step nearly all of the latents is noise.  A model that predicts the noise gives
    its input back; one that predicts the velocity gives what it takes for the picture, negated,
    which has nothing to do with the input.
    """
    parameter = next(unet.parameters())
    drawn = torch.Generator().manual_seed(0)
    noise = torch.randn(1, unet.config.in_channels, PROBE_CELLS, PROBE_CELLS, generator=drawn)
    noise = noise.to(parameter.device, parameter.dtype)
    context = noise.new_zeros(1, 77, unet.config.cross_attention_dim)
    last = torch.full((1,), TRAIN_TIMESTEPS - 1, device=parameter.device)
    answer = unet(noise, last, context, return_dict=False)[0]
    correlation = torch.corrcoef(torch.stack([answer.flatten(), noise.flatten()]).float())[0, 1]
    return not bool(correlation > NOISE_SHARE)
