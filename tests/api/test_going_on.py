"""Jobs of the queue that can go on: nothing that they have learnt is lost unasked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httpx")
pytest.importorskip("torch")
from trainer.jobs.job import Job
from trainer.training.unfinished import BEGINNING_FILE, state_file, state_folder

from .bench import Bench


def stopped(bench: Bench, name: str, *, save: bool = False) -> dict[str, Any]:
    """A job that was stopped."""
    bench.go.clear()
    body = {"settings": bench.settings(name=name), "start": True}
    job = bench.post("jobs", body)["job"]
    bench.until("running", name)
    bench.post(f"jobs/{job['id']}/stop", {"save": save})
    bench.go.set()
    bench.until("done" if save else "cancelled", name)
    bench.yard.worker.wait(20)
    return bench.get(f"jobs/{job['id']}")


def note_state(bench: Bench, job: dict[str, Any], step: int = 171) -> Path:
    """What a training would leave when it is stopped."""
    folder = state_folder(bench.host.log_dir, job["name"])
    folder.mkdir(parents=True, exist_ok=True)
    owner = {"owner": bench.yard.store.get(job["id"]).key}
    (folder / BEGINNING_FILE).write_text(json.dumps(owner))
    state_file(folder, 0, step).touch()
    return folder


def names(bench: Bench, *states: str) -> list[str]:
    return [job["name"] for job in bench.get("jobs")["jobs"] if job["state"] in states]


def test_a_job_tells_the_step_of_its_own_state(bench: Bench) -> None:
    hat = stopped(bench, "hat")
    assert hat["saved_step"] is None
    note_state(bench, hat)
    other = bench.post("jobs", {"settings": bench.settings(name="hat", overwrite=True)})["job"]
    assert other["saved_step"] is None, "the state of that name is not its own"
    found = {job["id"]: job["saved_step"] for job in bench.get("status")["jobs"]}
    assert found == {hat["id"]: 171, other["id"]: None}
    bench.post(f"jobs/{other['id']}", {}, method="DELETE")
    assert bench.get(f"jobs/{hat['id']}")["saved_step"] == 171


def test_plan_and_start_refuse_the_name_of_an_unfinished_training(bench: Bench) -> None:
    folder = note_state(bench, stopped(bench, "hat"))
    settings = bench.settings(name="hat")
    (planned,) = bench.post("plan", {"settings": settings})["problems"]
    (refused,) = bench.post("jobs", {"settings": settings, "start": True}, 422)["problems"]
    assert planned == refused
    assert planned["instead"] == "hat-2"
    assert "saved at step 171" in refused["what"]
    assert "hat-2" in refused["cure"]
    assert folder.is_dir()


def test_clear_leaves_what_can_go_on(bench: Bench) -> None:
    folder = note_state(bench, stopped(bench, "can"))
    stopped(bench, "cannot")
    bench.post("jobs", {"settings": bench.settings(name="done"), "start": True})
    bench.until("done", "done")
    assert bench.post("queue/clear", {}) == {"removed": 2, "kept": 1}
    assert names(bench, "cancelled", "done") == ["can"]
    assert folder.is_dir()


def test_what_waits_goes_at_once_but_for_what_can_go_on(bench: Bench) -> None:
    hat = stopped(bench, "hat")
    folder = note_state(bench, hat)
    bench.yard.store.requeue(hat["id"], resume=True)
    for name in ("one", "two"):
        bench.post("jobs", {"settings": bench.settings(name=name)})
    assert bench.post("queue/dismiss", {}) == {"removed": 2, "kept": 1}
    assert names(bench, "queued") == ["hat"]
    assert folder.is_dir()


def test_clear_leaves_a_job_that_ends_meanwhile(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped(bench, "old")
    bench.go.clear()
    hat = bench.post("jobs", {"settings": bench.settings(name="hat"), "start": True})["job"]
    bench.until("running", "hat")
    note_state(bench, hat)
    saved_step = bench.yard.saved_step

    def ends_meanwhile(job: Job) -> int | None:
        bench.yard.worker.stop()
        bench.go.set()
        bench.yard.worker.wait(20)
        return saved_step(job)

    monkeypatch.setattr(bench.yard, "saved_step", ends_meanwhile)
    assert bench.post("queue/clear", {}) == {"removed": 1, "kept": 0}
    assert names(bench, "cancelled") == ["hat"], "it can go on"


def test_a_job_that_is_removed_leaves_no_state_behind(bench: Bench) -> None:
    hat = stopped(bench, "hat")
    folder = note_state(bench, hat)
    bench.post(f"jobs/{hat['id']}", {}, method="DELETE")
    assert not folder.exists()
    bench.post("jobs", {"settings": bench.settings(name="hat")})


def test_a_job_that_waits_to_begin_anew_takes_its_state_along_when_it_is_removed(
    bench: Bench,
) -> None:
    hat = stopped(bench, "hat")
    folder = note_state(bench, hat)
    bench.post("jobs", {"settings": bench.settings(name="first")})
    bench.post(f"jobs/{hat['id']}/requeue", {"resume": False})
    assert names(bench, "queued") == ["first", "hat"], "nothing starts that was waiting"
    bench.post(f"jobs/{hat['id']}", {}, method="DELETE")
    assert not folder.exists()


def test_a_job_that_waits_to_begin_anew_can_be_changed(bench: Bench) -> None:
    hat = stopped(bench, "hat")
    folder = note_state(bench, hat)
    bench.post("jobs", {"settings": bench.settings(name="first")})
    bench.post(f"jobs/{hat['id']}/requeue", {"resume": False})
    body = {"settings": bench.settings(name="hat", steps=7)}
    bench.post(f"jobs/{hat['id']}", body, method="PATCH")
    assert folder.is_dir(), "until it begins"
    renamed = {"settings": bench.settings(name="cap")}
    bench.post(f"jobs/{hat['id']}", renamed, method="PATCH")
    assert not folder.exists(), "no job could go on from it"


def test_what_goes_on_is_the_next_and_starts(bench: Bench) -> None:
    hat = stopped(bench, "hat")
    note_state(bench, hat)
    bench.post("jobs", {"settings": bench.settings(name="waiting")})
    bench.go.clear()
    bench.post(f"jobs/{hat['id']}/requeue", {"resume": True})
    assert bench.until("running", "hat")["resume"]
    assert names(bench, "queued") == ["waiting"]
    bench.go.set()
    bench.until("done", "waiting")


def test_what_goes_on_while_another_runs_comes_next(bench: Bench) -> None:
    hat = stopped(bench, "hat")
    note_state(bench, hat)
    bench.go.clear()
    bench.post("jobs", {"settings": bench.settings(name="running"), "start": True})
    bench.until("running", "running")
    bench.post("jobs", {"settings": bench.settings(name="later")})
    bench.post(f"jobs/{hat['id']}/requeue", {"resume": True})
    assert names(bench, "queued") == ["hat", "later"]


def test_a_result_that_was_saved_early_can_be_trained_on(bench: Bench) -> None:
    hat = stopped(bench, "hat", save=True)
    (problem,) = bench.post(f"jobs/{hat['id']}/requeue", {"resume": True}, 422)["problems"]
    assert "is complete" in problem["what"]
    note_state(bench, hat, step=2)
    bench.post(f"jobs/{hat['id']}/requeue", {"resume": True})
    assert bench.until("done", "hat")["resume"]


def test_a_copy_gets_a_name_that_nothing_has(bench: Bench) -> None:
    hat = stopped(bench, "hat")
    note_state(bench, hat)
    bench.host.output_dir.mkdir(exist_ok=True)
    (bench.host.output_dir / "hat-2.safetensors").touch()
    assert bench.post(f"jobs/{hat['id']}/duplicate", {})["done"]["name"] == "hat-3"
