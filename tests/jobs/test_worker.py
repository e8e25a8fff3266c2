from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from trainer.control import Control, Request
from trainer.errors import BadInput, Problem
from trainer.events import Event, Notice, PhaseProgress, PhaseStarted, Saved, Sink, StepDone
from trainer.jobs.job import Job, JobState, Progress
from trainer.jobs.queue_file import QueueError
from trainer.jobs.store import JobStore
from trainer.jobs.worker import Listener, Run, Worker

TIMEOUT_S = 10.0
STEP = StepDone(
    step=1,
    total_steps=5,
    epoch=0,
    loss=0.25,
    smoothed_loss=0.5,
    learning_rate=1e-4,
    text_encoder_learning_rate=None,
    elapsed_s=1.0,
    steps_per_s=1.0,
    left_s=4.0,
)


class Trainer:
    """A `run` that takes a step each time it is let, and notes what it was asked to do."""

    def __init__(self) -> None:
        self.steps = threading.Semaphore(0)
        self.begun = threading.Semaphore(0)
        self.ran: list[tuple[str, Request]] = []
        self.most_at_once = 0
        self._at_once = 0

    def __call__(self, job: Job, control: Control, sink: Sink) -> None:
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        self.begun.release()
        request = Request.CONTINUE
        for step in range(1, 6):
            assert self.steps.acquire(timeout=TIMEOUT_S)
            request = control.checkpoint()
            if request is not Request.CONTINUE:
                break
            sink(replace(STEP, step=step))
        if request is not Request.STOP:
            sink(Saved(Path(f"{job.name}.safetensors"), step=5, final=True))
        self.ran.append((job.name, request))
        self._at_once -= 1

    def wait_begun(self) -> None:
        assert self.begun.acquire(timeout=TIMEOUT_S)

    def let(self, steps: int = 1000) -> None:
        self.steps.release(steps)


@pytest.fixture
def store(tmp_path: Path) -> JobStore:
    return JobStore(tmp_path / "jobs.sqlite")


@pytest.fixture
def trainer() -> Iterator[Trainer]:
    trainer = Trainer()
    yield trainer
    trainer.let()


def add(store: JobStore, *names: str) -> list[int]:
    return [store.add({"method": "lora", "name": name}).id for name in names]


def states(store: JobStore) -> list[tuple[str, str]]:
    return [(job.name, job.state.value) for job in store.jobs()]


def work_off(store: JobStore, run: Run, listener: Listener | None = None) -> None:
    worker = Worker(store, run, listener)
    assert worker.start()
    assert worker.wait(TIMEOUT_S)


def test_the_queue_is_worked_off_in_order(store: JobStore, trainer: Trainer) -> None:
    add(store, "one", "two")
    trainer.let()
    work_off(store, trainer)
    assert states(store) == [("one", "done"), ("two", "done")]
    assert [name for name, _ in trainer.ran] == ["one", "two"]
    job = store.jobs()[0]
    assert job.files == (Path("one.safetensors"),)
    assert job.progress == Progress("", 5, 5, 0.5, None)
    assert job.created_s <= (job.started_s or 0.0) <= (job.finished_s or 0.0)


def test_a_job_added_while_another_runs_has_its_turn(store: JobStore, trainer: Trainer) -> None:
    add(store, "one")
    worker = Worker(store, trainer)
    worker.start()
    trainer.wait_begun()
    add(store, "two")
    trainer.let()
    assert worker.wait(TIMEOUT_S)
    assert states(store) == [("one", "done"), ("two", "done")]
    add(store, "three")
    assert worker.start()
    assert worker.wait(TIMEOUT_S)
    assert states(store)[2] == ("three", "done")


@pytest.mark.parametrize(
    ("failure", "error"),
    [
        (ValueError("odd"), "ValueError: odd"),
        (BadInput([Problem("rank", "0 is too small", "give 1 or more")]), "rank: 0 is too small"),
        (SystemExit(3), "SystemExit: 3"),
        (MemoryError(), "MemoryError"),
    ],
)
def test_a_job_that_raises_fails_and_the_next_one_runs(
    store: JobStore, failure: BaseException, error: str
) -> None:
    def run(job: Job, control: Control, sink: Sink) -> None:
        if job.name == "bad":
            raise failure

    add(store, "bad", "good")
    work_off(store, run)
    assert states(store) == [("bad", "failed"), ("good", "done")]
    assert store.jobs()[0].error.startswith(error)


def test_stop_ends_the_job_at_its_step_and_leaves_the_queue(
    store: JobStore, trainer: Trainer
) -> None:
    add(store, "one", "two")
    worker = Worker(store, trainer)
    worker.start()
    trainer.wait_begun()
    assert worker.stop()
    assert worker.stop()
    assert worker.status.stopping
    trainer.let()
    assert worker.wait(TIMEOUT_S)
    assert states(store) == [("one", "cancelled"), ("two", "queued")]
    assert trainer.ran == [("one", Request.STOP)]
    assert not worker.stop()
    assert store.jobs()[0].files == ()


