"""The routes, asked as the page asks them; jobs are done by a stand-in."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

fastapi = pytest.importorskip("fastapi")
pytest.importorskip("httpx")
from fastapi.testclient import TestClient  # noqa: E402

from trainer.api import yard as yards  # noqa: E402
from trainer.api.app import add_routes  # noqa: E402
from trainer.control import Control, Request  # noqa: E402
from trainer.csv_log import CsvLog  # noqa: E402
from trainer.errors import BadInput, Problem  # noqa: E402
from trainer.events import PhaseStarted, Saved, Sink, StepDone  # noqa: E402
from trainer.jobs.job import Job  # noqa: E402

HEADERS = {"X-Trainyard": "1"}
STEPS = 5


class Surroundings:
    """A host whose checkpoint is good for everything."""

    def __init__(self, folder: Path) -> None:
        self.output_dir = folder / "out"
        self.log_dir = folder / "logs"

    def check_model(self, settings: object) -> str:
        del settings
        return "Stable Diffusion 1"

    def checkpoints(self) -> list[str]:
        return ["a.safetensors", "b.safetensors"]

    def vaes(self) -> list[str]:
        return []

    def loras(self) -> list[str]:
        return []

    def loaded_checkpoint(self) -> str:
        return "b.safetensors"


def step(number: int) -> StepDone:
    return StepDone(number, STEPS, 1, 0.5 / number, 0.5, 1e-4, None, number * 1.0, 1.0, 0.0)


class Bench:
    """A client, and the hand that lets the stand-in's steps happen."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go = threading.Event()
        self.go.set()
        monkeypatch.setattr(yards.Yard, "_run", self._run)
        self.host = Surroundings(folder)
        self.yard = yards.Yard(self.host, folder / "data")  # type: ignore[arg-type]
        app = fastapi.FastAPI()
        add_routes(app, self.yard)
        self.client = TestClient(app)
        self.pictures = folder / "pictures"
        self.pictures.mkdir()
        for number in range(3):
            Image.new("RGB", (64, 64), (80 * number, 0, 0)).save(self.pictures / f"{number}.png")
        (self.pictures / "0.txt").write_text("a red square", "utf-8")

    def _run(self, job: Job, control: Control, sink: Sink) -> None:
        log = CsvLog(self.host.log_dir / f"{job.name}.csv")
        sink(PhaseStarted("Training", STEPS))
        for number in range(1, STEPS + 1):
            self.go.wait()
            sink(step(number))
            log(step(number))
            if control.checkpoint() is not Request.CONTINUE:
                break
        if job.name == "broken":
            raise BadInput([Problem("images", "are gone", "look for them")])
        if control.request is not Request.STOP:
            sink(Saved(self.host.output_dir / f"{job.name}.safetensors", STEPS, True))

    def settings(self, **values: object) -> dict[str, object]:
        given = {"method": "lora", "checkpoint": "a", "images": str(self.pictures)}
        small = {"image_size_px": "64", "bucket_step_px": "0", "steps": "10"}
        return {**given, **small, **values}

    def get(self, path: str) -> Any:
        answer = self.client.get(f"/trainyard/v1/{path}", headers=HEADERS)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(
        self, path: str, body: Mapping[str, object], status: int = 200, method: str = "POST"
    ) -> Any:
        url = f"/trainyard/v1/{path}"
        answer = self.client.request(method, url, json=body, headers=HEADERS)
        assert answer.status_code == status, answer.text
        return answer.json()

    def until(self, state: str, name: str) -> dict[str, Any]:
        end = time.monotonic() + 30
        while time.monotonic() < end:
            jobs = [job for job in self.get("status")["jobs"] if job["name"] == name]
            if jobs and jobs[0]["state"] == state:
                return jobs[0]
            time.sleep(0.02)
        raise TimeoutError(f"{name} did not become {state}: {self.get('status')['jobs']}")


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    made = Bench(tmp_path, monkeypatch)
    yield made
    made.go.set()
    made.yard.worker.stop()
    made.yard.worker.wait(20)
    made.yard.store.close()


def test_a_started_job_is_done_and_leaves_its_curve(bench: Bench) -> None:
    bench.post("jobs", {"settings": bench.settings(name="hat"), "start": True})
    job = bench.until("done", "hat")
    assert (job["done"], job["total"]) == (STEPS, STEPS)
    assert job["files"] == [str(bench.host.output_dir / "hat.safetensors")]
    status = bench.get("status")
    assert [point[0] for point in status["curve"]] == [1, 2, 3, 4, 5]
    job_id = status["curve_job"]
    assert bench.get(f"status?job={job_id}&since=3")["curve"] == status["curve"][3:]
    assert bench.get("status?job=999&since=3")["curve"] == status["curve"], "of another job: all"
    assert any("hat.safetensors" in line for line in status["log"])


