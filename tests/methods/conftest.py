"""A job of every method on the tiny checkpoint, small enough for a second or two."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from trainer.control import Control
from trainer.events import Event
from trainer.hosts.standalone import StandaloneHost
from trainer.run import run_job
from trainer.settings.schema import parse
from trainer.training.loop import Outcome

SMALL = {
    "image_size_px": 64,
    "steps": 3,
    "batch_size": 2,
    "rank": 2,
    "alpha": 2,
    "blocks": "IN01,IN04,M00,OUT05",
    "seed": 7,
    "save_precision": "fp32",
}
FRAMES = {"bucket_step_px": 0}


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Two pairs, `0` and `0_after`, `1` and `1_after`, the second wider; captions beside them."""
    folder = tmp_path / "pairs"
    folder.mkdir()
    for number, size in enumerate(((64, 64), (96, 64))):
        before = Image.new("RGB", size, (200, 40 * number, 30))
        after = before.copy()
        ImageDraw.Draw(after).rectangle((0, 0, 15, 15), fill="blue")
        before.save(folder / f"{number}.png")
        after.save(folder / f"{number}_after.png")
        (folder / f"{number}.txt").write_text(f"caption {number}", "utf-8")
    return folder


@pytest.fixture
def jobs(tiny_checkpoint: Path, pictures: Path, pairs: Path) -> dict[str, dict[str, object]]:
    """The smallest sensible job of every method."""
    common = {**SMALL, "checkpoint": str(tiny_checkpoint)}
    one_pair = {
        "original_image": str(pairs / "0.png"),
        "target_image": str(pairs / "0_after.png"),
        "batch_size": 1,
        **FRAMES,
    }
    return {
        "lora": {**common, **FRAMES, "images": str(pictures)},
        "ileco": {
            **common,
            "original_prompt": "red",
            "target_prompt": "blue",
            "pool_size": 8,
            "pool_denoise_steps": 4,
        },
        "difference": {**common, **one_pair},
        "addift": {**common, **one_pair},
        "multi_addift": {**common, **FRAMES, "images": str(pairs), "pair_suffix": "_after"},
    }


@pytest.fixture
def run(
    tmp_path: Path, jobs: dict[str, dict[str, object]]
) -> Callable[..., tuple[Path, Outcome, list[Event]]]:
    """Trains a method with some settings changed; gives the file, the outcome and the events."""

    def train(
        method: str, *, control: Control | None = None, **changes: object
    ) -> tuple[Path, Outcome, list[Event]]:
        settings = parse({**jobs[method], "method": method, "name": method, **changes})
        events: list[Event] = []
        out = tmp_path / "out"
        host = StandaloneHost(tmp_path, out, "cpu")
        outcome = run_job(settings, host, control=control or Control(), sink=events.append)
        return out / f"{settings.values['name']}.safetensors", outcome, events

    return train
