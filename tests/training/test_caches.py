"""A job whose pictures and captions lie on disk: found again, and encoded again where lost."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from trainer.control import Control
from trainer.data.tensor_store import prune
from trainer.events import Event, Notice, PhaseStarted, StepDone
from trainer.hosts.standalone import StandaloneHost
from trainer.models.model import DiffusionModel
from trainer.models.packing import STORAGES, PackedLinear
from trainer.models.stored_text import fingerprint
from trainer.networks import kohya
from trainer.run import run_job
from trainer.settings.schema import JobSettings, parse


def small_job(pictures: Path, name: str, **values: object) -> JobSettings:
    """A training of a few steps, the same at each name."""
    images = {} if "original_image" in values else {"images": str(pictures)}
    return parse(
        {
            "method": "lora",
            "checkpoint": "tiny",
            **images,
            "image_size_px": 64,
            "bucket_step_px": 0,
            "rank": 2,
            "blocks": "IN01",
            "seed": 7,
            "name": name,
            "save_preview": False,
            "save_precision": "fp32",
            **values,
        }
    )


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
        settings = small_job(pictures, name, steps=2, cache_memory_mb=cache_memory_mb)
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


def test_what_another_training_has_removed_is_encoded_again(
    tiny_checkpoint: Path, pictures: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    notices: list[str] = []

    def train(name: str, *, lose: bool) -> list[float]:
        losses: list[float] = []
        where = {"cache_memory_mb": 0, "cache_folder": str(cache)}
        settings = small_job(pictures, name, steps=4, **where)

        def hear(event: Event) -> None:
            if isinstance(event, Notice):
                notices.append(event.text)
            if isinstance(event, StepDone):
                losses.append(event.loss)
            if lose and isinstance(event, PhaseStarted) and event.title == "Training":
                prune(cache, 0, frozenset())
                assert not list(cache.rglob("*.safetensors"))

        host = StandaloneHost(tiny_checkpoint.parent, tmp_path / "out", "cpu")
        assert run_job(settings, host, control=Control(), sink=hear).steps == 4
        return losses

    wanted = train("whole", lose=False)
    assert notices == []
    found = train("robbed", lose=True)
    assert len(notices) == 2, "one file of pictures, one of captions"
    assert all("what it held is encoded again" in text for text in notices)
    assert found == pytest.approx(wanted, rel=1e-4), "the last digit depends on the batch"


def test_what_text_encoders_say_with_a_network_stays_out_of_the_cache(
    tiny_checkpoint: Path, pictures: Path, tmp_path: Path
) -> None:
    """A copier may be attached to them while the captions of the second pass are encoded."""

    def train(name: str, cache: str, **values: object) -> dict[str, torch.Tensor]:
        where = {"cache_memory_mb": 0, "cache_folder": str(tmp_path / cache)}
        images = [str(pictures / f"{number}.png") for number in range(2)]
        pair = dict(zip(("original_image", "target_image"), images, strict=True))
        common = {"original_prompt": "a cat", "steps": 3, "learning_rate": 0.01}
        settings = small_job(pictures, name, **pair, **common, **where, **values)
        host = StandaloneHost(tiny_checkpoint.parent, tmp_path / "out", "cpu")
        run_job(settings, host, control=Control(), sink=lambda event: None)
        return kohya.load(host.output_dir / f"{name}.safetensors")[0]

    copied = {"method": "difference", "blocks": "BASE", "second_pass": {"blocks": "IN01"}}
    wanted = train("plain", "plain", method="addift")
    before = train("before", "shared", **copied)
    found = train("after", "shared", method="addift")
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)
    again = train("again", "plain", **copied)
    assert all(torch.equal(again[key], before[key]) for key in before)


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