def test_wrong_settings_are_refused_with_every_problem(bench: Bench) -> None:
    body = {"settings": bench.settings(rank="many", steps="0"), "start": True}
    found = bench.post("jobs", body, 422)["problems"]
    assert {problem["where"] for problem in found} == {"rank", "steps"}
    assert all(problem["cure"] for problem in found)
    assert bench.get("status")["jobs"] == []


def test_the_name_of_a_waiting_job_is_taken(bench: Bench) -> None:
    bench.post("jobs", {"settings": bench.settings(name="hat")})
    (problem,) = bench.post("jobs", {"settings": bench.settings(name="hat")}, 422)["problems"]
    assert problem["where"] == "name"
    assert "hat-2" in problem["cure"]


def test_pause_go_on_stop_and_run_again(bench: Bench) -> None:
    bench.go.clear()
    bench.post("jobs", {"settings": bench.settings(name="hat"), "start": True})
    job = bench.until("running", "hat")
    assert bench.post(f"jobs/{job['id']}/pause", {}) == {"done": True}
    bench.until("paused", "hat")
    assert bench.post(f"jobs/{job['id']}/pause", {}) == {"done": False}, "it is paused already"
    bench.post(f"jobs/{job['id']}/resume", {})
    bench.until("running", "hat")
    bench.post(f"jobs/{job['id']}/stop", {"save": False})
    bench.go.set()
    assert bench.until("cancelled", "hat")["files"] == []
    bench.post(f"jobs/{job['id']}/requeue", {"resume": False})
    bench.until("done", "hat")


def test_stop_and_save_keeps_the_queue_waiting(bench: Bench) -> None:
    bench.go.clear()
    first = bench.post("jobs", {"settings": bench.settings(name="one"), "start": True})["job"]
    bench.post("jobs", {"settings": bench.settings(name="two")})
    bench.until("running", "one")
    bench.post(f"jobs/{first['id']}/stop", {"save": True})
    bench.go.set()
    assert bench.until("done", "one")["files"]
    assert bench.until("queued", "two")
    assert not bench.get("status")["running"]
    bench.post("queue/start", {})
    bench.until("done", "two")


def test_the_queue_is_edited_moved_copied_and_cleared(bench: Bench) -> None:
    ids = [
        bench.post("jobs", {"settings": bench.settings(name=name)})["job"]["id"]
        for name in ("one", "two", "three")
    ]
    bench.post(f"jobs/{ids[2]}/move", {"place": 0})
    changed = {"settings": bench.settings(name="one", steps=7)}
    assert bench.post(f"jobs/{ids[0]}", changed, method="PATCH")["job"]["name"] == "one"
    bench.post(f"jobs/{ids[1]}/duplicate", {})
    assert [job["name"] for job in bench.get("status")["jobs"]] == ["three", "one", "two", "two-2"]
    assert bench.get(f"jobs/{ids[0]}")["settings"]["steps"] == 7
    bench.post(f"jobs/{ids[1]}", {}, method="DELETE")
    assert ids[1] not in [job["id"] for job in bench.get("jobs")["jobs"]]
    bench.post("queue/start", {})
    bench.until("done", "two-2")
    assert bench.post("queue/clear", {}) == {"removed": 3}


def test_a_failed_job_says_why(bench: Bench) -> None:
    bench.post("jobs", {"settings": bench.settings(name="broken"), "start": True})
    assert bench.until("failed", "broken")["error"] == "images: are gone - look for them"


@pytest.mark.parametrize("path", ["jobs/77", "jobs/77/move", "jobs/77/fly"])
def test_unknown_jobs_and_actions(bench: Bench, path: str) -> None:
    body = None if path == "jobs/77" else {}
    send = bench.client.get if body is None else bench.client.post
    more = {} if body is None else {"json": body}
    answer = send(f"/trainyard/v1/{path}", headers=HEADERS, **more)
    assert answer.status_code == 422
    assert answer.json()["problems"]


def test_another_site_cannot_post(bench: Bench) -> None:
    answer = bench.client.post("/trainyard/v1/jobs", json={"settings": bench.settings()})
    assert answer.status_code == 403
    assert bench.get("status")["jobs"] == []


def test_the_plan_and_the_pictures(bench: Bench) -> None:
    pytest.importorskip("torch")
    found = bench.post("plan", {"settings": bench.settings(name="hat", trigger_word="ohwx")})
    assert found["problems"] == []
    assert "3 pictures" in found["plan"]["facts"]
    assert "10 steps of 2" in found["plan"]["facts"]
    assert found["plan"]["file"] == str(bench.host.output_dir / "hat.safetensors")
    data = found["data"]
    assert (data["count"], data["captioned"]) == (3, 1)
    assert data["frames"] == [{"height": 64, "width": 64, "samples": 3}]
    assert data["pictures"][0]["caption"] == "ohwx, a red square"
    number = data["pictures"][0]["thumbnail"]
    small = bench.client.get(f"/trainyard/v1/thumbnails/{number}")
    assert small.headers["content-type"] == "image/jpeg"
    assert small.content.startswith(b"\xff\xd8\xff")


