"""kill -9 at any moment: no broken file, the queue intact, and the same bytes in the end."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]
PHASES = ("encoding", "stepping", "saving", "database")
METHODS = ("lora", "ileco", "difference", "addift")
DEATHS, DEATHS_OF_A_JOB = 30, 4
MOST_RUNS = 80
SEED = 6

Run = Callable[..., tuple[int, dict[str, int]]]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")


@pytest.fixture
def run() -> Iterator[Run]:
    """Runs the queue of a folder, to be killed at some call of a phase; without one, never.

    Gives its wait status (0: it came to its end) and how many calls each phase had.
    """
    with subprocess.Popen(
        [sys.executable, "-m", "tests.endurance.victim"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:

        def ask(
            folder: Path, phase: str | None = None, call: int = 0
        ) -> tuple[int, dict[str, int]]:
            assert process.stdin is not None and process.stdout is not None
            wanted = {"folder": str(folder), "phase": phase, "call": call}
            process.stdin.write(json.dumps(wanted) + "\n")
            process.stdin.flush()
            answer = json.loads(process.stdout.readline())
            return answer["status"], answer["calls"]

        yield ask
        process.kill()


def new_queue(folder: Path, checkpoint: Path, method: str) -> Path:
    """A folder with a job for the victim, the same wherever it lies."""
    pictures = folder / "pictures"
    pictures.mkdir(parents=True)
    for number in range(2):
        Image.new("RGB", (64, 64), (90 * number, 30, 200)).save(pictures / f"{number}.png")
        (pictures / f"{number}.txt").write_text(f"picture {number}", "utf-8")
    before, after = (str(pictures / f"{number}.png") for number in range(2))
    pair = {"original_image": before, "target_image": after, "bucket_step_px": 0}
    learnt = {
        "lora": {"images": str(pictures), "bucket_step_px": 0},
        "ileco": {
            "original_prompt": "red",
            "target_prompt": "blue",
            "pool_size": 4,
            "pool_denoise_steps": 2,
            "pool_latents": "both",
        },
        "difference": pair,
        "addift": pair,
    }[method]
    job = {
        "method": method,
        **learnt,
        "checkpoint": str(checkpoint),
        "name": "hat",
        "steps": 4,
        "batch_size": 1,
        "rank": 2,
        "alpha": 2,
        "blocks": "M00",
        "image_size_px": 64,
        "seed": 1,
        "save_state_every_steps": 1,
        "save_every_steps": 3,
        "save_preview": False,
    }
    (folder / "job.json").write_text(json.dumps(job), "utf-8")
    return folder


def check_files(folder: Path) -> None:
    """Every file that has its name is whole."""
    for path in (folder / "out").rglob("*"):
        if path.name.startswith("."):
            continue
        if path.suffix == ".safetensors":
            assert all(tensor.isfinite().all() for tensor in load_file(path).values()), path
        elif path.suffix == ".json":
            assert json.loads(path.read_text("utf-8")), path
        elif path.suffix == ".csv":
            assert path.read_text("utf-8").startswith("step,loss,")
        else:
            assert path.is_dir(), path


def jobs_of(folder: Path) -> list[tuple[str, str]]:
    """Names and states of the queue, after a check of its file."""
    connection = sqlite3.connect(folder / "jobs.sqlite")
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    rows = connection.execute("SELECT name FROM sqlite_master WHERE name = 'jobs'").fetchall()
    found = connection.execute("SELECT name, state FROM jobs").fetchall() if rows else []
    connection.close()
    return found


def result_of(folder: Path) -> dict[str, bytes]:
    """What lies in the output folder when the job is done."""
    assert jobs_of(folder) == [("hat", "done")]
    out = folder / "out"
    found = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    assert set(found) == {"hat.safetensors", "hat-step00000003.safetensors", "hat.json"}
    assert list((out / "logs/states").iterdir()) == []
    return found


def test_whatever_the_moment_the_job_goes_on(
    run: Run, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    draw = random.Random(SEED)
    folder = tmp_path / "queue"
    wanted, totals = {}, {}
    for method in METHODS:
        new_queue(folder, tiny_checkpoint, method)
        status, totals[method] = run(folder)
        assert status == 0
        wanted[method] = result_of(folder)
        shutil.rmtree(folder)
    deaths: Counter[str] = Counter()
    methods = itertools.cycle(METHODS)
    new_queue(folder, tiny_checkpoint, method := next(methods))
    left = DEATHS_OF_A_JOB
    for number in range(MOST_RUNS):
        phase = PHASES[number % len(PHASES)]
        call = draw.randint(1, totals[method][phase])
        status, _ = run(folder, phase, call) if left else run(folder)
        check_files(folder)
        if status:
            left -= 1
            deaths.update((phase, method))
            assert len(jobs_of(folder)) <= 1
        else:  # it was over before that moment
            assert result_of(folder) == wanted[method]
            shutil.rmtree(folder)
            if sum(deaths[phase] for phase in PHASES) >= DEATHS:
                break
            new_queue(folder, tiny_checkpoint, method := next(methods))
            left = DEATHS_OF_A_JOB
    assert sum(deaths[phase] for phase in PHASES) >= DEATHS
    assert min(deaths[name] for name in (*PHASES, *METHODS)) >= 3, deaths
