"""Facts about a model in parts."""

from __future__ import annotations

import pytest
import torch

from trainer.models.model import compute_dtype

CPU, GPU = torch.device("cpu"), torch.device("cuda")
FP32, FP16, BF16, FP8 = torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn


@pytest.mark.parametrize(
    ("precision", "stored", "device", "computed"),
    [
        ("auto", FP16, GPU, FP16),
        ("auto", FP32, GPU, FP32),
        ("auto", BF16, GPU, BF16),
        ("auto", FP8, GPU, FP16),
        ("auto", FP16, CPU, FP32),
        ("auto", BF16, CPU, FP32),
        ("auto", FP16, torch.device("mps"), FP32),
        ("bf16", FP32, CPU, BF16),
        ("fp32", FP16, GPU, FP32),
    ],
)
def test_what_is_computed_in(monkeypatch, precision, stored, device, computed) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 6))
    assert compute_dtype(precision, stored, device) is computed


def test_a_gpu_without_bfloat16_computes_in_float32(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert compute_dtype("auto", BF16, GPU) is FP32
