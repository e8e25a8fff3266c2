"""iLECO in its plainest form, as facts/traintrain.md describes the peer's: the yardstick.

One batch of pure noise is drawn before the loop and used at every step; timesteps are uniform; at
every step the frozen model is asked under the target prompt, and its answer is the label of the
trained prediction under the original prompt.
"""

from __future__ import annotations

import torch

from trainer.data.buckets import LATENT_CELL_PX
from trainer.diffusion.loss import denoising_loss, min_snr_weights
from trainer.diffusion.timesteps import sample_timesteps
from trainer.settings.groups import (
    ConceptSettings,
    LossSettings,
    PromptSettings,
    SizeSettings,
    TrainingSettings,
)
from trainer.training.encoding import frozen_encoder, prompt_encoder
from trainer.training.loop import Outcome
from trainer.training.session import Session

PRESET: dict[str, object] = {
    "rank": 4,
    "alpha": 8,
    "steps": 300,
    "batch_size": 2,
    "learning_rate": 5e-4,
    "lr_scheduler": "cosine",
    "min_snr_gamma": 5,
}
"""Its preset's numbers (facts/traintrain.md, shipped presets)."""


def train(session: Session) -> Outcome:
    model, loss_settings = session.model, session.settings[LossSettings]
    original = session.settings[PromptSettings].original_prompt
    target = session.settings[ConceptSettings].target_prompt
    height, width = session.settings[SizeSettings].image_size_px
    count = session.settings[TrainingSettings].batch_size
    network = session.new_network()
    encode = prompt_encoder(session, [original])
    label_context = frozen_encoder(session, [target])([target] * count)
    shape = (
        count,
        model.unet.config.in_channels,
        height // LATENT_CELL_PX,
        width // LATENT_CELL_PX,
    )
    latents = torch.randn(shape, generator=session.generator, device=model.device)
    weights = min_snr_weights(model.schedule, loss_settings.min_snr_gamma)

    def loss_of_next_batch() -> torch.Tensor:
        timesteps = sample_timesteps(
            count,
            loss_settings.min_timestep,
            loss_settings.max_timestep,
            generator=session.generator,
        )
        with torch.no_grad(), network.at(0.0):
            label = model.denoise(latents, timesteps, label_context)
        prediction = model.denoise(latents, timesteps, encode([original] * count))
        return denoising_loss(prediction, label, timesteps, weights, loss_settings.loss)

    with network:
        return session.fit(network, loss_of_next_batch)
