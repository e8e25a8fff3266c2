"""Small tensors on their way to a GPU; there is none here, so torch is listened to."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from trainer.data.transfer import to_device
from trainer.models.text import Conditioning
from trainer.training.labels import Samples


def test_on_a_cpu_a_tensor_is_what_it_was() -> None:
    tensor = torch.tensor([3, 1])
    assert to_device(tensor, "cpu") is tensor


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, bool]]:
    """Of each copy to a GPU, whether it was of pinned memory and did not block; none is made."""
    found: list[tuple[bool, bool]] = []
    pinned: set[int] = set()
    to = torch.Tensor.to

    def pin(tensor: torch.Tensor) -> torch.Tensor:
        pinned.add(id(tensor))
        return tensor

    def listen(tensor: torch.Tensor, *args: Any, non_blocking: bool = False) -> torch.Tensor:
        if args and getattr(args[0], "type", "") == "cuda":
            found.append((id(tensor) in pinned, non_blocking))
            return tensor
        return to(tensor, *args)

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    monkeypatch.setattr(torch.Tensor, "to", listen)
    return found


def test_a_gpu_is_not_waited_for(copies: list[tuple[bool, bool]]) -> None:
    to_device(torch.ones(2), torch.device("cuda", 0))
    assert copies == [(True, True)]


class _OnGpu(torch.Tensor):
    device = torch.device("cuda", 0)  # type: ignore[assignment]


def test_what_a_step_is_told_waits_for_no_gpu(copies: list[tuple[bool, bool]]) -> None:
    there = torch.zeros(2, 4, 8, 8).as_subclass(_OnGpu)
    told = Conditioning(torch.zeros(2, 77, 8).as_subclass(_OnGpu), torch.zeros(2, 8))
    assert told.sizes_px((8, 8)).tolist() == [[64, 64, 0, 0, 64, 64]] * 2
    samples = Samples(there, torch.arange(2), there, ("a", "b"))
    assert samples.take([1, 0]).prompts == ("b", "a")
    assert copies == [(True, True)] * 2
