from __future__ import annotations

import math

import pytest
import torch
from diffusers import DDPMScheduler

from trainer.diffusion.loss import Criterion, denoising_loss, huber_widths, min_snr_weights
from trainer.diffusion.schedule import scaled_linear
from trainer.diffusion.timesteps import sample_timesteps


def test_min_snr_follows_the_paper_on_diffusers_snr():
    reference = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    snr = reference.alphas_cumprod / (1 - reference.alphas_cumprod)
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


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        # width 0.1, differences 0.5 and 2: 2 c (sqrt(d^2 + c^2) - c), and the same over c
        ("Huber", 0.2 * ((0.26**0.5 - 0.1) + (4.01**0.5 - 0.1)) / 2),
        ("Pseudo-L1", 2 * ((0.26**0.5 - 0.1) + (4.01**0.5 - 0.1)) / 2),
    ],
)
def test_huber_is_its_formula(error, expected):
    target = torch.stack([torch.full((4, 2, 2), 0.5), torch.full((4, 2, 2), 2.0)])
    criterion = Criterion(error, torch.ones(2), torch.full((2,), 0.1))
    loss = criterion.loss(torch.zeros(2, 4, 2, 2), target, torch.tensor([0, 1]))
    assert loss.item() == pytest.approx(expected)


def test_huber_is_mse_for_small_errors_and_l1_for_large_ones():
    zeros, at = torch.zeros(1, 4, 2, 2), torch.tensor([0])
    criterion = Criterion("Huber", torch.ones(1), torch.ones(1))
    small, large = (criterion.loss(zeros, zeros + d, at).item() for d in (1e-2, 1e3))
    assert small == pytest.approx(1e-4, rel=1e-3)
    assert large == pytest.approx(2e3, rel=1e-2)


def test_huber_widths_follow_their_schedule():
    schedule = scaled_linear()
    sigmas = ((1 - schedule.alphas_cumprod) / schedule.alphas_cumprod).sqrt()
    widths = {how: huber_widths(schedule, 0.1, how) for how in ("constant", "exponential", "snr")}
    assert widths["constant"].tolist() == pytest.approx([0.1] * 1000)
    assert widths["exponential"][0] == 1
    assert widths["exponential"][500].item() == pytest.approx(0.1**0.5)
    torch.testing.assert_close(widths["snr"], 0.9 / (1 + sigmas) ** 2 + 0.1)
    assert widths["snr"][0] > 0.9 > 0.11 > widths["snr"][999]


@pytest.mark.parametrize("normalised", [True, False])
def test_a_mask_counts_by_its_proportions_or_as_it_is(normalised):
    prediction, target = torch.zeros(1, 4, 2, 2), torch.zeros(1, 4, 2, 2)
    target[..., 0, 0] = 2.0  # an error of 4 in one place of four, which alone counts
    mask = torch.zeros(1, 1, 2, 2)
    mask[..., 0, 0] = 1.0
    criterion = Criterion("MSE", torch.ones(1), torch.ones(1), normalised)
    loss = criterion.loss(prediction, target, torch.tensor([0]), mask)
    assert loss.item() == (4.0 if normalised else 1.0)


def test_timesteps_keep_their_range_and_reach_both_ends():
    generator = torch.Generator().manual_seed(0)
    drawn = sample_timesteps(4000, 200, 210, generator=generator)
    assert set(drawn.tolist()) == set(range(200, 210))


def test_timesteps_can_be_the_same_for_a_batch():
    generator = torch.Generator().manual_seed(0)
    drawn = [sample_timesteps(3, 0, 1000, generator=generator, same_for_all=True) for _ in "12"]
    assert all(len(set(d.tolist())) == 1 for d in drawn)
    assert drawn[0][0] != drawn[1][0]


def test_logit_normal_timesteps_have_their_median_where_the_shift_puts_it():
    # the median of a logistic function of N(shift, 1) is that function of the shift
    for shift in (-1.0, 0.0, 1.0):
        generator = torch.Generator().manual_seed(0)
        drawn = sample_timesteps(
            20_000, 100, 900, generator=generator, sampling="logit_normal", shift=shift
        )
        assert int(drawn.min()) >= 100 and int(drawn.max()) <= 899
        wanted = 100 + 800 / (1 + math.exp(-shift))
        assert float(drawn.float().median()) == pytest.approx(wanted, abs=8)
