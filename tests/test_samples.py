"""Pictures drawn on the way: when, which, and that training does not notice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from trainer.api.runs import drawn_prompt
from trainer.control import Control
from trainer.events import Event, Sampled
from trainer.hosts.standalone import StandaloneHost
from trainer.models.model import DiffusionModel
from trainer.networks import kohya
from trainer.run import run_job
from trainer.settings.schema import parse

STEPS = 5


def train(checkpoint: Path, pictures: Path, out: Path, **values: Any) -> list[Event]:
    small = {"image_size_px": 64, "bucket_step_px": 0, "steps": STEPS, "batch_size": 1}
    job = {"method": "lora", "checkpoint": str(checkpoint), "images": str(pictures), **small}
    more = {"rank": 2, "seed": 1, "learning_rate": 1e-2, "save_preview": False, "name": "hat"}
    events: list[Event] = []
    host = StandaloneHost(checkpoint.parent, out, "cpu")
    settings = parse({**job, **more, "sample_denoise_steps": 2, **values})
    run_job(settings, host, control=Control(), sink=events.append)
    return events


def test_prompts_are_drawn_at_their_steps_and_the_training_is_the_same(
    tiny_checkpoint: Path, pictures: Path, tmp_path: Path
) -> None:
    events = train(
        tiny_checkpoint,
        pictures,
        tmp_path / "with",
        sample_prompts="a hat\n\n  a coat ",
        sample_every_steps=2,
    )
    drawn = [(e.step, e.prompt, e.path.name) for e in events if isinstance(e, Sampled)]
    assert drawn == [
        (step, prompt, f"{step:08d}-{number:02d}.png")
        for step in (2, 4, STEPS)
        for number, prompt in enumerate(("a hat", "a coat"))
    ]
    folder = tmp_path / "with" / "logs" / "samples" / "hat"
    assert sorted(path.name for path in folder.iterdir()) == [name for _, _, name in drawn]
    assert drawn_prompt(folder / "00000004-01.png") == "a coat"
    first, last = ((folder / f"{step:08d}-00.png").read_bytes() for step in (2, STEPS))
    assert first != last, "what was learnt in between is seen"
    train(tiny_checkpoint, pictures, tmp_path / "without")
    tensors = [kohya.load(tmp_path / out / "hat.safetensors")[0] for out in ("with", "without")]
    assert all(torch.equal(tensor, tensors[1][name]) for name, tensor in tensors[0].items())


def test_what_the_steps_do_not_need_is_set_aside_before_them_and_after_every_drawing(
    tiny_checkpoint: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    aside: list[tuple[str, ...]] = []

    def set_aside(model: DiffusionModel, *parts: torch.nn.Module) -> None:
        aside.append(tuple(type(part).__name__ for part in parts))

    monkeypatch.setattr(DiffusionModel, "set_aside", set_aside)
    drawn = {"sample_prompts": "a hat", "sample_every_steps": 3}
    train(tiny_checkpoint, pictures, tmp_path / "a", blocks="M00", **drawn)
    assert aside == [("AutoencoderKL", "CLIPTextModel")] * 3  # at the start, after steps 3 and 5
    aside.clear()
    train(tiny_checkpoint, pictures, tmp_path / "b", blocks="BASE,M00")
    assert aside == [("AutoencoderKL",)]  # the text encoder is trained


def test_weights_are_averaged_for_the_pictures_alone(
    tiny_checkpoint: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of a schedule-free optimizer: once is as much work as its whole step."""
    schedulefree = pytest.importorskip("schedulefree")
    averaged: list[int] = []
    evaluate = schedulefree.AdamWScheduleFree.eval
    monkeypatch.setattr(
        schedulefree.AdamWScheduleFree, "eval", lambda self: (averaged.append(1), evaluate(self))
    )
    plain = {"blocks": "M00", "optimizer": "AdamWScheduleFree", "lr_scheduler": "constant"}
    train(tiny_checkpoint, pictures, tmp_path / "without", **plain)
    at_the_end = len(averaged)
    assert at_the_end <= 2
    drawn = {"sample_prompts": "a hat", "sample_every_steps": 3}
    train(tiny_checkpoint, pictures, tmp_path / "with", **plain, **drawn)
    assert len(averaged) == 2 * at_the_end + 3  # at the first step, after steps 3 and 5


def test_a_new_run_removes_the_pictures_of_the_old_one_and_no_other(
    tiny_checkpoint: Path, pictures: Path, tmp_path: Path
) -> None:
    old = tmp_path / "logs" / "samples" / "hat" / "00000999-00.png"
    old.parent.mkdir(parents=True)
    mine = old.with_name("hat-1.png")
    for path in (old, mine):
        path.write_bytes(b"")
    train(tiny_checkpoint, pictures, tmp_path, sample_prompts="a hat", sample_every_steps=1000)
    names = [f"{STEPS:08d}-00.png", mine.name]
    assert sorted(path.name for path in old.parent.iterdir()) == names
