"""Which noise levels a batch is trained on."""

from __future__ import annotations

import torch


def sample_timesteps(
    count: int,
    low: int,
    high: int,
    *,
    generator: torch.Generator,
    same_for_all: bool = False,
    sampling: str = "uniform",
    shift: float = 0.0,
) -> torch.Tensor:
    """Timesteps in low..high-1, int64 [count], on the generator's device.

    Args:
        same_for_all: one timestep for the whole batch.
        sampling: "uniform", or "logit_normal": the place in the range is the logistic function of
            a normal number.
        shift: of that number; above 0 more noise.

    Source: of the logit-normal one, Esser et al. 2024, section 3.1.
    """
    drawn = 1 if same_for_all else count
    if sampling == "logit_normal":
        normal = torch.randn(drawn, generator=generator, device=generator.device)
        places = torch.sigmoid(normal + shift)
        timesteps = (low + places * (high - low)).long().clamp(max=high - 1)
    else:
        timesteps = torch.randint(low, high, (drawn,), generator=generator, device=generator.device)
    return timesteps.expand(count)
