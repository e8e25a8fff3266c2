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

import numpy as np
import pytest
import torch
from PIL import Image

from trainer import cli
from trainer.cli import status
from trainer.cli.job_files import read_job
from trainer.cli.runs import read_there
from trainer.control import Request
from trainer.data.batches import LatentDataset
from trainer.data.folder import TrainingImage
from trainer.data.latents import LatentsInMemory
from trainer.data.views import View
from trainer.errors import BadInput, Problem
from trainer.networks import kohya
from trainer.training.distributed import Team
from trainer.training.sharing import batches_of, share_pictures

ROOT = Path(__file__).parents[2]
STEPS = 12


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> list[str]:
    """A job of two batches a step, beside which a prompt is held, and the arguments that name it.

    A state is saved every second step.
    """
    folder = tmp_path_factory.mktemp("job")
    for number in range(3):
        Image.new("RGB", (64, 64), (80 * number, 30, 200)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"picture {number}", "utf-8")
    settings = {
        "method": "lora",
        "checkpoint": str(tiny_checkpoint),
        "images": str(folder),
        "name": "result",
        "steps": STEPS,
        "batch_size": 2,
        "gradient_accumulation_steps": 2,
        "preserve_prompts": "red",
        "pool_size": 4,
        "pool_denoise_steps": 4,
        "rank": 2,
        "alpha": 2,
        "module_dropout": 0.5,
        "blocks": "IN01,OUT05",
        "image_size_px": 64,
        "bucket_step_px": 0,
        "save_precision": "fp32",
        "save_preview": False,
        "save_state_every_steps": 2,
        "seed": 1,
    }
    path = folder / "job.json"
    path.write_text(json.dumps(settings), "utf-8")
    return ["train", str(path), "--models", str(folder), "--device", "cpu"]


def torchrun(job: list[str], out: Path) -> None:
    """The job in two processes, by torch's own program for it."""
    program = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*program, "--nproc-per-node", "2", "-m", "trainer", *job, "--out", str(out)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(out.parent)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == status.DONE, done.stderr


@pytest.fixture(scope="module")
def team(job: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes made of the job."""
    out = tmp_path_factory.mktemp("team") / "out"
    torchrun(job, out)
    return out


def start(job: list[str], out: Path) -> list[subprocess.Popen[str]]:
    """The job in two processes that can be killed one by one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": "2",
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
        for rank in range(2)
    ]


def test_torchrun_gives_the_file_of_one_process_and_only_one_writes(job, team, tmp_path):
    assert cli.main([*job, "--out", str(tmp_path / "one")]) == status.DONE
    outs = (tmp_path / "one", team)
    one, two = (kohya.load(out / "result.safetensors")[0] for out in outs)
    assert one.keys() == two.keys()
    assert any(tensor.abs().max() > 1e-4 for name, tensor in one.items() if "lora_up" in name)
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, atol=1e-5, rtol=0)
    rows = [(out / "logs" / "result.csv").read_text() for out in outs]
    losses = [[float(row.split(",")[1]) for row in text.splitlines()[1:]] for text in rows]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert not list(team.parent.glob("trainyard-*"))  # what the second one wrote is gone


def test_a_dead_process_ends_the_others_and_the_team_goes_on_from_the_last_state(
    job, team, tmp_path
):
    out = tmp_path / "out"
    processes = start(job, out)
    states = out / "logs" / "states" / "result"
    deadline = time.monotonic() + 600
    while not list(states.glob("state-*.safetensors")):
        assert time.monotonic() < deadline, processes[0].stderr.read()
        assert processes[0].poll() is None, processes[0].stderr.read()
        time.sleep(0.02)
    processes[1].send_signal(signal.SIGKILL)
    _, errors = processes[0].communicate(timeout=300)
    processes[1].communicate()
    assert processes[0].returncode == status.FAILED
    assert "another process of this training has ended" in errors
    assert "Traceback" not in errors
    assert list(states.glob("state-*.safetensors"))
    assert not (out / "result.safetensors").exists()

    torchrun([*job, "--resume"], out)
    whole, resumed = (kohya.load(o / "result.safetensors")[0] for o in (team, out))
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())
    rows = [(o / "logs" / "result.csv").read_text().splitlines() for o in (team, out)]
    assert [r.split(",")[:4] for r in rows[0]] == [r.split(",")[:4] for r in rows[1]]
    assert not states.exists()


def test_each_process_encodes_its_share_of_the_pictures(monkeypatch):
    """Two processes in turn; each gets what the others have sent by then."""
    views = [View(TrainingImage(Path(f"{n}.png"), "", (8, 8)), (8, 8)) for n in range(5)]
    held = [LatentsInMemory(), LatentsInMemory()]
    held[1].put([views[3]], torch.full((1, 4, 1, 1), 3.0))  # this one lies in a cache
    encoded = [[], []]
    sent = {}
    monkeypatch.setattr(Team, "any_of", lambda team, flags: [True] * len(flags))
    monkeypatch.setattr(Team, "gathered", lambda team, own: sent.update(own) or dict(sent))

    def share(rank):
        def encode(some):
            new = [view for view in some if view not in held[rank]]
            encoded[rank].extend(new)
            for view in new:
                held[rank].put([view], torch.full((1, 4, 1, 1), float(views.index(view))))

        share_pictures(Team(rank, 2), [*views, views[0]], held[rank], encode, batch_size=1)

    for rank in (0, 1, 0):
        share(rank)
    assert encoded == [[views[0], views[2], views[4]], [views[1]]]
    for latents in held:
        assert [latents.get(view).mean().item() for view in views] == [0, 1, 2, 3, 4]


