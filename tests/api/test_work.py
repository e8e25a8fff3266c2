"""What is taken into the queue: what could run, as far as files and folders go."""

from __future__ import annotations

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httpx")
pytest.importorskip("torch")
from trainer.errors import BadInput, Problem

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


def grid(bench: Bench, **values: object) -> dict[str, object]:
    given = {"method": "grid", "checkpoint": "a", "prompts": "a hat", "name": "cells"}
    return {"settings": {**given, **values}}


def test_a_grid_that_cannot_be_drawn_is_not_taken_into_the_queue(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_such(settings: object) -> object:
        raise BadInput([Problem("checkpoint", "there is no 'a'", "choose another")])

    folder = bench.host.log_dir / "grids"
    folder.mkdir(parents=True)
    (folder / "cells.png").touch()
    bench.lora("there")
    gone = bench.host.output_dir / "gone.safetensors"
    wanted = grid(bench, loras=f"there\n{gone}\nnowhere")
    with monkeypatch.context() as patched:
        patched.setattr(bench.host, "check_model", no_such)
        found = bench.post("jobs", wanted, 422)["problems"]
    assert [problem["where"] for problem in found] == ["checkpoint", "loras", "loras", "name"]
    assert [problem["what"].split()[0] for problem in found[1:3]] == [str(gone), "nowhere"]
    assert "cells-2" in found[3]["cure"]
    assert names(bench) == []


def test_a_grid_whose_folder_cannot_be_written_to_is_refused(bench: Bench) -> None:
    bench.host.log_dir.write_text("in the way", "utf-8")
    bench.lora("hat")
    (problem,) = bench.post("jobs", grid(bench, loras="hat"), 422)["problems"]
    assert problem["where"] == "log folder"


def test_a_grid_may_wait_for_the_files_of_a_training_before_it(bench: Bench) -> None:
    bench.post("jobs", grid(bench, loras="hat\nhat-step00000005"), 422)
    bench.post("jobs", {"settings": bench.settings(name="hat")})
    bench.post("jobs", grid(bench, loras="hat\nhat-step00000005"))
    (problem,) = bench.post("jobs", grid(bench, loras="hat\ncells", name="b"), 422)["problems"]
    assert problem["what"].startswith("cells "), "a grid makes no LoRA"


def test_the_copy_of_a_grid_has_a_name_of_its_own(bench: Bench) -> None:
    bench.lora("hat")
    job = bench.post("jobs", {**grid(bench, loras="hat"), "start": True})["job"]
    bench.until("done", "cells")
    picture = bench.host.log_dir / "grids/cells.png"
    picture.parent.mkdir(parents=True, exist_ok=True)
    picture.touch()
    bench.post(f"jobs/{job['id']}/duplicate", {})
    assert names(bench) == ["cells", "cells-2"]
