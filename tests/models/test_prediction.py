"""What a checkpoint predicts: by its marks, by the settings, and by asking it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from trainer.diffusion.schedule import scaled_linear
from trainer.models.prediction import (
    chosen_prediction,
    chosen_zero_snr,
    marked_prediction,
    predicts_velocity,
)
from trainer.settings.groups import ModelSettings


@pytest.mark.parametrize(
    ("tensors", "metadata", "expected"),
    [
        ((), {}, None),
        (("v_pred",), {}, "v_prediction"),
        ((), {"modelspec.prediction_type": "v"}, "v_prediction"),
        ((), {"modelspec.prediction_type": "epsilon"}, "epsilon"),
        (("v_pred",), {"modelspec.prediction_type": "epsilon"}, "v_prediction"),
        ((), {"modelspec.prediction_type": "other"}, None),
    ],
)
def test_marks_of_a_file(tensors, metadata, expected) -> None:
    assert marked_prediction(tensors, metadata) == expected


@pytest.mark.parametrize("said", [None, "epsilon", "v_prediction"])
@pytest.mark.parametrize("wanted", ["auto", "epsilon", "v_prediction"])
def test_what_is_set_comes_before_what_is_said(said, wanted) -> None:
    settings = ModelSettings(checkpoint="x", prediction_type=wanted)
    assert chosen_prediction(settings, said) == (said if wanted == "auto" else wanted)


@pytest.mark.parametrize(
    ("wanted", "predicted", "said", "expected"),
    [
        ("auto", "v_prediction", True, True),
        ("auto", "v_prediction", False, False),
        ("auto", "epsilon", True, False),
        ("on", "v_prediction", False, True),
        ("off", "v_prediction", True, False),
    ],
)
def test_zero_terminal_snr(wanted, predicted, said, expected) -> None:
    settings = ModelSettings(checkpoint="x", zero_terminal_snr=wanted)
    assert chosen_zero_snr(settings, predicted, said) is expected


class Known(nn.Module):
    """A UNet that knows the picture behind every noise, and predicts as it is told to."""

    def __init__(self, predicts: str) -> None:
        super().__init__()
        self.config = SimpleNamespace(in_channels=4, cross_attention_dim=8)
        self.weight = nn.Parameter(torch.zeros(()))
        self.schedule = scaled_linear(predicts)  # type: ignore[arg-type]

    def forward(self, noisy, timesteps, context, return_dict=False):
        assert context.shape == (1, 77, 8)
        picture = torch.randn(noisy.shape, generator=torch.Generator().manual_seed(9))
        signal, sigma = self.schedule.scales(noisy, timesteps)
        return (self.schedule.target(picture, (noisy - signal * picture) / sigma, timesteps),)


@pytest.mark.parametrize("predicts", ["epsilon", "v_prediction"])
def test_a_model_shows_what_it_predicts(predicts: str) -> None:
    assert predicts_velocity(Known(predicts)) is (predicts == "v_prediction")
