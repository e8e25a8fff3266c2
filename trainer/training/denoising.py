"""The step that every training on pictures makes: noise is added, and the model finds it again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from ..diffusion.loss import Criterion
from ..diffusion.noise import perturbed, training_noise
from ..diffusion.timesteps import sample_timesteps
from ..models import text
from ..models.text import Conditioning
from ..settings.groups import LossSettings, MaskWeightSettings, NoiseSettings
from .labels import Samples, joined
from .training_data import PictureBatch

if TYPE_CHECKING:
    from .session import Session


class Denoising:
    """Noisy samples of clean latents, and the errors of the model's answers to them."""

    def __init__(self, session: Session, encode: Callable[[Sequence[str]], Conditioning]) -> None:
        """Args: encode: the samples' prompts."""
        self._model = session.model
        self._generator = session.generator
        self._settings = session.settings[LossSettings]
        self._noise = session.settings.get(NoiseSettings)
        self._criterion = Criterion.of(
            session.model.schedule,
            self._settings,
            normalised_mask=session.settings.get(MaskWeightSettings).normalise_mask,
        )
        self._encode = encode

    def noisy(self, batch: PictureBatch) -> Samples:
        """The batch with noise of levels drawn anew, and what the model should answer.

        Source: Ho et al. 2020, eq. 14.
        """
        latents = batch.latents
        schedule, settings = self._model.schedule, self._settings
        noise = training_noise(latents, self._noise, self._generator)
        timesteps = sample_timesteps(
            len(noise),
            settings.min_timestep,
            settings.max_timestep,
            generator=self._generator,
            same_for_all=settings.fixed_timesteps_in_batch,
            sampling=settings.timestep_sampling,
            shift=settings.timestep_shift,
        )
        added = perturbed(noise, self._noise.input_perturbation, self._generator)
        noisy = schedule.add_noise(latents, added, timesteps)
        target = schedule.target(latents, noise, timesteps)
        return Samples(
            noisy, timesteps, target, batch.captions, batch.mask, batch.framings, batch.weights
        )

    def errors(self, *parts: Samples) -> list[torch.Tensor]:
        """Weighted errors of the model's answers, float32 [n] of each part.

        Parts whose latents and prompts are of one shape go through the UNet together.
        """
        told = [self._encode(part.prompts) for part in parts]
        shapes = {
            (part.latents.shape[1:], one.context.shape[1:])
            for part, one in zip(parts, told, strict=True)
        }
        if len(shapes) > 1:
            return [self._errors(part, one) for part, one in zip(parts, told, strict=True)]
        together = self._errors(joined(parts), text.joined(told))
        return list(together.split([len(part) for part in parts]))

    def _errors(self, samples: Samples, told: Conditioning) -> torch.Tensor:
        told = told.framed(samples.framings)
        prediction = self._model.denoise(samples.latents, samples.timesteps, told)
        errors = self._criterion.errors(prediction, samples.labels, samples.timesteps, samples.mask)
        return errors if samples.weights is None else errors * samples.weights
