from __future__ import annotations

import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr

from trainer.diffusion.loss import denoising_loss, min_snr_weights
from trainer.diffusion.schedule import scaled_linear
from trainer.diffusion.timesteps import sample_timesteps


def test_min_snr_follows_the_paper_on_diffusers_snr():
    reference = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    snr = compute_snr(reference, torch.arange(1000))
    epsilon = torch.minimum(snr, torch.full_like(snr, 5.0)) / snr
    velocity = torch.minimum(snr, torch.full_like(snr, 5.0)) / (snr + 1)
    torch.testing.assert_close(min_snr_weights(scaled_linear(), 5.0), epsilon, atol=1e-5, rtol=1e-3)
    torch.testing.assert_close(
        min_snr_weights(scaled_linear("v_prediction"), 5.0), velocity, atol=1e-5, rtol=1e-3
    )


def test_gamma_zero_weighs_nothing():
    assert torch.equal(min_snr_weights(scaled_linear(), 0.0), torch.ones(1000))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        # differences 0.5 and 2 over one sample each; Smooth-L1 with beta 1: d^2/2 below 1
        ("MSE", (0.25 * 1.0 + 4.0 * 0.5) / 2),
        ("L1", (0.5 * 1.0 + 2.0 * 0.5) / 2),
        ("Smooth-L1", (0.125 * 1.0 + 1.5 * 0.5) / 2),
    ],
)
def test_loss_is_the_weighted_mean_of_the_samples(error, expected):
    prediction = torch.zeros(2, 4, 2, 2)
    target = torch.stack([torch.full((4, 2, 2), 0.5), torch.full((4, 2, 2), 2.0)])
    weights = torch.tensor([1.0, 0.5])
    loss = denoising_loss(prediction, target, torch.tensor([0, 1]), weights, error)
    assert loss.item() == pytest.approx(expected)


def test_timesteps_keep_their_range_and_reach_both_ends():
    generator = torch.Generator().manual_seed(0)
    drawn = sample_timesteps(4000, 200, 210, generator=generator)
    assert set(drawn.tolist()) == set(range(200, 210))


def test_timesteps_can_be_the_same_for_a_batch():
    generator = torch.Generator().manual_seed(0)
    drawn = [sample_timesteps(3, 0, 1000, generator=generator, same_for_all=True) for _ in "12"]
    assert all(len(set(d.tolist())) == 1 for d in drawn)
    assert drawn[0][0] != drawn[1][0]