def test_pictures_are_shown_while_something_else_is_missing(bench: Bench) -> None:
    found = bench.post("plan", {"settings": bench.settings(checkpoint="")})
    assert [problem["where"] for problem in found["problems"]] == ["checkpoint"]
    assert found["plan"] is None
    assert found["data"]["count"] == 3


def test_no_file_can_be_asked_for_that_no_form_named(bench: Bench) -> None:
    assert bench.client.get("/trainyard/v1/thumbnails/1").status_code == 422
    assert bench.client.get("/trainyard/v1/runs/csv?name=../jobs").status_code == 422
    assert bench.client.get("/trainyard/v1/runs/csv?name=nothing").status_code == 422


def test_presets(bench: Bench) -> None:
    settings = {"method": "lora", "rank": "7"}
    named = {"name": "sevens", "settings": settings}
    bench.post("presets/save", named)
    (problem,) = bench.post("presets/save", named, 422)["problems"]
    assert "exists already" in problem["what"]
    bench.post("presets/save", {**named, "overwrite": True})
    assert bench.post("presets/load", {"name": "sevens"})["values"] == settings
    bench.post("presets/rename", {"old": "sevens", "new": "eights"})
    own = [preset["name"] for preset in bench.get("presets")["presets"] if preset["own"]]
    assert own == ["eights"]
    bench.post("presets/delete", {"name": "eights"})
    assert not any(preset["own"] for preset in bench.get("presets")["presets"])


def test_settings_are_taken_from_files(bench: Bench) -> None:
    theirs = {"mode": "LoRA", "train_iterations": "321", "diff_alt_ratio": "2"}
    found = bench.post("presets/import", {"settings": theirs})
    assert found["values"]["steps"] == "321"
    assert [problem["where"] for problem in found["lost"]] == ["diff_alt_ratio"]
    metadata = {"trainyard_settings": '{"method": "lora", "rank": 5}', "ss_network_dim": "5"}
    found = bench.post("presets/import", {"settings": {"metadata": metadata}})
    assert found["values"] == {"method": "lora", "rank": "5"}
    bench.post("presets/import", {"settings": {"metadata": {"ss_network_dim": "5"}}}, 422)
    bench.post("presets/import", {"settings": {"colour": "red"}}, 422)


def test_choices_and_the_loaded_checkpoint(bench: Bench) -> None:
    found = bench.get("choices")
    assert found["choices"]["checkpoint"] == ["a.safetensors", "b.safetensors"]
    assert found["loaded"] == "b.safetensors"


def test_runs_as_curve_csv_and_picture(bench: Bench) -> None:
    bench.post("jobs", {"settings": bench.settings(name="hat"), "start": True})
    bench.until("done", "hat")
    assert [run["name"] for run in bench.get("runs")["runs"]] == ["hat"]
    curve = bench.get("runs/curve?name=hat")["curve"]
    assert [(point[0], point[1]) for point in curve][:2] == [(1, 0.5), (2, 0.25)]
    text = bench.client.get("/trainyard/v1/runs/csv?name=hat")
    assert text.text.startswith("step,loss,")
    assert "hat.csv" in text.headers["content-disposition"]
    pytest.importorskip("matplotlib")
    drawn = bench.client.get("/trainyard/v1/runs/plot?name=hat")
    assert drawn.content.startswith(b"\x89PNG")


def test_the_servers_documentation_lists_every_route(bench: Bench) -> None:
    paths = bench.client.get("/openapi.json").json()["paths"]
    add = paths["/trainyard/v1/jobs"]["post"]
    assert add["tags"] == ["Trainyard"]
    body = add["requestBody"]["content"]["application/json"]["schema"]["properties"]
    assert {name: one["type"] for name, one in body.items()} == {
        "settings": "object",
        "start": "boolean",
    }
    (header,) = (one for one in add["parameters"] if one["in"] == "header")
    assert (header["name"], header["required"]) == ("x-trainyard", True)
    job = paths["/trainyard/v1/jobs/{job_id}"]
    assert set(job) == {"get", "patch", "delete"}
    assert [(one["name"], one["in"]) for one in job["get"]["parameters"]] == [("job_id", "path")]
    wanted = ("schema", "check", "status", "log", "runs/samples", "presets", "presets/save")
    assert all(f"/trainyard/v1/{path}" in paths for path in wanted)


def test_the_schema_and_the_log(bench: Bench) -> None:
    names = [one["name"] for one in bench.get("schema")["parameters"]]
    assert {"checkpoint", "rank", "steps"} <= set(names)
    bench.yard.live.note("hello")
    assert bench.get("log")["log"][-1].endswith("hello")
