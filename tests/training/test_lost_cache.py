"""A training whose cache on disk goes while it runs, as when another one makes room."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer.control import Control
from trainer.data.tensor_store import prune
from trainer.events import Event, Notice, PhaseStarted, StepDone
from trainer.hosts.standalone import StandaloneHost
from trainer.run import run_job
from trainer.settings.schema import parse


def test_what_another_training_has_removed_is_encoded_again(
    tiny_checkpoint: Path, pictures: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    notices: list[str] = []

    def train(name: str, *, lose: bool) -> list[float]:
        losses: list[float] = []
        settings = parse(
            {
                "method": "lora",
                "checkpoint": "tiny",
                "images": str(pictures),
                "image_size_px": 64,
                "bucket_step_px": 0,
                "steps": 4,
                "rank": 2,
                "blocks": "IN01",
                "seed": 7,
                "name": name,
                "save_preview": False,
                "save_precision": "fp32",
                "cache_memory_mb": 0,
                "cache_folder": str(cache),
            }
        )

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
