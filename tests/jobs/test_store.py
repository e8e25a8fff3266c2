from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from trainer.errors import BadInput
from trainer.jobs.job import Job, JobState, Progress
from trainer.jobs.queue_file import QueueFile
from trainer.jobs.store import JobStore


@pytest.fixture
def store(tmp_path: Path) -> JobStore:
    return JobStore(tmp_path / "data" / "jobs.sqlite")


def settings(name: str, **more: object) -> dict[str, object]:
    return {"method": "lora", "name": name, "image_size_px": [512, 512], **more}


def names(store: JobStore, *states: JobState) -> list[str]:
    return [job.name for job in store.jobs(states or tuple(JobState))]


def finished(store: JobStore, name: str, state: JobState) -> Job:
    """A job that ran and ended as `state`; the queue is empty before and after."""
    store.add(settings(name))
    job = store.claim_next()
    assert job is not None
    store.finish(job.id, state)
    return store.get(job.id)


def test_a_job_reads_back_as_it_was_added(store: JobStore) -> None:
    job = store.add(settings("hat", trigger_word="hät"))
    again = JobStore(store.path).get(job.id)
    assert again == job
    assert (again.name, again.method, again.state) == ("hat", "lora", JobState.QUEUED)
    assert again.settings == settings("hat", trigger_word="hät")


def test_jobs_run_in_the_order_in_which_they_were_added(store: JobStore) -> None:
    for name in ("one", "two", "three"):
        store.add(settings(name))
    claimed = [store.claim_next() for _ in range(4)]
    assert [job and job.name for job in claimed] == ["one", "two", "three", None]
    assert names(store, JobState.RUNNING) == ["one", "two", "three"]


@pytest.mark.parametrize(
    ("moved", "place", "order"),
    [
        ("three", 0, ["three", "one", "two"]),
        ("one", 1, ["two", "one", "three"]),
        ("one", 99, ["two", "three", "one"]),
        ("two", -5, ["two", "one", "three"]),
    ],
)
def test_move_changes_the_waiting_jobs_only(
    store: JobStore, moved: str, place: int, order: list[str]
) -> None:
    done = finished(store, "done", JobState.DONE)
    ids = {name: store.add(settings(name)).id for name in ("one", "two", "three")}
    store.move(ids[moved], place)
    assert names(store) == ["done", *order]
    with pytest.raises(BadInput, match="'done' is done"):
        store.move(done.id, 0)


def test_a_name_in_the_queue_is_refused_with_a_proposal(store: JobStore) -> None:
    store.add(settings("hat"))
    store.add(settings("hat-2"))
    with pytest.raises(BadInput) as refused:
        store.add(settings("Hat"))
    (problem,) = refused.value.problems
    assert problem.where == "name"
    assert "'Hat-3'" in problem.cure
    store.claim_next()  # a running job writes its file, too
    with pytest.raises(BadInput):
        store.add(settings("hat"))
    assert names(store) == ["hat", "hat-2"]


def test_the_same_name_is_accepted_with_overwrite_or_once_the_first_is_done(
    store: JobStore,
) -> None:
    finished(store, "hat", JobState.DONE)
    store.add(settings("hat"))
    store.add(settings("hat", overwrite=True))
    assert names(store, JobState.QUEUED) == ["hat", "hat"]


def test_settings_without_name_and_method_tell_both(store: JobStore) -> None:
    with pytest.raises(BadInput) as refused:
        store.add({"steps": 3})
    assert [problem.where for problem in refused.value.problems] == ["name", "method"]


def test_edit_replaces_settings_and_name_of_a_waiting_job(store: JobStore) -> None:
    hat = store.add(settings("hat"))
    store.add(settings("cap"))
    edited = store.edit(hat.id, settings("hat", steps=7))  # its own name is not in its way
    assert edited.settings == settings("hat", steps=7)
    assert store.edit(hat.id, settings("scarf")).name == "scarf"
    with pytest.raises(BadInput, match="cap-2"):
        store.edit(hat.id, settings("cap"))
    store.claim_next()
    with pytest.raises(BadInput, match="'scarf' is running"):
        store.edit(hat.id, settings("scarf", steps=8))
    assert store.get(hat.id).settings == settings("scarf")


