"""A job from its settings to its files, and what is said when the memory runs out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from PIL import Image

from trainer.control import Control
from trainer.events import Event, StepDone
from trainer.hosts.standalone import StandaloneHost
from trainer.networks import kohya
from trainer.run import OutOfMemory, out_of_memory, run_job
from trainer.settings.schema import JobSettings, parse


@pytest.fixture
def host(tiny_checkpoint: Path, tmp_path: Path) -> StandaloneHost:
    return StandaloneHost(tiny_checkpoint.parent, tmp_path / "out", "cpu")


def job(pictures: Path, **changes: object) -> JobSettings:
    raw: dict[str, object] = {
        "method": "lora",
        "checkpoint": "tiny",
        "images": str(pictures),
        "image_size_px": 64,
        "min_length_px": 64,
        "steps": 6,
        "rank": 2,
        "seed": 7,
        "name": "hat",
        "trigger_word": "ohwx",
        "save_preview": False,
        "save_precision": "fp32",
    }
    return parse(raw | changes)


def ignore(event: Event) -> None:
    del event


def test_a_result_has_card_and_picture(host, pictures) -> None:
    run_job(job(pictures, steps=1, save_preview=True), host, control=Control(), sink=ignore)
    card = json.loads((host.output_dir / "hat.json").read_text("utf-8"))
    assert card["activation text"] == "ohwx"
    assert card["sd version"] == "SD1"
    assert card["preferred weight"] == 1.0
    with Image.open(host.output_dir / "hat.png") as picture:
        assert picture.size == (64, 64)


def test_what_a_user_wrote_on_the_card_stays(host, pictures) -> None:
    host.output_dir.mkdir(parents=True)
    (host.output_dir / "hat.json").write_text('{"negative text": "blurry", "sd version": "SDXL"}')
    run_job(job(pictures, steps=1), host, control=Control(), sink=ignore)
    card = json.loads((host.output_dir / "hat.json").read_text("utf-8"))
    assert card["negative text"] == "blurry"
    assert card["sd version"] == "SD1"


def test_a_job_that_was_killed_goes_on_to_the_same_file(host, pictures, tmp_path) -> None:
    whole = StandaloneHost(host.models_dir, tmp_path / "whole", "cpu")
    run_job(job(pictures), whole, control=Control(), sink=ignore)

    class Killed(BaseException):
        pass

    def die(event: Event) -> None:
        if isinstance(event, StepDone) and event.step == 5:
            raise Killed

    settings = job(pictures, save_state_every_steps=2)
    with pytest.raises(Killed):
        run_job(settings, host, control=Control(), sink=die)
    assert not (host.output_dir / "hat.safetensors").exists()
    steps: list[int] = []

    def listen(event: Event) -> None:
        if isinstance(event, StepDone):
            steps.append(event.step)

    run_job(settings, host, control=Control(), sink=listen, resume=True)
    assert steps == [5, 6], "the last state was that of step 4"
    tensors, _ = kohya.load(host.output_dir / "hat.safetensors")
    wanted, _ = kohya.load(whole.output_dir / "hat.safetensors")
    assert all(torch.equal(tensors[name], wanted[name]) for name in wanted)
    assert not list((host.log_dir / "states").rglob("*.safetensors")), "needed no more"


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
)
def test_memory_that_runs_out_is_answered(host, pictures, monkeypatch, error) -> None:
    @contextmanager
    def borrow(*_: object) -> Iterator[None]:
        raise error
        yield

    monkeypatch.setattr(host, "borrow", borrow)
    with pytest.raises(OutOfMemory) as refused:
        run_job(job(pictures, batch_size=4), host, control=Control(), sink=ignore)
    said = str(refused.value)
    for cure in ("gradient_checkpointing", "batch_size from 4", "base_precision", "image_size_px"):
        assert cure in said
    assert ("2.00 GiB" in said) is ("2.00 GiB" in str(error))


@pytest.mark.parametrize(
    ("on", "parts", "cure"),
    [
        (False, "attention", "switch gradient_checkpointing on"),
        (True, "attention", "set checkpointed_parts to all"),
        (True, "all", None),
    ],
)
def test_checkpointing_is_advised_step_by_step(pictures, on, parts, cure) -> None:
    settings = job(pictures, gradient_checkpointing=on, checkpointed_parts=parts)
    said = out_of_memory(settings, MemoryError())
    assert cure in said if cure else "checkpoint" not in said


def test_other_errors_pass(host, pictures, monkeypatch) -> None:
    @contextmanager
    def borrow(*_: object) -> Iterator[None]:
        raise RuntimeError("a fault of ours")
        yield

    monkeypatch.setattr(host, "borrow", borrow)
    with pytest.raises(RuntimeError, match="a fault of ours"):
        run_job(job(pictures), host, control=Control(), sink=ignore)
