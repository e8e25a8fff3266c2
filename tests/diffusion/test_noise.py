"""The kinds of noise, against their formulas and their statistics."""

from __future__ import annotations

import pytest
import torch

from trainer.diffusion.noise import offset_noise, perturbed, pyramid_noise, training_noise
from trainer.settings.groups import NoiseSettings

SHAPE = (4, 4, 32, 24)


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def latents(value: float = 0.0) -> torch.Tensor:
    return torch.full(SHAPE, value)


def test_plain_noise_is_what_it_was() -> None:
    found = training_noise(latents(), NoiseSettings(), drawn())
    assert torch.equal(found, torch.randn(SHAPE, generator=drawn()))


def test_an_offset_is_one_number_for_each_channel_of_each_sample() -> None:
    noise = torch.randn(SHAPE, generator=drawn())
    added = offset_noise(noise, latents(), 0.5, 0.0, drawn(1)) - noise
    wanted = 0.5 * torch.randn((4, 4, 1, 1), generator=drawn(1))
    torch.testing.assert_close(added, wanted.expand(SHAPE), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("scale", "deviation"), [(0.1, 0.5 + 0.2), (-0.1, 0.5 - 0.2), (-1.0, 0.0)])
def test_an_adaptive_offset_follows_the_latents_mean(scale: float, deviation: float) -> None:
    noise = torch.zeros(SHAPE)
    found = offset_noise(noise, latents(-2.0), 0.5, scale, drawn(1))
    wanted = deviation * torch.randn((4, 4, 1, 1), generator=drawn(1))
    torch.testing.assert_close(found, wanted.expand(SHAPE))


def test_coarse_noise_keeps_unit_deviation_and_moves_it_to_large_structures() -> None:
    plain = torch.randn((64, 4, 32, 32), generator=drawn())
    found = pyramid_noise(plain, 6, 0.8, drawn(1))
    assert float(found.std()) == pytest.approx(1, abs=1e-4)

    def of_quarters(noise: torch.Tensor) -> float:
        """Deviation of the means of 16 x 16 cells; 1/16 for independent noise."""
        return float(torch.nn.functional.avg_pool2d(noise, 16).std())

    assert of_quarters(plain) == pytest.approx(1 / 16, rel=0.1)
    assert of_quarters(found) > 3 / 16


def test_one_size_of_coarse_noise_is_noise_of_the_same_size() -> None:
    noise = torch.randn(SHAPE, generator=drawn())
    both = noise + torch.randn(SHAPE, generator=drawn(1))
    torch.testing.assert_close(pyramid_noise(noise, 1, 0.3, drawn(1)), both / both.std())


def test_perturbation_is_more_noise_of_gammas_deviation() -> None:
    noise = torch.zeros(64, 4, 32, 32)
    assert perturbed(noise, 0.0, drawn()) is noise
    assert float(perturbed(noise, 0.1, drawn()).std()) == pytest.approx(0.1, rel=0.01)
