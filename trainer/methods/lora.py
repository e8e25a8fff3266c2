"""LoRA from pictures: the network learns to denoise them under their captions."""

from __future__ import annotations

import torch

from ..diffusion.loss import denoising_loss, min_snr_weights
from ..diffusion.timesteps import sample_timesteps
from ..loop import Outcome
from ..session import Session
from ..settings.groups import LossSettings


def train(session: Session) -> Outcome:
    """Trains and saves the network.

    Raises:
        BadInput: a picture cannot be decoded, or a file to continue from does not fit.
        NotANumber: the loss became NaN.

    Source: Ho et al. 2020, eq. 14, with the weights of Hang et al. 2023.
    """
    model, settings = session.model, session.settings[LossSettings]
    data = session.encode_images()
    encode = session.prompt_encoder(data.dataset.captions)
    network = session.new_network()
    weights = min_snr_weights(model.schedule, settings.min_snr_gamma)

    def loss_of_next_batch() -> torch.Tensor:
        batch = data.dataset.batch(next(data.order))
        noise = torch.randn(batch.latents.shape, generator=session.generator, device=model.device)
        timesteps = sample_timesteps(
            len(noise),
            settings.min_timestep,
            settings.max_timestep,
            generator=session.generator,
            same_for_all=settings.fixed_timesteps_in_batch,
        )
        noisy = model.schedule.add_noise(batch.latents, noise, timesteps)
        prediction = model.denoise(noisy, timesteps, encode(batch.captions))
        target = model.schedule.target(batch.latents, noise, timesteps)
        return denoising_loss(prediction, target, timesteps, weights, settings.loss)

    with network:
        return session.fit(network, loss_of_next_batch, data=data)
