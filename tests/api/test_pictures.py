"""Grids and named pictures, asked as the page asks them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from trainer.api.thumbnails import Thumbnails
from trainer.settings.grid import PARAMETERS, parse_grid

pytest.importorskip("fastapi")
pytest.importorskip("httpx")
from trainer.api import run_routes

from .bench import Bench


def saved(bench: Bench, name: str, when: int) -> Path:
    """An empty file among the results, as if it was saved at that time."""
    path = bench.host.output_dir / f"{name}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    os.utime(path, (when, when))
    return path


def test_a_grid_of_a_run_begins_with_its_save_points_and_settings(bench: Bench) -> None:
    given = bench.settings(name="hat", trigger_word="ohwx", sample_seed=7, clip_skip=2)
    bench.post("jobs", {"settings": given, "start": True})
    bench.until("done", "hat")
    names = [*(f"hat-step{step:08d}" for step in range(100, 900, 100)), "hat"]
    for when, name in enumerate((*names, "hat-blue", "chat", "hatter-000001")):
        saved(bench, name, when)
    found = bench.get("grids/proposal?name=hat")
    assert [file["name"] for file in found["files"]] == names
    chosen = [file["name"] for file in found["files"] if file["chosen"]]
    assert chosen == ["hat-step00000200", *(f"hat-step00000{n}00" for n in (4, 5, 7)), "hat"]
    settings = found["settings"]
    assert (settings["prompts"], settings["name"]) == ("ohwx", "hat-grid-1")
    assert (settings["size_px"], settings["clip_skip"], settings["seeds"]) == ("64", "2", "7")
    assert set(settings) == set(PARAMETERS) - {"loras"}
    parse_grid({**settings, "loras": found["files"][0]["path"]})


def test_of_several_runs_the_last_files_are_compared(bench: Bench) -> None:
    for when, name in enumerate(("hat-000001", "hat", "coat-000001", "coat")):
        saved(bench, name, when)
    for name in ("hat", "coat"):
        bench.post("jobs", {"settings": bench.settings(name=name, overwrite=True)})
    files = bench.get("grids/proposal?name=hat&name=coat")["files"]
    assert [file["name"] for file in files if file["chosen"]] == ["hat", "coat"]


def test_a_damaged_file_is_offered_as_the_others(bench: Bench) -> None:
    saved(bench, "hat", 1)
    found = bench.get("grids/proposal?name=hat")
    assert [file["name"] for file in found["files"]] == ["hat"]
    assert found["settings"]["name"] == "hat-grid-1"


def test_the_folder_of_logs_may_be_changed_while_the_program_runs(bench: Bench) -> None:
    bench.host.log_dir = bench.host.log_dir.parent / "elsewhere"
    for path in ("grids/cells.png", "samples/hat/00000010-00.png"):
        picture = bench.host.log_dir / path
        picture.parent.mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(picture)
    assert [grid["name"] for grid in bench.get("grids")["grids"]] == ["cells"]
    (sample,) = bench.get("runs/samples?name=hat")["samples"]
    for path in ("grids/picture?name=cells", f"runs/sample?name=hat&file={sample['file']}"):
        assert bench.client.get(f"/trainyard/v1/{path}").headers["content-type"] == "image/png"


def test_a_text_that_can_be_no_picture_is_not_there(bench: Bench) -> None:
    """Such as a prompt that was put into the wrong field."""
    settings = {"method": "addift", "checkpoint": "a", "original_image": "a hat, " * 100}
    (row,) = bench.post("plan", {"settings": settings})["named"]
    assert [one["problem"] for one in row["pictures"]] == ["is not there"]


def test_a_small_picture_has_another_number_after_a_start(tmp_path: Path) -> None:
    """A browser keeps what it got under a number for an hour."""
    before, after = Thumbnails(), Thumbnails()
    assert before.identify(tmp_path / "cat.png") != after.identify(tmp_path / "dog.png")


def test_a_run_without_files_has_no_grid(bench: Bench) -> None:
    for query in ("name=gone", "name=../jobs", ""):
        assert bench.client.get(f"/trainyard/v1/grids/proposal?{query}").status_code == 422


def test_a_grid_is_a_job_and_its_picture_is_shown(bench: Bench) -> None:
    pytest.importorskip("torch")
    bench.lora("b")
    settings = {"method": "grid", "checkpoint": "a", "loras": "b", "prompts": "c", "name": "cells"}
    job = bench.post("jobs", {"settings": settings, "start": True})["job"]
    assert job["method"] == "grid"
    bench.until("done", "cells")
    (problem,) = bench.post("jobs", {"settings": {**settings, "seeds": "x"}}, 422)["problems"]
    assert problem["where"] == "seeds"
    folder = bench.host.log_dir / "grids"
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (300, 200), "red").save(folder / "cells.png")
    (grid,) = bench.get("grids")["grids"]
    assert grid["name"] == "cells"
    shown = bench.client.get("/trainyard/v1/grids/picture?name=cells")
    assert shown.headers["content-type"] == "image/png"
    small = bench.client.get(f"/trainyard/v1/thumbnails/{grid['thumbnail']}")
    assert small.headers["content-type"] == "image/jpeg"
    for name in ("../jobs", "nothing", ""):
        assert bench.client.get(f"/trainyard/v1/grids/picture?name={name}").status_code == 422


def test_named_pictures_are_shown_with_their_sizes(bench: Bench, tmp_path: Path) -> None:
    wide = tmp_path / "wide.png"
    Image.new("RGB", (96, 64)).save(wide)
    settings = {
        "method": "difference",
        "original_image": f"{bench.pictures / '0.png'}\n{bench.pictures / '1.png'}",
        "target_image": f"{bench.pictures / '2.png'}\n{wide}\n{tmp_path / 'gone.png'}",
    }
    rows = bench.post("plan", {"settings": settings})["named"]
    assert [row["same_size"] for row in rows] == [True, False, True]
    before, after = rows[1]["pictures"]
    assert (before["field"], after["field"]) == ("original_image", "target_image")
    assert (before["height"], before["width"], after["width"]) == (64, 64, 96)
    assert rows[2]["pictures"][0]["problem"] == "is not there"
    answer = bench.client.get(f"/trainyard/v1/thumbnails/{after['thumbnail']}")
    assert answer.content.startswith(b"\xff\xd8\xff")


def test_prompts_are_counted_as_the_text_encoder_counts_them(bench: Bench) -> None:
    pytest.importorskip("transformers")
    settings = {
        "method": "ileco",
        "original_prompt": "a photo of a (red:1.3) hat",  # CLIP: one token a word
        "target_prompt": "blue\n" + "word " * 80,
        "neutral_prompt": "",
        "sample_prompts": "one, two",  # the comma is one
        "description": "not a prompt",
    }
    counts = bench.post("plan", {"settings": settings})["tokens"]
    assert counts == {"original_prompt": 6, "target_prompt": 80, "sample_prompts": 3}


@pytest.mark.parametrize(
    ("allowed", "address", "headers", "opened"),
    [
        (True, "127.0.0.1", {}, True),
        (False, "127.0.0.1", {}, False),
        (True, "192.168.0.7", {}, False),
        (True, "127.0.0.1", {"host": "me.example"}, False),
        (True, "127.0.0.1", {"x-forwarded-for": "10.0.0.9"}, False),
    ],
)
def test_a_folder_opens_only_for_who_sits_at_this_machine(
    bench: Bench,
    monkeypatch: pytest.MonkeyPatch,
    allowed: bool,
    address: str,
    headers: dict[str, str],
    opened: bool,
) -> None:
    from fastapi.testclient import TestClient

    asked: list[Path] = []
    monkeypatch.setattr(run_routes, "_open", lambda folder: asked.append(folder) or True)
    bench.yard.opens_folders = allowed
    job = bench.post("jobs", {"settings": bench.settings(name="hat")})["job"]
    sent = {"X-Trainyard": "1", **headers}
    client = TestClient(_from(address, bench.client.app), base_url="http://127.0.0.1")
    answer = client.post("/trainyard/v1/open-folder", json={"job": job["id"]}, headers=sent)
    assert answer.json() == {"folder": str(bench.host.output_dir), "opened": opened}
    assert bool(asked) is opened


@pytest.mark.skipif(sys.platform in run_routes.OPENERS, reason="always has a desktop")
@pytest.mark.parametrize("desktop", [None, *run_routes.DESKTOPS])
def test_where_there_is_no_desktop_no_folder_opens(
    desktop: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[object] = []
    monkeypatch.setattr(subprocess, "Popen", lambda *told, **more: begun.append(told))
    for name in run_routes.DESKTOPS:
        monkeypatch.delenv(name, raising=False)
    if desktop:
        monkeypatch.setenv(desktop, ":0")
    assert run_routes._open(tmp_path) is bool(desktop)
    assert bool(begun) is bool(desktop)


def _from(address: str, app: object) -> object:
    """The server as it looks to a client at that address."""

    async def called(scope: dict[str, object], receive: object, send: object) -> None:
        await app({**scope, "client": (address, 5000)}, receive, send)  # type: ignore[operator]

    return called