def test_stop_and_save_makes_a_result_and_a_second_stop_makes_none(
    store: JobStore, trainer: Trainer
) -> None:
    add(store, "kept", "dropped")
    worker = Worker(store, trainer)
    for then in (True, False):
        worker.start()
        trainer.wait_begun()
        worker.stop(save=True)
        worker.stop(save=then)
        trainer.let(1)
        assert worker.wait(TIMEOUT_S)
    assert states(store) == [("kept", "done"), ("dropped", "cancelled")]


def test_a_stop_that_comes_after_the_result_does_not_cancel_it(store: JobStore) -> None:
    def run(job: Job, control: Control, sink: Sink) -> None:
        sink(Saved(Path("a.safetensors"), step=5, final=True))
        worker.stop()

    add(store, "one")
    worker = Worker(store, run)
    worker.start()
    assert worker.wait(TIMEOUT_S)
    assert states(store) == [("one", "done")]


def test_skip_goes_on_with_the_next_job_and_misses_every_other(
    store: JobStore, trainer: Trainer
) -> None:
    one, two, three = add(store, "one", "two", "three")
    worker = Worker(store, trainer)
    assert not worker.skip(one)
    worker.start()
    trainer.wait_begun()
    assert not worker.skip(two)
    assert worker.skip(one)
    trainer.let(1)
    trainer.wait_begun()
    assert not worker.skip(one)
    assert worker.skip(two, save=True)
    trainer.let()
    assert worker.wait(TIMEOUT_S)
    assert states(store) == [("one", "cancelled"), ("two", "done"), ("three", "done")]
    assert store.get(three).files == (Path("three.safetensors"),)


def test_pause_holds_the_job_until_resume(store: JobStore, trainer: Trainer) -> None:
    one, two = add(store, "one", "two")
    worker = Worker(store, trainer)
    assert not worker.pause(one)
    worker.start()
    trainer.wait_begun()
    assert worker.pause(one)
    assert not worker.pause(one)
    assert not worker.pause(two)
    assert store.get(one).state is JobState.PAUSED
    job = worker.status.job
    assert job is not None
    assert job.state is JobState.PAUSED
    trainer.let()
    assert not worker.wait(0.2)
    assert worker.status.step is None  # it stands before its first step
    assert not worker.resume(two)
    assert worker.resume(one)
    assert not worker.resume(one)
    assert worker.wait(TIMEOUT_S)
    assert states(store) == [("one", "done"), ("two", "done")]


def test_a_paused_job_can_be_stopped_and_a_stopping_one_not_paused(
    store: JobStore, trainer: Trainer
) -> None:
    (one,) = add(store, "one")
    worker = Worker(store, trainer)
    worker.start()
    trainer.wait_begun()
    worker.pause(one)
    worker.stop()
    assert not worker.pause(one)
    trainer.let()
    assert worker.wait(TIMEOUT_S)
    assert states(store) == [("one", "cancelled")]


