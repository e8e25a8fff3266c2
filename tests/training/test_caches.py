"""A job whose pictures and captions lie on disk: a second one encodes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from trainer.control import Control
from trainer.events import Event
from trainer.hosts.standalone import StandaloneHost
from trainer.models.model import DiffusionModel
from trainer.models.packing import STORAGES, PackedLinear
from trainer.models.stored_text import fingerprint
from trainer.networks import kohya
from trainer.run import run_job
from trainer.settings.schema import parse


def test_a_second_job_encodes_nothing(
    tiny_checkpoint: Path, pictures: Path, tmp_path: Path, monkeypatch
) -> None:
    asked = {"encode_pixels": 0, "encode_prompts": 0}
    for name in asked:
        encode = getattr(DiffusionModel, name)

        def counting(self, given, name=name, encode=encode):
            asked[name] += len(given)
            return encode(self, given)

        monkeypatch.setattr(DiffusionModel, name, counting)

    def train(name: str, cache_memory_mb: int) -> dict[str, torch.Tensor]:
        asked.update(dict.fromkeys(asked, 0))
        settings = parse(
            {
                "method": "lora",
                "checkpoint": "tiny",
                "images": str(pictures),
                "image_size_px": 64,
                "bucket_step_px": 0,
                "steps": 2,
                "rank": 2,
                "blocks": "IN01",
                "seed": 7,
                "name": name,
                "save_preview": False,
                "save_precision": "fp32",
                "cache_memory_mb": cache_memory_mb,
            }
        )
        host = StandaloneHost(tiny_checkpoint.parent, tmp_path / "out", "cpu")
        events: list[Event] = []
        run_job(settings, host, control=Control(), sink=events.append)
        return kohya.load(host.output_dir / f"{name}.safetensors")[0]

    wanted = train("memory", 512)
    assert asked == {"encode_pixels": 4, "encode_prompts": 5}  # and the empty prompt
    assert not list((tmp_path / "out").rglob("cache"))
    for name, encoded in (("first", (4, 5)), ("second", (0, 0))):
        found = train(name, 0)
        assert tuple(asked.values()) == encoded
        assert all(torch.equal(found[key], wanted[key]) for key in wanted)


def test_a_fingerprint_tells_weights_apart() -> None:
    torch.manual_seed(0)
    one, same, other = (torch.nn.Linear(400, 400) for _ in range(3))
    same.load_state_dict(one.state_dict())
    other.load_state_dict(one.state_dict())
    with torch.no_grad():
        other.weight.add_(1e-3 * torch.randn(400, 2) @ torch.randn(2, 400))  # as a LoRA does
    assert fingerprint([one]) == fingerprint([same])
    assert fingerprint([one]) != fingerprint([other])
    assert fingerprint([one]) != fingerprint([one.bfloat16()])


@pytest.mark.parametrize("name", list(STORAGES))
def test_a_fingerprint_tells_weights_in_8_bits_apart(name: str) -> None:
    torch.manual_seed(0)
    layer, other = torch.nn.Linear(64, 64), torch.nn.Linear(64, 64)
    other.bias = layer.bias  # a LoRA that was worked into a checkpoint leaves the biases alone
    one, same, merged = (
        PackedLinear(linear, STORAGES[name], torch.float32) for linear in (layer, layer, other)
    )
    assert fingerprint([one]) == fingerprint([same])
    assert fingerprint([one]) != fingerprint([merged])