def test_a_job_that_goes_on_from_a_state_keeps_its_settings(store: JobStore) -> None:
    job = finished(store, "hat", JobState.CANCELLED)
    store.requeue(job.id, resume=True)
    with pytest.raises(BadInput, match="saved state"):
        store.edit(job.id, settings("hat", rank=4))


def test_duplicate_takes_a_free_name_in_settings_and_record(store: JobStore) -> None:
    hat = store.add(settings("hat", steps=7))
    copy = store.duplicate(hat.id)
    assert copy.id != hat.id
    assert copy.settings == settings("hat-2", steps=7)
    assert copy.name == "hat-2"
    assert store.duplicate(copy.id).name == "hat-3"


def test_remove_takes_any_job_that_is_not_in_hand(store: JobStore) -> None:
    running, waiting = store.add(settings("one")), store.add(settings("two"))
    store.claim_next()
    with pytest.raises(BadInput, match="stop it first"):
        store.remove(running.id)
    store.remove(waiting.id)
    with pytest.raises(BadInput, match="no such job"):
        store.get(waiting.id)
    assert store.add(settings("three")).id > waiting.id  # an id is never given twice


def test_clear_forgets_what_is_finished_and_keeps_the_rest(store: JobStore) -> None:
    for name, state in (
        ("done", JobState.DONE),
        ("failed", JobState.FAILED),
        ("cancelled", JobState.CANCELLED),
        ("lost", JobState.INTERRUPTED),
    ):
        finished(store, name, state)
    store.add(settings("running"))
    store.claim_next()
    store.add(settings("waiting"))
    assert store.clear() == 3
    assert names(store) == ["lost", "running", "waiting"]
    assert store.clear(tuple(JobState)) == 2
    assert names(store) == ["running"]


def test_what_goes_on_is_next_and_what_begins_anew_last(store: JobStore) -> None:
    lost, failed = (finished(store, name, JobState.FAILED) for name in ("lost", "failed"))
    for name in ("cap", "coat"):
        store.add(settings(name))
    store.requeue(failed.id, resume=False)
    store.requeue(lost.id, resume=True)
    assert names(store, JobState.QUEUED) == ["lost", "cap", "coat", "failed"]


def test_requeue_begins_afresh(store: JobStore) -> None:
    store.add(settings("hat"))
    hat = store.claim_next()
    assert hat is not None
    store.record(hat.id, Progress("Training", 3, 9, 0.5, 60.0), [Path("hat-000003.safetensors")])
    store.finish(hat.id, JobState.FAILED, "out of memory")
    again = store.requeue(hat.id, resume=True)
    assert (again.id, again.resume, again.error) == (hat.id, True, "")
    assert again.progress == Progress()
    assert again.started_s is None
    assert again.finished_s is None
    assert again.files == (Path("hat-000003.safetensors"),)


def test_requeue_refuses_done_jobs_and_names_taken_meanwhile(store: JobStore) -> None:
    done = finished(store, "done", JobState.DONE)
    with pytest.raises(BadInput, match="'done' is done"):
        store.requeue(done.id, resume=False)
    lost = finished(store, "hat", JobState.INTERRUPTED)
    store.add(settings("hat"))
    with pytest.raises(BadInput, match="hat-2"):
        store.requeue(lost.id, resume=True)


def test_a_job_whose_result_was_saved_early_goes_on(store: JobStore) -> None:
    job = finished(store, "hat", JobState.DONE)
    assert store.requeue(job.id, resume=True).state is JobState.QUEUED


def test_clear_takes_only_what_it_is_told_to(store: JobStore) -> None:
    finished(store, "kept", JobState.CANCELLED)
    gone = finished(store, "gone", JobState.CANCELLED)
    assert store.clear(only={gone.id}) == 1
    assert names(store) == ["kept"]


def test_a_copy_keeps_clear_of_names_that_are_taken_elsewhere(store: JobStore) -> None:
    hat = finished(store, "hat", JobState.DONE)
    assert store.duplicate(hat.id, {"hat", "hat-2"}).name == "hat-3"


def test_no_two_jobs_have_one_key(store: JobStore, tmp_path: Path) -> None:
    other = JobStore(tmp_path / "other.sqlite")
    keys = {one.add(settings(name)).key for one in (store, other) for name in ("a", "b")}
    assert len(keys) == 4


