"""Several processes give what one gives, and end cleanly when one of them dies."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from trainer import cli
from trainer.cli import status
from trainer.control import Request
from trainer.errors import BadInput
from trainer.networks import kohya
from trainer.training.distributed import Team

ROOT = Path(__file__).parents[2]


@pytest.fixture
def job(tmp_path: Path, tiny_checkpoint: Path, pictures: Path) -> list[str]:
    """A job of two batches a step, and the arguments that name it."""
    settings = {
        "method": "lora",
        "checkpoint": str(tiny_checkpoint),
        "images": str(pictures),
        "name": "result",
        "steps": 4,
        "batch_size": 2,
        "gradient_accumulation_steps": 2,
        "rank": 2,
        "alpha": 2,
        "blocks": "IN01,OUT05",
        "image_size_px": 64,
        "bucket_step_px": 0,
        "save_precision": "fp32",
        "save_preview": False,
        "seed": 1,
    }
    path = tmp_path / "job.json"
    path.write_text(json.dumps(settings), "utf-8")
    return ["train", str(path), "--models", str(tmp_path), "--device", "cpu"]


def start(job: list[str], out: Path, size: int = 2) -> list[subprocess.Popen[str]]:
    """The job in several processes, as torchrun starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(size),
        "TMPDIR": str(out.parent),
    }
    return [
        subprocess.Popen(
            [sys.executable, "-m", "trainer", *job, "--out", str(out)],
            cwd=ROOT,
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]


def test_two_processes_give_the_file_of_one_and_only_one_writes(job, tmp_path):
    assert cli.main([*job, "--out", str(tmp_path / "one")]) == status.DONE
    for process in start(job, tmp_path / "two"):
        _, errors = process.communicate(timeout=600)
        assert process.returncode == status.DONE, errors
    one, two = (kohya.load(tmp_path / out / "result.safetensors")[0] for out in ("one", "two"))
    assert one.keys() == two.keys()
    assert any(tensor.abs().max() > 1e-4 for name, tensor in one.items() if "lora_up" in name)
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, atol=1e-5, rtol=0)
    rows = [(tmp_path / out / "logs" / "result.csv").read_text() for out in ("one", "two")]
    losses = [[float(row.split(",")[1]) for row in text.splitlines()[1:]] for text in rows]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert not list(tmp_path.glob("trainyard-*"))  # what the second one wrote is gone


def test_a_dead_process_ends_the_others_and_the_last_state_is_kept(job, tmp_path):
    out = tmp_path / "out"
    long = [*job, "--set", "steps=100000", "--set", "save_state_every_steps=2"]
    processes = start(long, out)
    states = out / "logs" / "states" / "result"
    deadline = time.monotonic() + 600
    while not list(states.glob("state-*.safetensors")):
        assert time.monotonic() < deadline, processes[0].stderr.read()
        assert processes[0].poll() is None, processes[0].stderr.read()
        time.sleep(0.05)
    processes[1].send_signal(signal.SIGKILL)
    _, errors = processes[0].communicate(timeout=300)
    processes[1].communicate()
    assert processes[0].returncode == status.FAILED
    assert "another process of this training has ended" in errors
    assert "Traceback" not in errors
    assert list(states.glob("state-*.safetensors"))
    assert not (out / "result.safetensors").exists()


@pytest.mark.parametrize("size", [1, 2, 3, 6])
def test_batches_are_shared_evenly(size):
    assert sum(Team(rank, size).share(6) for rank in range(size)) == 6


def test_batches_that_cannot_be_shared_name_the_setting_and_the_number():
    with pytest.raises(BadInput, match="gradient_accumulation_steps.*set it to 4"):
        Team(0, 4).share(6)


def test_one_process_is_a_team_that_asks_nobody():
    alone, weight = Team(), torch.nn.Parameter(torch.ones(2))
    weight.grad = torch.tensor([1.0, 2.0])
    loss = alone.sum_gradients([weight], torch.tensor(3.0))
    assert (loss.item(), weight.grad.tolist()) == (3.0, [1.0, 2.0])
    assert alone.agreed(Request.STOP) is Request.STOP
    assert alone.common("x") == "x"
    assert (alone.same_seed(-1), alone.same_seed(5)) == (-1, 5)


def test_all_but_the_first_process_read_its_states_and_write_into_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(Team, "common", lambda self, value: {"state": b"of the first"})
    kept = tmp_path / "logs" / "states" / "job"
    with Team(1, 2).output_folder(tmp_path, kept) as out:
        assert out != tmp_path
        assert (out / "logs" / "states" / "job" / "state").read_bytes() == b"of the first"
    assert not out.exists()
    assert list(tmp_path.iterdir()) == []
    with Team(0, 2).output_folder(tmp_path, kept) as out:
        assert out == tmp_path
