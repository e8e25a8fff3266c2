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
) -> torch.Tensor:
    """Uniform timesteps in low..high-1, int64 [count], on the generator's device.

    Args:
        same_for_all: one timestep for the whole batch.
    """
    drawn = 1 if same_for_all else count
    timesteps = torch.randint(low, high, (drawn,), generator=generator, device=generator.device)
    return timesteps.expand(count)
