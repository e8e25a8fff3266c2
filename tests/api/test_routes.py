"""The routes, asked as the page asks them; jobs are done by a stand-in."""

from __future__ import annotations

import threading

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httpx")
from trainer.api import form
from trainer.lock import FileLock
from trainer.settings.schema import parse

from .bench import HEADERS, STEPS, Bench


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


def test_the_plan_offers_the_next_name_when_a_job_has_it(bench: Bench) -> None:
    hat = {"settings": bench.settings(name="hat")}
    assert bench.post("plan", hat)["plan"]["named"] is None
    bench.go.clear()
    number = bench.post("jobs", hat)["job"]["id"]
    for state, what in (("queued", "waits"), ("running", "runs now")):
        bench.until(state, "hat")
        answer = bench.post("plan", hat)
        assert answer["problems"] == []
        assert what in answer["plan"]["named"]["what"]
        assert answer["plan"]["named"]["instead"] == "hat-2"
        assert answer["plan"]["file"].endswith("hat-2.safetensors")
        if state == "queued":
            assert bench.post("plan", {**hat, "edited": number})["plan"]["named"] is None
            bench.post("queue/start", {})
    over = {"settings": bench.settings(name="HAT", overwrite=True)}
    assert bench.post("plan", over)["plan"]["named"] is None
    bench.post(f"jobs/{number}/stop", {"save": True})
    bench.go.set()
    bench.until("done", "hat")
    assert bench.post("plan", hat)["plan"]["named"] is None, "its file is gone"
    bench.lora("hat")
    assert "is saved" in bench.post("plan", hat)["plan"]["named"]["what"]
    bench.post("queue/clear", {})
    (problem,) = bench.post("plan", hat)["problems"]
    assert (problem["where"], problem["instead"]) == ("name", "hat-2")
    assert bench.post("plan", {"settings": bench.settings(name="hat-2")})["problems"] == []


def test_a_job_is_started_while_another_program_works_on_the_queue(bench: Bench) -> None:
    path = bench.yard.store.path
    with FileLock(path.with_name(path.name + ".lock")):
        answer = bench.post("jobs", {"settings": bench.settings(name="hat"), "start": True})
    assert "already working on this queue" in answer["note"]
    assert answer["job"]["state"] == "queued"
    assert [job["name"] for job in bench.get("jobs")["jobs"]] == ["hat"]


def test_a_job_goes_on_while_another_program_works_on_the_queue(bench: Bench) -> None:
    bench.go.clear()
    bench.post("jobs", {"settings": bench.settings(name="hat"), "start": True})
    job = bench.until("running", "hat")
    bench.post(f"jobs/{job['id']}/stop", {"save": False})
    bench.go.set()
    bench.until("cancelled", "hat")
    path = bench.yard.store.path
    with FileLock(path.with_name(path.name + ".lock")):
        done = bench.post(f"jobs/{job['id']}/requeue", {"resume": True})["done"]
    assert "already working on this queue" in done["note"]
    assert bench.get(f"jobs/{job['id']}")["state"] == "queued"


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
    assert bench.post("queue/clear", {}) == {"removed": 3, "kept": 0}


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
    given = bench.settings(name="hat", trigger_word="ohwx", save_every_steps=5)
    found = bench.post("plan", {"settings": given})
    assert found["problems"] == []
    facts = {"3 pictures", "10 steps of 2", "1 copy saved on the way"}
    assert facts <= set(found["plan"]["facts"])
    assert found["plan"]["file"] == str(bench.host.output_dir / "hat.safetensors")
    data = found["data"]
    assert (data["count"], data["captioned"]) == (3, 1)
    assert data["frames"] == [{"height": 64, "width": 64, "samples": 3}]
    assert data["pictures"][0]["caption"] == "ohwx, a red square"
    number = data["pictures"][0]["thumbnail"]
    small = bench.client.get(f"/trainyard/v1/thumbnails/{number}")
    assert small.headers["content-type"] == "image/jpeg"
    assert small.content.startswith(b"\xff\xd8\xff")


def test_plans_that_take_long_hold_up_neither_progress_nor_a_stop(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = threading.Event()

    def wait(*given: object) -> dict[str, object]:
        seen.wait(60)
        return {}

    monkeypatch.setattr(form, "plan", wait)
    body = {"settings": bench.settings()}
    plans = [threading.Thread(target=bench.post, args=("plan", body)) for _ in range(5)]
    for plan in plans:
        plan.start()
    asked = threading.Thread(target=bench.get, args=("status",))
    asked.start()
    asked.join(30)
    answered = not asked.is_alive()
    seen.set()
    for thread in (*plans, asked):
        thread.join(60)
    assert answered


def test_the_plan_tells_the_steps_of_both_passes(bench: Bench) -> None:
    pytest.importorskip("torch")
    settings = {key: value for key, value in bench.settings().items() if key != "images"}
    pair = {name: str(bench.pictures / "0.png") for name in ("original_image", "target_image")}
    second = {"second_pass": {"steps": 3, "batch_size": 4}}
    asked = {**settings, **pair, **second, "method": "difference"}
    found = bench.post("plan", {"settings": asked})
    assert "10 steps of 2 and then 3 steps of 4" in found["plan"]["facts"]
    assert "3.0 epochs" in found["plan"]["facts"]


def test_the_learning_rate_is_shown_before_the_training(bench: Bench) -> None:
    pytest.importorskip("diffusers")
    settings = bench.settings(steps=2000, lr_scheduler="linear", learning_rate=1e-3)
    rates = bench.post("rates", {"settings": {**settings, "lr_warmup_steps": 1000}})["rates"]
    assert len(rates) <= 502
    course = dict(map(tuple, rates))
    assert course[1] == 0
    assert course[501] == pytest.approx(5e-4), "half way up the warm-up"
    assert course[2000] == pytest.approx(1e-6), "linear: the last of 1000 steps down to 0"
    (problem,) = bench.post("rates", {"settings": {**settings, "steps": 10_000_000}}, 422)[
        "problems"
    ]
    assert problem["where"] == "steps"


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


def test_folders_that_are_slow_to_look_through_hold_up_no_other_request(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []

    def loras() -> list[str]:
        threads.append(threading.current_thread().name)
        return []

    monkeypatch.setattr(bench.host, "loras", loras)
    bench.get("choices")
    assert threads[0].startswith("trainyard-form")


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
    assert parse(body["settings"]["example"]).method == "lora"
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
