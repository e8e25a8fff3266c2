"""Weights of noise levels, against their formulas on diffusers' signal-to-noise ratios."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDPMScheduler

from trainer.diffusion.schedule import scaled_linear, zero_terminal_snr
from trainer.diffusion.weighting import loss_weights
from trainer.settings.groups import LossSettings


@pytest.fixture(scope="module")
def snr() -> torch.Tensor:
    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    return scheduler.alphas_cumprod / (1 - scheduler.alphas_cumprod)


def weights(prediction_type: str = "epsilon", **settings: object) -> torch.Tensor:
    return loss_weights(scaled_linear(prediction_type), LossSettings(**settings))


def test_min_snr_is_the_default(snr: torch.Tensor) -> None:
    torch.testing.assert_close(weights(), snr.clamp(max=5) / snr, atol=1e-5, rtol=1e-3)


def test_debiased_weights_take_the_place_of_min_snr(snr: torch.Tensor) -> None:
    found = weights(debiased_estimation=True)
    torch.testing.assert_close(found, 1 / snr.clamp(max=1000).sqrt(), atol=1e-5, rtol=1e-3)
    found = weights("v_prediction", debiased_estimation=True)
    torch.testing.assert_close(found, 1 / (snr.clamp(max=1000) + 1), atol=1e-5, rtol=1e-3)


def test_a_velocity_can_be_weighed_like_a_noise(snr: torch.Tensor) -> None:
    on = {"scale_velocity_loss": True, "min_snr_gamma": 0}
    clipped = snr.clamp(max=1000)
    wanted = clipped / (clipped + 1)
    torch.testing.assert_close(weights("v_prediction", **on), wanted, atol=1e-5, rtol=1e-3)
    assert torch.equal(weights("epsilon", **on), torch.ones(1000))
    # the definition: the noise that follows from a velocity is off by sqrt(a) times as much
    schedule = scaled_linear("v_prediction")
    latents, noise, wrong = torch.randn(3, 1, 4, 2, 2, dtype=torch.float64).unbind(0)
    at = torch.tensor([600])
    velocity = schedule.velocity(latents, noise, at)
    signal, sigma = schedule.scales(latents, at)
    noisy = schedule.add_noise(latents, noise, at)
    as_noise = signal * (velocity + wrong) + sigma * noisy
    ratio = (as_noise - noise).square() / wrong.square()
    torch.testing.assert_close(ratio, wanted[600].double().expand_as(ratio), atol=1e-6, rtol=1e-4)


def test_a_velocitys_loss_can_be_added(snr: torch.Tensor) -> None:
    clipped = snr.clamp(max=1000)
    wanted = 1 + 0.5 / (clipped / (clipped + 1))
    found = weights(velocity_like_loss=0.5, min_snr_gamma=0)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"debiased_estimation": True},
        {"scale_velocity_loss": True},
        {"velocity_like_loss": 1.0},
    ],
)
def test_pure_noise_at_the_end_gives_no_infinite_weight(settings: dict[str, object]) -> None:
    schedule = zero_terminal_snr(scaled_linear("v_prediction"))
    assert bool(torch.isfinite(loss_weights(schedule, LossSettings(**settings))).all())
