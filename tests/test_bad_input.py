"""Bad input of the methods beside LoRA, on the command line: named, nothing computed, status 2."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from trainer import cli
from trainer.cli import runs, status

ROOT = Path(__file__).parents[1]

Case = tuple[str, Callable[[Path], dict[str, object]], str]


def pair(folder: Path, **changes: object) -> dict[str, object]:
    for name in ("before", "after"):
        Image.new("RGB", (64, 64), "red").save(folder / f"{name}.png")
    files = {"original_image": "before.png", "target_image": "after.png"}
    return {**{name: str(folder / file) for name, file in files.items()}, **changes}


def half_a_pair(folder: Path) -> dict[str, object]:
    return pair(folder, target_image=str(folder / "gone.png"))


def no_suffix(folder: Path) -> dict[str, object]:
    pair(folder)
    return {"images": str(folder), "pair_suffix": "_nothing"}


def foreign_lora(folder: Path) -> Path:
    path = folder / "foreign.safetensors"
    weights = {"lora_unet_double_blocks_0.lora_up.weight": torch.ones(4, 4)}
    weights["lora_unet_double_blocks_0.lora_down.weight"] = torch.ones(4, 4)
    save_file(weights, path)
    return path


def foreign_copier(folder: Path) -> dict[str, object]:
    return pair(folder, copier_file=str(foreign_lora(folder)))


def foreign_start(folder: Path) -> dict[str, object]:
    return pair(folder, resume_from=str(foreign_lora(folder)))


CASES: dict[str, Case] = {
    "both prompts empty": ("ileco", lambda _: {}, "and so is target_prompt"),
    "original empty": ("ileco", lambda _: {"target_prompt": "x"}, "original_prompt: is "),
    "prompt too long": ("ileco", lambda _: {"original_prompt": "red " * 300}, "225 are allowed"),
    "half a pair": ("difference", half_a_pair, "there is no picture"),
    "suffix matches nothing": ("multi_addift", no_suffix, "'_nothing' matches no pair"),
    "copier of another architecture": ("difference", foreign_copier, "foreign.safetensors"),
    "start of another architecture": ("addift", foreign_start, "foreign.safetensors"),
    "timesteps upside down": (
        "addift",
        lambda folder: pair(folder, min_timestep=900, max_timestep=100),
        "900 is not below max_timestep",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_named_and_ends_with_2(
    case: str, tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    method, made, message = CASES[case]
    settings = {"method": method, "checkpoint": str(tiny_checkpoint), "steps": 1, "rank": 2}
    (tmp_path / "files").mkdir()
    file = tmp_path / "job.json"
    file.write_text(json.dumps({**settings, "image_size_px": 64, **made(tmp_path / "files")}))
    ended = cli.main(["train", str(file), "--out", str(tmp_path / "out"), "--device", "cpu"])
    told = capsys.readouterr().err
    assert (ended, message in told) == (status.BAD_INPUT, True), told
    assert list((tmp_path / "out").glob("*.safetensors")) == []


def test_the_process_ends_so_too_and_shows_no_traceback(tmp_path: Path) -> None:
    file = tmp_path / "job.json"
    file.write_text('{"method": "lora", "checkpoint": "a", "images": "b", "rank": 0, "stepps": 1}')
    done = subprocess.run(
        [sys.executable, "-m", "trainer", "train", str(file)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2
    told = done.stderr.splitlines()
    assert sorted(line.partition(":")[0] for line in told) == ["rank", "stepps"]


def test_what_nobody_foresaw_is_a_line_and_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(path: Path, changes: object) -> None:
        raise ZeroDivisionError("in a test")

    monkeypatch.setattr(runs, "read_job", fail)
    assert cli.main(["train", "job.json", "--out", str(tmp_path)]) == status.FAILED
    told = capsys.readouterr().err
    report = tmp_path / "logs" / cli.ERROR_FILE
    assert "ZeroDivisionError: in a test" in told and str(report) in told
    assert "Traceback" not in told
    assert report.read_text("utf-8").startswith("Traceback")
