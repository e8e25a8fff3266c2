"""Drawing by DDIM, checked against the closed form of a model that knows the clean picture."""

from __future__ import annotations

import pytest
import torch

from trainer.diffusion.loss import denoising_loss, min_snr_weights
from trainer.diffusion.schedule import scaled_linear
from trainer.diffusion.trajectory import ddim_step, trajectory


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_a_model_that_knows_the_picture_follows_the_forward_process(kind: str) -> None:
    schedule = scaled_linear(kind)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    clean = torch.randn(3, 4, 2, 2, generator=generator)
    noise = torch.randn(3, 4, 2, 2, generator=generator)
    now, later = torch.tensor([900, 500, 20]), torch.tensor([700, 100, 3])
    noisy = schedule.add_noise(clean, noise, now)
    stepped = ddim_step(schedule, noisy, schedule.target(clean, noise, now), now, later)
    torch.testing.assert_close(stepped, schedule.add_noise(clean, noise, later))


def test_timesteps_fall_and_cover_the_schedule_part_by_part() -> None:
    schedule = scaled_linear()
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(64, 4, 1, 1, generator=generator)
    path = list(trajectory(lambda x, t: x, schedule, noise, steps=5, generator=generator))
    assert len(path) == 5
    assert torch.equal(path[0][0], noise)
    for part, (latents, timesteps) in enumerate(path):
        assert latents.shape == noise.shape
        low = 1000 - 200 * (part + 1)
        assert ((timesteps >= low) & (timesteps < low + 200)).all()
        assert len(timesteps.unique()) > 30


def test_a_mask_chooses_which_errors_count_and_keeps_the_scale() -> None:
    schedule = scaled_linear()
    weights, timesteps = min_snr_weights(schedule, 0), torch.tensor([10])
    target = torch.zeros(1, 4, 2, 2)
    prediction = torch.zeros(1, 4, 2, 2)
    prediction[..., 0, 0] = 2.0  # error 4 in one of four places
    inside = torch.zeros(1, 1, 2, 2)
    inside[..., 0, 0] = 1
    losses = [
        float(denoising_loss(prediction, target, timesteps, weights, mask=mask))
        for mask in (None, inside, 1 - inside, torch.full((1, 1, 2, 2), 0.3))
    ]
    assert losses == pytest.approx([1.0, 4.0, 0.0, 1.0])
