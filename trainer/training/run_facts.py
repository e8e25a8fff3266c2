"""What a run knows of itself, for the metadata of its files."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch

from ..data.variants import SEPARATOR
from ..data.views import View
from ..networks.facts import RunFacts, folder_facts
from ..networks.network import Network
from ..settings.groups import ModelSettings, PictureSettings, SizeSettings
from .loop import Loop
from .training_data import TrainingData

if TYPE_CHECKING:
    from .session import Session

MIXED_PRECISION = {torch.float16: "fp16", torch.bfloat16: "bf16"}
"""sd-scripts' names; anything else is "no"."""


def run_facts(
    session: Session, network: Network, loop: Loop, data: TrainingData | None
) -> RunFacts:
    """The facts at this moment of the run; `data` where it trains on pictures."""
    model = session.model
    folders, errors, regularising = [], [0.0], 0
    resolution_px = session.settings[SizeSettings].image_size_px
    if data is not None:
        # of each picture all that it may be trained under, as one list of tags
        captions = [
            SEPARATOR.join(session.captions.readings(image.caption, bare=True))
            for image in session.plan.images
        ]
        repeats = session.settings[PictureSettings].repeats
        folders = [folder_facts(session.plan.folder_name, captions, repeats)]
        errors = [_ratio_error(view) for view in data.dataset.views]
        regularising = sum(view.image.regularises for view in data.dataset.views)
    return RunFacts(
        family=model.family.name,
        predicts_velocity=model.schedule.prediction_type == "v_prediction",
        zero_terminal_snr=model.schedule.ends_in_noise,
        clip_skip=model.clip_skip,
        fp8_base=session.settings[ModelSettings].base_precision == "fp8",
        network=network.facts(),
        text_encoder_trained=session.trains_text_encoder,
        checkpoint_file=model.origin.name,
        checkpoint_sha256=model.origin.sha256,
        checkpoint_short_hash=model.origin.legacy_hash,
        vae_file=model.origin.vae_name,
        resolution_px=resolution_px,
        mixed_precision=MIXED_PRECISION.get(model.compute_dtype, "no"),
        seed=session.seed,
        folders=folders,
        buckets=session.plan.frames,
        regularising=regularising,
        mean_ratio_error=sum(errors) / len(errors),
        steps=loop.step,
        epoch=loop.epoch,
        epochs=loop.epoch_of(loop.training.steps),
        batches_per_epoch=data.order.batches_per_epoch if data else 0,
        started_at_s=session.beginning.started_s,
        finished_at_s=time.time(),
        session_id=session.beginning.session_id,
    )


def _ratio_error(view: View) -> float:
    """Difference between a picture's and its frame's width / height, as sd-scripts states it."""
    (height, width), (frame_height, frame_width) = view.image.size_px, view.frame_px
    return abs(width / height - frame_width / frame_height)
