"""What every host does to lend a model: look at checkpoint and VAE, assemble as the job says."""

from __future__ import annotations

import traceback
from pathlib import Path

import torch

from ..diffusion.schedule import PredictionType
from ..errors import BadInput, Problem
from ..models.checkpoint import read_tensors
from ..models.detect import Detection, detect
from ..models.families import CONV_IN, Family
from ..models.ldm_names import VAE_PREFIX
from ..models.model import (
    DTYPES,
    DiffusionModel,
    Origin,
    assemble_model,
    compute_dtype,
    kept_in,
)
from ..models.prediction import chosen_prediction, chosen_zero_snr
from ..models.prompts import PromptStyle
from ..settings.groups import ModelSettings

Tensors = dict[str, torch.Tensor]


def let_go(error: BaseException | None) -> None:
    """Has an error, and those that it came from, hold nothing of what was computed meanwhile."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__


def trainable(name: str, found: Detection) -> Family:
    """The family of a checkpoint.

    Raises:
        BadInput: it is none that can be trained on.
    """
    if found.family is not None:
        return found.family
    what = f"{name} is {found.title}, which cannot be trained on: {found.reason}"
    raise BadInput([Problem("checkpoint", what, "choose a Stable Diffusion 1, 2 or XL checkpoint")])


def read_vae(path: Path) -> Tensors:
    """The tensors of a VAE file, or of the VAE in a checkpoint, named as in a VAE file.

    Raises:
        BadInput: the file cannot be read or holds no VAE.
    """
    tensors = read_tensors(path, "vae")
    inside = vae_part(tensors)
    if not inside:
        what = f"{path.name} holds no VAE but {detect(tensors).title}"
        raise BadInput([Problem("vae", what, "choose a VAE")])
    return inside


def vae_part(tensors: Tensors) -> Tensors:
    """The tensors of a checkpoint's VAE, named as in a VAE file; none if there is no VAE."""
    if "encoder.conv_in.weight" in tensors:
        return tensors
    cut = len(VAE_PREFIX)
    return {name[cut:]: t for name, t in tensors.items() if name.startswith(VAE_PREFIX)}


def assembled(
    settings: ModelSettings,
    tensors: Tensors,
    family: Family,
    device: torch.device,
    *,
    said: PredictionType | None,
    zero_snr: bool,
    clip_skip: int,
    vae: Tensors | None,
    origin: Origin,
    style: PromptStyle | None = None,
    shared: bool = True,
) -> DiffusionModel:
    """The model over a checkpoint's tensors, as a job's settings want it.

    Args:
        tensors: by their names in the checkpoint's file.
        said: what file or host say that it predicts; None: nothing.
        zero_snr: whether file or host say that its last step is pure noise.
        clip_skip: where the settings leave it to the host.
        vae: another VAE than the checkpoint's, named as in a VAE file.
        style: how prompts are read; None: as the webui does by default.
        shared: whether somebody else holds the tensors too.
    """
    stored = tensors[CONV_IN].dtype
    predicted = chosen_prediction(settings, said)
    return assemble_model(
        {n: t for n, t in tensors.items() if not n.startswith((VAE_PREFIX, "model_ema."))},
        family,
        device=device,
        dtype=compute_dtype(settings.base_precision, stored, device),
        storage=kept_in(settings.base_precision, stored, device),
        vae_dtype=DTYPES[settings.vae_precision],
        clip_skip=settings.clip_skip or clip_skip,
        prediction_type=predicted,
        zero_snr=chosen_zero_snr(settings, predicted, zero_snr),
        vae_tensors=vae_part(tensors) if vae is None else vae,
        origin=origin,
        style=style,
        shared=shared,
    )