def test_a_picture_that_cannot_be_encoded_is_missing_everywhere(monkeypatch):
    view = View(TrainingImage(Path("broken.png"), "", (8, 8)), (8, 8))
    monkeypatch.setattr(Team, "any_of", lambda team, flags: flags)
    monkeypatch.setattr(Team, "gathered", lambda team, own: own)

    def encode(some):
        raise BadInput([Problem("broken.png", "cannot be decoded")])

    for rank in (0, 1):
        latents = LatentsInMemory()
        share_pictures(Team(rank, 2), [view], latents, encode, batch_size=4)
        assert view not in latents


def test_batches_are_those_that_the_dataset_encodes():
    names = "abcdefghi"
    views = [
        View(TrainingImage(Path(f"{name}.png"), "", (8, 8)), (8, 8 * (1 + (name in "cfg"))), mirror)
        for mirror in (False, True)
        for name in names
    ]
    encoded = []

    def encode(pixels):
        encoded.append(len(pixels))
        return torch.zeros(len(pixels), 4, 1, 1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trainer.data.batches.read_picture", lambda path: path)
        patch.setattr(
            "trainer.data.batches.cut_all",
            lambda path, some: [np.zeros((*view.frame_px, 3), np.uint8) for view in some],
        )
        LatentDataset(views, encode, encode_batch_size=4)
        whole = sorted(encoded)
        batches = batches_of(views, 4)
        assert sorted(map(len, batches)) == whole == [2, 4, 4, 4, 4]
        encoded.clear()
        for rank in range(2):
            own = {view for batch in batches[rank::2] for view in batch}
            LatentDataset([view for view in views if view in own], encode, encode_batch_size=4)
    assert sorted(encoded) == whole


@pytest.mark.parametrize("count", [1, 2, 5])
def test_each_process_computes_its_parts_of_the_rows(count, monkeypatch):
    whole = torch.arange(count * 3.0).view(count, 3)
    computed = []
    monkeypatch.setattr("trainer.training.distributed.dist.all_reduce", lambda rows: None)

    def compute(rows):
        computed.append(len(whole[rows]))
        return whole[rows]

    parts = [Team(rank, 2).in_parts(whole, 2, compute) for rank in (0, 1)]
    assert sum(parts).equal(whole)
    assert computed == {1: [1], 2: [2], 5: [2, 1, 2]}[count]
    assert Team().in_parts(whole, 2, compute).equal(whole)


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
    assert alone.any_of([True, False]) == [True, False]
    assert (alone.same_seed(-1), alone.same_seed(5)) == (-1, 5)


def test_a_weight_that_no_process_has_a_gradient_for_keeps_none(monkeypatch):
    """With module_dropout: one process then leaves it alone, also its momentum."""
    ours, theirs, left_out = (torch.nn.Parameter(torch.ones(2)) for _ in range(3))
    ours.grad = torch.tensor([1.0, 2.0])
    monkeypatch.setattr(Team, "any_of", lambda team, flags: [flags[0], True, flags[2]])
    monkeypatch.setattr("trainer.training.distributed.dist.all_reduce", lambda sums: sums.add_(1))
    loss = Team(0, 2).sum_gradients([ours, theirs, left_out], torch.tensor(3.0))
    assert (loss.item(), ours.grad.tolist(), theirs.grad.tolist()) == (4.0, [2.0, 3.0], [1.0, 1.0])
    assert left_out.grad is None


def test_all_but_the_first_process_read_its_files_and_write_into_nothing(tmp_path, monkeypatch):
    state = tmp_path / "logs" / "states" / "job" / "state"
    state.parent.mkdir(parents=True)
    state.write_bytes(b"of the first")
    sent = []
    monkeypatch.setattr(Team, "common", lambda self, value: sent.append(value) or sent[0])
    with Team(0, 2).output_folder(tmp_path, [state]) as out:
        assert out == tmp_path
    with Team(1, 2).output_folder(tmp_path, [state]) as out:
        assert out != tmp_path
        assert (out / "logs" / "states" / "job" / "state").read_bytes() == b"of the first"
    assert sent[1] == {}
    assert not out.exists()


def test_the_others_get_what_a_job_reads_in_the_folder_of_results(tmp_path, job):
    """A LoRA to continue from may be named as it is called there, and the result tells the end."""
    out, states = tmp_path / "out", tmp_path / "out" / "logs" / "states" / "result"
    elsewhere = tmp_path / "elsewhere.safetensors"
    there = [out / "result.safetensors", out / "styles" / "hat.safetensors", states / "state"]
    for file in (*there, elsewhere, out / "another.safetensors"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    settings = read_job(Path(job[1]))
    for named, read in (("styles/hat", there), (str(elsewhere), [there[0], there[2]])):
        found = list(read_there(settings.replace(resume_from=named), out, states))
        assert sorted(found) == sorted(read)
    assert list(read_there(settings.replace(resume_from="../elsewhere"), out, states)) == found
