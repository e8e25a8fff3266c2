"""Noise schedule, targets and sampling against diffusers' schedulers."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from trainer.diffusion.sampling import sample_guided, sample_latents
from trainer.diffusion.schedule import scaled_linear, zero_terminal_snr

OF_SD1 = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
}


@pytest.fixture
def sample():
    torch.manual_seed(0)
    timesteps = torch.tensor([0, 1, 499, 999])
    return torch.randn(4, 4, 8, 8), torch.randn(4, 4, 8, 8), timesteps


def test_alphas_are_those_of_stable_diffusion():
    expected = DDPMScheduler(**OF_SD1)
    torch.testing.assert_close(
        scaled_linear().alphas_cumprod, expected.alphas_cumprod, atol=1e-6, rtol=1e-5
    )
    torch.testing.assert_close(scaled_linear().betas, expected.betas, atol=1e-6, rtol=1e-3)


def test_noisy_latents_and_velocity(sample):
    latents, noise, timesteps = sample
    expected = DDPMScheduler(**OF_SD1)
    ours = scaled_linear()
    torch.testing.assert_close(
        ours.add_noise(latents, noise, timesteps),
        expected.add_noise(latents, noise, timesteps),
        atol=1e-5,
        rtol=0,
    )
    torch.testing.assert_close(
        ours.velocity(latents, noise, timesteps),
        expected.get_velocity(latents, noise, timesteps),
        atol=1e-5,
        rtol=0,
    )


def test_target_follows_the_prediction_type(sample):
    latents, noise, timesteps = sample
    assert scaled_linear("epsilon").target(latents, noise, timesteps) is noise
    velocity = scaled_linear("v_prediction")
    assert torch.equal(
        velocity.target(latents, noise, timesteps), velocity.velocity(latents, noise, timesteps)
    )


def test_a_perfect_denoiser_is_sampled_back_to_its_picture():
    """With the true noise as prediction, DDIM must arrive at the latents it was made from."""
    schedule = scaled_linear()
    torch.manual_seed(0)
    latents, noise = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)

    def denoise(x, timesteps, context):
        alphas = schedule.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
        both = torch.cat([latents, latents])
        return (x - alphas.sqrt() * both) / (1 - alphas).sqrt()

    context = torch.zeros(2, 77, 8)
    found = sample_latents(denoise, schedule, context, context, noise, steps=20)
    torch.testing.assert_close(found, latents, atol=0.1, rtol=0)


def test_guidance_is_the_published_formula():
    """Source: Ho & Salimans 2022: negative + scale * (positive - negative), one DDIM step."""
    schedule = scaled_linear()
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))

    def denoise(x, timesteps, context):
        return x * context.mean((1, 2)).view(-1, 1, 1, 1)

    positive, negative = torch.full((1, 2, 2), 0.5), torch.full((1, 2, 2), 0.25)
    found = sample_latents(
        denoise, schedule, positive, negative, noise, steps=1, guidance_scale=3.0
    )
    reference = DDIMScheduler(**OF_SD1, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    reference.set_timesteps(1)
    prediction = noise * (0.25 + 3.0 * (0.5 - 0.25))
    expected = reference.step(prediction, reference.timesteps[0], noise).prev_sample
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)


def test_zero_terminal_snr_equals_diffusers():
    """Source: rescale_zero_terminal_snr of diffusers' DDIMScheduler (Lin et al. 2024)."""
    reference = DDIMScheduler(**OF_SD1, rescale_betas_zero_snr=True)
    found = zero_terminal_snr(scaled_linear("v_prediction"))
    torch.testing.assert_close(found.alphas_cumprod, reference.alphas_cumprod, atol=1e-5, rtol=1e-3)
    assert found.snr[-1] == 0
    assert found.prediction_type == "v_prediction"


def test_zero_terminal_snr_is_drawn_from_pure_noise_on():
    """Source: DDIMScheduler with trailing timesteps, as Lin et al. 2024, section 3.3, ask for."""
    reference = DDIMScheduler(
        **OF_SD1,
        rescale_betas_zero_snr=True,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=False,
    )
    reference.set_timesteps(4)
    told: list[int] = []

    def denoise(latents, timesteps):
        told.append(int(timesteps[0]))
        return latents * 0.5

    noise = expected = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    schedule = zero_terminal_snr(scaled_linear("v_prediction"))
    found = sample_guided(denoise, schedule, noise, steps=4, guidance_scale=1.0)
    for timestep in reference.timesteps:
        expected = reference.step(expected * 0.5, timestep, expected).prev_sample
    assert told == reference.timesteps.tolist() == [999, 749, 499, 249]
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)