def test_progress_files_and_notes_are_kept_and_nan_is_no_loss(store: JobStore) -> None:
    store.add(settings("hat"))
    job = store.claim_next()
    assert job is not None
    store.record(job.id, Progress("Training", 1, 9, float("nan"), 8.5), [Path("a")], ["ä note"])
    now = store.get(job.id)
    assert now.progress == Progress("Training", 1, 9, None, 8.5)
    assert (now.files, now.notes) == ((Path("a"),), ("ä note",))
    store.finish(job.id, JobState.FAILED, "because")
    with pytest.raises(BadInput, match="is failed"):
        store.record(job.id, Progress())
    with pytest.raises(BadInput, match="is failed"):
        store.finish(job.id, JobState.DONE)
    assert store.get(job.id).error == "because"


def test_paused_is_a_live_state(store: JobStore) -> None:
    store.add(settings("hat"))
    job = store.claim_next()
    assert job is not None
    store.set_paused(job.id, True)
    assert store.get(job.id).state is JobState.PAUSED
    store.set_paused(job.id, False)
    assert store.get(job.id).state is JobState.RUNNING


def test_a_failing_change_leaves_nothing_half_done(
    store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = finished(store, "hat", JobState.FAILED)
    original = JobStore._set

    def fails_at_the_error(self: JobStore, job_id: int, **values: object) -> None:
        if "error" in values:
            raise sqlite3.OperationalError("disk I/O error")
        original(self, job_id, **values)

    monkeypatch.setattr(JobStore, "_set", fails_at_the_error)
    with pytest.raises(sqlite3.OperationalError):
        store.requeue(job.id, resume=True)
    assert store.get(job.id) == job


def test_two_threads_never_claim_the_same_job(store: JobStore) -> None:
    other = JobStore(store.path)
    for number in range(40):
        store.add(settings(f"job {number}"))
    claimed: list[int] = []
    failures: list[Exception] = []

    def claim_all(mine: JobStore) -> None:
        try:
            while (job := mine.claim_next()) is not None:
                claimed.append(job.id)
        except sqlite3.Error as failure:  # what a read before the write lock would end in
            failures.append(failure)

    threads = [threading.Thread(target=claim_all, args=(s,)) for s in (store, store, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert sorted(claimed) == sorted(set(claimed))
    assert len(claimed) == 40


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")
def test_a_killed_process_leaves_a_queue_whose_running_job_is_marked(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite"
    program = f"""
import os, signal
from pathlib import Path
from trainer.jobs.queue_file import QueueFile
from trainer.jobs.store import JobStore
store = JobStore(Path({str(path)!r}))
for name in ("one", "two"):
    store.add({{"method": "lora", "name": name}})
store.claim_next()
os.kill(os.getpid(), signal.SIGKILL)
"""
    root = Path(__file__).parents[2]
    killed = subprocess.run([sys.executable, "-c", program], cwd=root, check=False)
    assert killed.returncode == -signal.SIGKILL
    store = JobStore(path)
    assert names(store, JobState.RUNNING) == ["one"]
    (lost,) = store.recover()
    assert (lost.name, lost.state) == ("one", JobState.INTERRUPTED)
    assert "ended while this job ran" in lost.error
    assert names(store, JobState.QUEUED) == ["two"]
    assert store.recover() == []


def test_a_file_that_is_no_queue_is_named(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite"
    path.write_bytes(b"not a database, but long enough to be looked at" * 40)
    with pytest.raises(BadInput, match=r"jobs\.sqlite: no readable queue"):
        JobStore(path)
    assert path.read_bytes().startswith(b"not a database")


def test_a_file_of_an_older_version_gets_what_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "jobs.sqlite"
    with monkeypatch.context() as older:
        older.setattr("trainer.jobs.queue_file._ADDED", {})
        QueueFile(path).execute(
            "INSERT INTO jobs (position, name, method, settings, state, created_s)"
            " VALUES (1, 'hat', 'lora', '{}', 'queued', 1.0)"
        )
    store = JobStore(path)
    job = store.claim_next()
    assert job is not None and (job.name, job.step_s) == ("hat", None)
    store.finish(job.id, JobState.DONE, step_s=3.0)
    assert JobStore(path).get(job.id).step_s == 3.0


def test_a_newer_file_is_left_alone(store: JobStore) -> None:
    store.close()
    connection = sqlite3.connect(store.path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(BadInput, match="version 99"):
        JobStore(store.path)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="cannot be opened"):
        JobStore(tmp_path / "file" / "jobs.sqlite")
