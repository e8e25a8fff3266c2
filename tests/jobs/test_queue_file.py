"""The queue's file is removed or replaced while the program runs."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from trainer.control import Control
from trainer.errors import BadInput
from trainer.events import PhaseStarted, Saved, Sink
from trainer.jobs.job import Job, JobState
from trainer.jobs.store import JobStore
from trainer.jobs.worker import Worker

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="Windows removes no file that is open"
)


@pytest.fixture
def store(tmp_path: Path) -> JobStore:
    made = JobStore(tmp_path / "data" / "jobs.sqlite")
    add(made, "done", "running", "removed", "waits")
    for state in (JobState.DONE, None):
        job = made.claim_next()
        assert job is not None
        if state is not None:
            made.finish(job.id, state)
    made.remove(3)
    return made


def add(store: JobStore, *names: str) -> None:
    for name in names:
        store.add({"method": "lora", "name": name})


def names(store: JobStore) -> list[str]:
    return [job.name for job in store.jobs()]


@pytest.mark.parametrize("what", ["folder", "file"])
def test_a_queue_that_is_removed_is_made_anew_with_its_jobs(
    what: str, store: JobStore, caplog: pytest.LogCaptureFixture
) -> None:
    before = store.jobs()
    if what == "folder":
        shutil.rmtree(store.path.parent)
    else:
        store.path.unlink()
    assert store.jobs() == before
    add(store, "late")
    assert names(JobStore(store.path)) == ["done", "running", "waits", "late"]
    (told,) = caplog.messages
    assert told == (
        f"{store.path} was removed while the program ran; its jobs were put back:"
        " done, running, waits"
    )


def test_the_first_change_after_it_is_not_lost(store: JobStore) -> None:
    shutil.rmtree(store.path.parent)
    add(store, "late")
    store.finish(2, JobState.DONE)
    found = [(job.name, job.state.value) for job in JobStore(store.path).jobs()]
    assert found == [("done", "done"), ("running", "done"), ("waits", "queued"), ("late", "queued")]


def test_two_programs_put_it_back_once(store: JobStore) -> None:
    other = JobStore(store.path)
    shutil.rmtree(store.path.parent)
    add(store, "first")
    add(other, "second")
    assert names(store) == names(other) == ["done", "running", "waits", "first", "second"]


def test_jobs_that_an_older_copy_lacks_are_put_back(store: JobStore, tmp_path: Path) -> None:
    store.close()
    shutil.copytree(store.path.parent, tmp_path / "copy")
    again = JobStore(store.path)
    add(again, "late")
    shutil.rmtree(store.path.parent)
    shutil.copytree(tmp_path / "copy", store.path.parent)
    assert names(again) == names(JobStore(store.path)) == ["done", "running", "waits", "late"]


def test_another_queue_in_its_place_is_told_and_left_alone(store: JobStore, tmp_path: Path) -> None:
    store.path.parent.rename(tmp_path / "moved")
    other = JobStore(store.path)
    add(other, "theirs")
    for ask in (store.jobs, store.claim_next, lambda: store.get(1)):
        with pytest.raises(BadInput, match=f"{store.path}: another queue was put in its place"):
            ask()
    assert names(other) == ["theirs"]
    other.close()
    shutil.rmtree(store.path.parent)
    (tmp_path / "moved").rename(store.path.parent)
    assert names(store) == ["done", "running", "waits"], "the former one is back"


def test_a_folder_that_cannot_be_made_anew_is_named_until_it_can(store: JobStore) -> None:
    shutil.rmtree(store.path.parent)
    store.path.parent.write_text("in the way", "utf-8")
    for _ in range(2):
        with pytest.raises(BadInput, match=f"{store.path}: cannot be opened"):
            store.jobs()
    store.path.parent.unlink()
    assert names(store) == ["done", "running", "waits"]


def test_a_training_comes_to_its_end_whatever_becomes_of_the_queue(tmp_path: Path) -> None:
    store = JobStore(tmp_path / "data" / "jobs.sqlite")
    add(store, "hat")
    ended: list[str] = []

    def run(job: Job, control: Control, sink: Sink) -> None:
        store.path.parent.rename(tmp_path / "moved")
        add(JobStore(store.path), "theirs")
        sink(PhaseStarted("Training", 5))
        sink(Saved(Path("hat.safetensors"), 5, final=True))
        ended.append(job.name)

    worker = Worker(store, run)
    worker.start()
    assert worker.wait(10)
    assert ended == ["hat"]
