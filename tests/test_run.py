"""A job from its settings to its files, and what is said when the memory runs out."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from PIL import Image

from trainer.control import Control
from trainer.errors import BadInput
from trainer.events import Event, Notice, StepDone
from trainer.grid import draw_grid
from trainer.hosts.standalone import StandaloneHost
from trainer.measure import measure_step
from trainer.networks import kohya
from trainer.run import OutOfMemory, out_of_memory, run_job
from trainer.settings.grid import parse_grid
from trainer.settings.schema import JobSettings, parse
from trainer.training.plan import make_plan
from trainer.training.unfinished import stopped_at


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


def stopped(settings: JobSettings, host: StandaloneHost, at: int, owner: str = "") -> Path:
    """Trains to a step and stops there; returns the folder of its states."""
    control = Control()

    def listen(event: Event) -> None:
        if isinstance(event, StepDone) and event.step == at:
            control.stop()

    run_job(settings, host, control=control, sink=listen, owner=owner)
    return host.log_dir / "states" / "hat"


@pytest.mark.parametrize("folder", ["out", "out/logs/states"])
def test_locks_of_trainings_that_were_killed_go_with_the_next_one(
    folder: str, host, pictures, tmp_path
) -> None:
    left = tmp_path / folder / ".killed.lock"
    left.parent.mkdir(parents=True)
    left.write_text(f"1234567 {platform.node()}")
    run_job(job(pictures, steps=1), host, control=Control(), sink=ignore)
    assert not list(left.parent.glob(".*"))


def test_what_a_training_of_the_name_has_learnt_is_lost_only_with_overwrite(host, pictures) -> None:
    folder = stopped(job(pictures), host, 1)
    step = stopped_at(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    log = (host.log_dir / "hat.csv").read_bytes()
    with pytest.raises(BadInput, match=f"unfinished; it was saved at step {step} - .*hat-2"):
        run_job(job(pictures), host, control=Control(), sink=ignore)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert (host.log_dir / "hat.csv").read_bytes() == log
    steps: list[int] = []

    def listen(event: Event) -> None:
        if isinstance(event, StepDone):
            steps.append(event.step)

    run_job(job(pictures, overwrite=True), host, control=Control(), sink=listen)
    assert steps == [1, 2, 3, 4, 5, 6]
    assert not folder.exists()


def test_a_queues_job_goes_on_from_its_own_state_alone(host, pictures) -> None:
    step = stopped_at(stopped(job(pictures), host, 1, owner="1-one"))
    with pytest.raises(BadInput, match="another training of that name"):
        run_job(job(pictures), host, control=Control(), sink=ignore, resume=True, owner="2-two")
    notes: list[str] = []

    def listen(event: Event) -> None:
        if isinstance(event, Notice):
            notes.append(event.text)

    run_job(job(pictures), host, control=Control(), sink=listen, resume=True, owner="1-one")
    assert notes == [f"Going on after step {step}"]


def test_whoever_names_the_training_goes_on_with_any_and_leaves_it_its_owner(
    host, pictures
) -> None:
    longer = job(pictures, steps=30)
    stopped(longer, host, 1, owner="1-one")
    control = Control()

    def stop_again(event: Event) -> None:
        if isinstance(event, StepDone) and event.step > 10:
            control.stop()

    run_job(longer, host, control=control, sink=stop_again, resume=True)
    with pytest.raises(BadInput, match="another training of that name"):
        run_job(longer, host, control=Control(), sink=ignore, resume=True, owner="2-two")
    run_job(longer, host, control=Control(), sink=ignore, resume=True, owner="1-one")
    assert (host.output_dir / "hat.safetensors").exists()


def test_a_queues_job_may_begin_anew_in_place_of_its_own_state(host, pictures) -> None:
    stopped(job(pictures), host, 1, owner="1-one")
    with pytest.raises(BadInput, match="unfinished"):
        run_job(job(pictures), host, control=Control(), sink=ignore, owner="2-two")
    outcome = run_job(job(pictures), host, control=Control(), sink=ignore, owner="1-one")
    assert outcome.steps == 6


def test_a_job_that_cannot_begin_anew_keeps_its_state(host, pictures, tmp_path) -> None:
    folder = stopped(job(pictures), host, 1, owner="1-one")
    step = stopped_at(folder)
    gone = job(tmp_path / "a drive that is not there")
    with pytest.raises(BadInput, match="does not exist"):
        run_job(gone, host, control=Control(), sink=ignore, owner="1-one")
    assert stopped_at(folder) == step


def test_states_that_cannot_be_read_are_not_cleared(host, pictures) -> None:
    folder = stopped(job(pictures), host, 1)
    (state,) = folder.glob("*.safetensors")
    state.write_bytes(state.read_bytes()[:100])
    with pytest.raises(BadInput, match="none of them can be read.*move that folder away"):
        run_job(job(pictures), host, control=Control(), sink=ignore, resume=True)
    assert state.stat().st_size == 100


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("MPS backend out of memory (MPS allocated: 8.01 GB, max allowed: 9.07 GB)"),
        MemoryError(),
    ],
)
def test_memory_that_runs_out_is_answered(host, pictures, monkeypatch, error) -> None:
    @contextmanager
    def borrow(*_: object) -> Iterator[None]:
        raise error
        yield

    settings = job(pictures, batch_size=4)
    plan = make_plan(settings, host)
    monkeypatch.setattr(host, "borrow", borrow)
    for work in (
        lambda: run_job(settings, host, control=Control(), sink=ignore),
        lambda: measure_step(settings, plan, host),
    ):
        with pytest.raises(OutOfMemory) as refused:
            work()
        said = str(refused.value)
        cures = ("gradient_checkpointing", "batch_size from 4", "base_precision", "image_size_px")
        assert all(cure in said for cure in cures)
        assert ("2.00 GiB" in said) is ("2.00 GiB" in str(error))


def test_a_grid_that_needs_more_memory_says_so(host, tmp_path, monkeypatch) -> None:
    @contextmanager
    def borrow(*_: object) -> Iterator[None]:
        raise RuntimeError("MPS backend out of memory (MPS allocated: 8.01 GB)")
        yield

    monkeypatch.setattr("trainer.grid.check_grid", lambda settings, host: None)
    monkeypatch.setattr(host, "borrow", borrow)
    grid = parse_grid({"checkpoint": "tiny", "loras": "hat", "prompts": "a hat"})
    with pytest.raises(OutOfMemory, match="lower size_px"):
        draw_grid(grid, host, control=Control(), sink=ignore)


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
