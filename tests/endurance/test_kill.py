"""kill -9 at any moment: no broken file, the queue intact, and the same bytes in the end."""

from __future__ import annotations

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
DEATHS = 30
MOST_RUNS = 80
SEED = 6

Run = Callable[[Path, str, int], tuple[int, int]]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")


@pytest.fixture
def run() -> Iterator[Run]:
    """Runs the queue of a folder, to be killed at some call of a phase (0: never).

    Gives its wait status (0: it came to its end) and how many calls there were.
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

        def ask(folder: Path, phase: str, call: int) -> tuple[int, int]:
            assert process.stdin is not None and process.stdout is not None
            wanted = {"folder": str(folder), "phase": phase, "call": call}
            process.stdin.write(json.dumps(wanted) + "\n")
            process.stdin.flush()
            answer = json.loads(process.stdout.readline())
            return answer["status"], answer["calls"]

        yield ask
        process.kill()


def new_queue(folder: Path, checkpoint: Path) -> Path:
    """A folder with a job for the victim, the same wherever it lies."""
    pictures = folder / "pictures"
    pictures.mkdir(parents=True)
    for number in range(2):
        Image.new("RGB", (64, 64), (90 * number, 30, 200)).save(pictures / f"{number}.png")
        (pictures / f"{number}.txt").write_text(f"picture {number}", "utf-8")
    job = {
        "method": "lora",
        "checkpoint": str(checkpoint),
        "images": str(pictures),
        "name": "hat",
        "steps": 4,
        "batch_size": 1,
        "rank": 2,
        "alpha": 2,
        "blocks": "M00",
        "image_size_px": 64,
        "bucket_step_px": 0,
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
    states = [path for path in (out / "logs/states").rglob("*") if path.name != ".hat.lock"]
    assert states == []
    return found


def test_whatever_the_moment_the_job_goes_on(
    run: Run, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    draw = random.Random(SEED)
    folder = tmp_path / "queue"
    totals: dict[str, int] = {}
    for phase in PHASES:  # one run for each, because counting takes time
        new_queue(folder, tiny_checkpoint)
        status, totals[phase] = run(folder, phase, 0)
        assert status == 0
        wanted = result_of(folder)
        shutil.rmtree(folder)
    deaths: Counter[str] = Counter()
    new_queue(folder, tiny_checkpoint)
    for number in range(MOST_RUNS):
        phase = PHASES[number % len(PHASES)]
        status, _ = run(folder, phase, draw.randint(1, totals[phase]))
        check_files(folder)
        if status:
            deaths[phase] += 1
            assert len(jobs_of(folder)) <= 1
        else:  # it was over before that moment
            assert result_of(folder) == wanted
            shutil.rmtree(folder)
            if deaths.total() >= DEATHS:
                break
            new_queue(folder, tiny_checkpoint)
    assert deaths.total() >= DEATHS
    assert min(deaths.values()) >= 3 and set(deaths) == set(PHASES), deaths
