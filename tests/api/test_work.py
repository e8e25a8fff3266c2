"""What is taken into the queue: what could run, as far as files and folders go."""

from __future__ import annotations

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httpx")
pytest.importorskip("torch")
from .bench import Bench


def names(bench: Bench) -> list[str]:
    return [job["name"] for job in bench.get("jobs")["jobs"]]


def test_what_the_plan_refuses_is_not_taken_into_the_queue(bench: Bench) -> None:
    bench.host.output_dir.mkdir(exist_ok=True)
    (bench.host.output_dir / "hat.safetensors").touch()
    settings = bench.settings(name="hat", images="/nowhere")
    found = bench.post("jobs", {"settings": settings}, 422)["problems"]
    assert [problem["where"] for problem in found] == ["images", "name"]
    assert bench.get("jobs")["jobs"] == []
    waiting = bench.post("jobs", {"settings": bench.settings(name="cap")})["job"]
    changed = {"settings": settings}
    bench.post(f"jobs/{waiting['id']}", changed, 422, method="PATCH")
    assert bench.get(f"jobs/{waiting['id']}")["settings"]["name"] == "cap"


def test_a_file_that_a_job_before_makes_need_not_be_there_yet(bench: Bench) -> None:
    first = str(bench.host.output_dir / "first.safetensors")
    second = {"settings": bench.settings(name="second", resume_from=first)}
    (problem,) = bench.post("jobs", second, 422)["problems"]
    assert problem["where"] == "resume_from"
    bench.post("jobs", {"settings": bench.settings(name="first")})
    bench.post("jobs", second)
    bench.post("jobs", {"settings": bench.settings(name="by-name", resume_from="first")})
    assert names(bench) == ["first", "second", "by-name"]
    bench.post(
        "jobs", {"settings": bench.settings(name="third", resume_from="/no.safetensors")}, 422
    )