def test_many_starts_make_one_worker(store: JobStore, trainer: Trainer) -> None:
    add(store, *[f"job {number}" for number in range(6)])
    worker = Worker(store, trainer)
    barrier = threading.Barrier(8)
    began: list[bool] = []

    def press_start() -> None:
        barrier.wait()
        began.append(worker.start())

    threads = [threading.Thread(target=press_start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    trainer.let()
    assert worker.wait(TIMEOUT_S)
    assert began.count(True) == 1
    assert trainer.most_at_once == 1
    assert len(trainer.ran) == 6


def test_a_thread_that_has_rested_does_not_end_its_successor(
    store: JobStore, trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Worker(store, trainer)
    take = worker._take

    def take_and_be_overtaken() -> object:
        current = take()
        if current is None and not store.jobs():
            add(store, "one")
            assert worker.start()
            trainer.wait_begun()
        return current

    monkeypatch.setattr(worker, "_take", take_and_be_overtaken)
    worker.start()
    first = worker._thread
    assert first is not None
    first.join(TIMEOUT_S)
    assert worker.status.running
    with pytest.raises(BadInput, match="already working"):
        Worker(store, trainer).start()
    trainer.let()
    assert worker.wait(TIMEOUT_S)
    assert states(store) == [("one", "done")]


def test_start_after_stop_goes_on_behind_the_job_that_is_ending(
    store: JobStore, trainer: Trainer
) -> None:
    add(store, "one", "two")
    worker = Worker(store, trainer)
    worker.start()
    trainer.wait_begun()
    worker.stop()
    assert worker.start()
    assert not worker.start()
    trainer.let()
    assert worker.wait(TIMEOUT_S)
    assert states(store) == [("one", "cancelled"), ("two", "done")]
    assert trainer.most_at_once == 1


def test_a_second_worker_is_refused_and_leaves_the_running_job_alone(
    store: JobStore, trainer: Trainer
) -> None:
    add(store, "one")
    worker = Worker(store, trainer)
    worker.start()
    trainer.wait_begun()
    other = Worker(JobStore(store.path), trainer)
    assert states(store) == [("one", "running")]
    with pytest.raises(BadInput, match="already working on this queue"):
        other.start()
    assert not other.status.running
    trainer.let()
    assert worker.wait(TIMEOUT_S)
    assert other.start()
    assert other.wait(TIMEOUT_S)


def test_jobs_of_a_dead_process_are_interrupted_when_a_worker_is_made(store: JobStore) -> None:
    (one,) = add(store, "one")
    store.claim_next()
    seen: list[bool] = []
    worker = Worker(store, lambda job, control, sink: seen.append(job.resume))
    assert states(store) == [("one", "interrupted")]
    store.requeue(one, resume=True)
    worker.start()
    assert worker.wait(TIMEOUT_S)
    assert seen == [True]


def test_status_and_store_follow_the_events(store: JobStore) -> None:
    def run(job: Job, control: Control, sink: Sink) -> None:
        sink(PhaseStarted("Encoding images", total=8))
        sink(PhaseProgress(3))
        seen.append(worker.status.job)
        sink(Notice("one image was skipped"))
        sink(PhaseStarted("Training", total=5))
        sink(STEP)
        sink(Saved(Path("a-1.safetensors"), step=1, final=False))
        sink(Saved(Path("a-1.safetensors"), step=1, final=False))
        seen.append(store.get(job.id))
        assert worker.status.step == STEP

    seen: list[Job | None] = []
    add(store, "one")
    worker = Worker(store, run)
    worker.start()
    assert worker.wait(TIMEOUT_S)
    encoding, training = seen
    assert encoding is not None
    assert training is not None
    assert encoding.progress == Progress("Encoding images", 3, 8)
    assert training.progress == Progress("Training", 1, 5, 0.5, 4.0)
    assert training.files == (Path("a-1.safetensors"),)
    assert training.notes == ("one image was skipped",)
    assert states(store) == [("one", "done")]
    assert worker.status.job is None
    assert not worker.status.running


def test_the_time_of_a_step_is_the_mean_over_all_passes(store: JobStore) -> None:
    def run(job: Job, control: Control, sink: Sink) -> None:
        for step, elapsed_s in ((1, 1.0), (2, 2.0), (1, 0.5), (2, 3.0)):
            sink(replace(STEP, step=step, elapsed_s=elapsed_s))  # as the loop tells: no pauses
        sink(Saved(Path(f"{job.name}.safetensors"), step=2, final=True))

    (one,) = add(store, "one")
    work_off(store, run)
    assert store.get(one).step_s == 5.0 / 4
    store.requeue(one, resume=True)
    assert store.get(one).step_s is None


def test_a_listener_hears_the_job_and_cannot_hurt_it(
    store: JobStore, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[tuple[str, Event]] = []

    def listener(job: Job, event: Event) -> None:
        heard.append((job.name, event))
        raise RuntimeError("page closed")

    add(store, "one")
    with caplog.at_level(logging.ERROR):
        work_off(store, lambda job, control, sink: sink(Notice("hello")), listener)
    assert heard == [("one", Notice("hello"))]
    assert states(store) == [("one", "done")]
    assert "a listener failed at Notice" in caplog.text


def test_a_full_disk_for_a_moment_does_not_end_the_training(
    store: JobStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def run(job: Job, control: Control, sink: Sink) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(store, "record", full)
            sink(PhaseStarted("Encoding"))
            sink(PhaseStarted("Training", total=5))
        sink(STEP)

    def full(*args: object) -> None:
        raise QueueError(store.path, sqlite3.OperationalError("database or disk is full"))

    add(store, "one")
    work_off(store, run)
    assert states(store) == [("one", "done")]
    assert store.jobs()[0].progress.done == 1
    (told,) = [record for record in caplog.records if "not written down" in record.message]
    assert "disk is full - make room" in told.message
    assert told.exc_info is None


def test_a_job_that_is_paused_on_a_full_disk_can_be_resumed(
    store: JobStore, trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise QueueError(store.path, sqlite3.OperationalError("database or disk is full"))

    (number,) = add(store, "one")
    worker = Worker(store, trainer)
    worker.start()
    trainer.wait_begun()
    with monkeypatch.context() as patch:
        patch.setattr(store, "set_paused", full)
        assert worker.pause(number)
    job = worker.status.job
    assert job is not None and job.state is JobState.PAUSED, "or the page offers no way to resume"
    assert worker.resume(number)
    trainer.let()
    assert worker.wait(TIMEOUT_S)
    assert states(store) == [("one", "done")]


def test_a_queue_that_breaks_lets_the_worker_rest_and_start_again(
    store: JobStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> None:
        raise QueueError(store.path, sqlite3.OperationalError("disk I/O error"))

    add(store, "one")
    worker = Worker(store, lambda job, control, sink: None)
    with monkeypatch.context() as patch:
        patch.setattr(store, "claim_next", broken)
        worker.start()
        assert worker.wait(TIMEOUT_S)
    assert not worker.status.running
    (told,) = [record for record in caplog.records if "until it is started" in record.message]
    assert "disk I/O error - make room" in told.message and not told.exc_info
    assert worker.start()
    assert worker.wait(TIMEOUT_S)
    assert states(store) == [("one", "done")]
