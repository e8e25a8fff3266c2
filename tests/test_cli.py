"""The command line as a user meets it: what works, and a clear message for what does not."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import pickle
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from trainer import cli
from trainer.cli import status
from trainer.cli.job_files import read_job
from trainer.cli.progress import show_progress
from trainer.control import Control, Request
from trainer.events import Notice, PhaseProgress, PhaseStarted, StepDone
from trainer.hosts.standalone import StandaloneHost
from trainer.networks import kohya
from trainer.run import run_job

ROOT = Path(__file__).parents[1]


@pytest.fixture
def job(tmp_path: Path, tiny_checkpoint: Path, pictures: Path):
    """Writes a job file, changed by keywords, and returns the arguments that name it."""

    def write(**changes: object) -> list[str]:
        settings = {
            "method": "lora",
            "checkpoint": tiny_checkpoint.name,
            "images": str(pictures),
            "name": "result",
            "steps": 3,
            "rank": 4,
            "alpha": 4,
            "image_size_px": [64, 96],
            "bucket_step_px": 32,
            "min_length_px": 32,
            "seed": 1,
        }
        path = tmp_path / "job.json"
        path.write_text(json.dumps({**settings, **changes}), "utf-8")
        return [
            str(path),
            "--models",
            str(tiny_checkpoint.parent),
            "--out",
            str(tmp_path / "out"),
            "--device",
            "cpu",
        ]

    return write


def test_train_writes_the_file_the_copies_and_the_log(job, tmp_path):
    assert cli.main(["train", *job(save_every_steps=2, trigger_word="zib")]) == status.DONE
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} == {
        "logs",
        "result.safetensors",
        "result.json",
        "result.png",
        "result-step00000002.safetensors",
    }
    tensors, metadata = kohya.load(out / "result.safetensors")
    assert len(tensors) == 3 * (192 + 12)
    assert all(t.dtype is torch.float16 for t in tensors.values())
    assert any(t.abs().max() > 0 for n, t in tensors.items() if n.endswith("lora_up.weight"))
    assert metadata["ss_steps"] == "3"
    assert metadata["ss_base_model_version"] == "sd_v1"
    with (out / "logs" / "result.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["1", "2", "3"]
    assert all(float(row["loss"]) > 0 for row in rows)


def test_same_seed_same_file_other_seed_another(job, tmp_path):
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        assert cli.main(["train", *job(name=name, seed=seed)]) == status.DONE
    a, b, c = (kohya.load(tmp_path / "out" / f"{n}.safetensors")[0] for n in "abc")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not all(torch.equal(a[name], c[name]) for name in a)


def test_gradient_checkpointing_trains_the_same(job, tmp_path):
    for name, parts in (("a", ""), ("b", "attention"), ("c", "all")):
        on = {"gradient_checkpointing": True, "checkpointed_parts": parts} if parts else {}
        assert cli.main(["train", *job(name=name, **on)]) == status.DONE
    a, b, c = (kohya.load(tmp_path / "out" / f"{n}.safetensors")[0] for n in "abc")
    for name in a:
        torch.testing.assert_close(a[name].float(), b[name].float(), atol=1e-4, rtol=1e-2)
        torch.testing.assert_close(a[name].float(), c[name].float(), atol=1e-4, rtol=1e-2)


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_precisions_train(job, tmp_path, precision):
    arguments = job(base_precision=precision, save_precision="fp32")
    assert cli.main(["train", *arguments]) == status.DONE
    tensors, _ = kohya.load(tmp_path / "out" / "result.safetensors")
    assert all(t.dtype is torch.float32 for t in tensors.values())


def test_resume_continues_from_a_file(job, tmp_path):
    assert cli.main(["train", *job(name="first")]) == status.DONE
    first = tmp_path / "out" / "first.safetensors"
    arguments = job(name="second", resume_from=str(first), learning_rate=1e-9, steps=1)
    assert cli.main(["train", *arguments]) == status.DONE
    before = kohya.load(first)[0]
    after = kohya.load(tmp_path / "out" / "second.safetensors")[0]
    for name in before:
        torch.testing.assert_close(after[name], before[name], atol=2e-6, rtol=2e-3)


def test_set_changes_a_parameter(job, tmp_path):
    assert cli.main(["train", *job(), "--set", "name=other", "--set", "steps=1"]) == status.DONE
    assert kohya.load(tmp_path / "out" / "other.safetensors")[1]["ss_steps"] == "1"


def test_check_prints_the_plan_and_trains_nothing(job, tmp_path, capsys):
    assert cli.main(["check", *job(steps=8, save_every_epochs=1)]) == status.DONE
    printed = capsys.readouterr().out
    for part in ("Stable Diffusion 1", "4, 4 samples", "64 x 64 px  3", "64 x 96", "8, "):
        assert part in printed
    assert "result-000001.safetensors" in printed
    assert "MB at the peak, estimated: model, network and step" in printed
    assert "MB at the peak, measured: the whole program" in printed
    assert "s a step" in printed
    assert not (tmp_path / "out" / "result.safetensors").exists()


def test_schema_is_json_with_every_field(capsys):
    assert cli.main(["schema"]) == status.DONE
    rows = json.loads(capsys.readouterr().out)
    assert {"name", "type", "default", "choices", "help", "methods"} <= set(rows[0])
    assert "rank" in {row["name"] for row in rows}


def _no_folder(tmp_path, pictures):
    return {"images": str(tmp_path / "nowhere")}, "nowhere does not exist"


def _empty_folder(tmp_path, pictures):
    (tmp_path / "empty").mkdir()
    return {"images": str(tmp_path / "empty")}, "holds no picture"


def _corrupt_image(tmp_path, pictures):
    (pictures / "broken.png").write_bytes(b"this is no picture")
    return {}, "broken.png"


def _truncated_image(tmp_path, pictures):
    data = (pictures / "0.png").read_bytes()
    (pictures / "cut.png").write_bytes(data[: len(data) - 40])
    return {}, "cut.png"


def _caption_not_utf8(tmp_path, pictures):
    (pictures / "0.txt").write_bytes("grün".encode("latin-1"))
    return {}, "0.txt"


def _unknown_checkpoint(tmp_path, pictures):
    return {"checkpoint": "nonesuch"}, "there is no 'nonesuch'"


def _truncated_checkpoint(tmp_path, pictures):
    path = tmp_path / "cut.safetensors"
    save_file({"a": torch.ones(1000)}, path)
    path.write_bytes(path.read_bytes()[:900])
    return {"checkpoint": str(path)}, "truncated or damaged"


def _other_architecture(tmp_path, pictures):
    path = tmp_path / "flux.safetensors"
    save_file({"model.diffusion_model.double_blocks.0.x": torch.ones(1)}, path)
    return {"checkpoint": str(path)}, "a Flux checkpoint"


def _unwritable_folder(tmp_path, pictures):
    (tmp_path / "out").write_text("a file where the folder should be")
    return {}, "cannot be written to"


def _name_taken(tmp_path, pictures):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "result.safetensors").write_bytes(b"precious")
    return {}, "result-2"


BAD_INPUT = {
    "missing folder": _no_folder,
    "empty folder": _empty_folder,
    "corrupt image": _corrupt_image,
    "truncated image": _truncated_image,
    "caption not UTF-8": _caption_not_utf8,
    "rank 0": lambda *_: ({"rank": 0}, "rank: 0"),
    "negative steps": lambda *_: ({"steps": -5}, "steps: -5"),
    "unknown key": lambda *_: ({"ranks": 4}, "did you mean rank"),
    "unknown checkpoint": _unknown_checkpoint,
    "truncated checkpoint": _truncated_checkpoint,
    "other architecture": _other_architecture,
    "output name with ../": lambda *_: ({"name": "../x"}, "name: "),
    "unwritable output folder": _unwritable_folder,
    "name taken": _name_taken,
    "steps interval never fires": lambda *_: ({"save_every_steps": 200}, "save_every_steps: 200"),
    "epochs interval never fires": lambda *_: ({"save_every_epochs": 9}, "save_every_epochs: 9"),
    "wrong optimizer argument": lambda *_: ({"optimizer_args": "x=1"}, "does not take x"),
    "missing resume file": lambda *_: ({"resume_from": "no.safetensors"}, "no.safetensors"),
}


@pytest.mark.parametrize("command", ["train", "check"])
@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_named_and_ends_with_2(case, command, job, tmp_path, pictures, capsys):
    changes, message = BAD_INPUT[case](tmp_path, pictures)
    arguments = job(**changes)
    assert cli.main([command, *arguments]) == status.BAD_INPUT
    assert message in capsys.readouterr().err
    result = tmp_path / "out" / "result.safetensors"
    assert not result.exists() or result.read_bytes() == b"precious"


def test_a_pickle_that_runs_code_is_refused_in_our_words_alone(job, tmp_path, capsys, recwarn):
    evil = tmp_path / "evil.pt"
    evil.write_bytes(pickle.dumps(print, protocol=4))
    assert cli.main(["check", *job(checkpoint=str(evil))]) == status.BAD_INPUT
    assert "foreign code" in capsys.readouterr().err
    assert [str(one.message) for one in recwarn if "pickle" in str(one.message)] == []


def test_every_problem_is_told_at_once(job, tmp_path, capsys):
    arguments = job(checkpoint="nonesuch", images=str(tmp_path / "nowhere"), optimizer_args="x=1")
    assert cli.main(["train", *arguments]) == status.BAD_INPUT
    printed = capsys.readouterr().err
    assert all(word in printed for word in ("nonesuch", "nowhere", "does not take x"))


def test_unreadable_pictures_are_skipped_when_told_so(job, pictures, tmp_path):
    (pictures / "broken.png").write_bytes(b"this is no picture")
    assert cli.main(["train", *job(unreadable="skip")]) == status.DONE
    assert (tmp_path / "out" / "result.safetensors").exists()


@pytest.mark.parametrize("text", ["{", "[1]", '{"steps": 1, "steps": 2}'])
def test_job_file_that_is_no_job(tmp_path, text, capsys):
    path = tmp_path / "bad.json"
    path.write_text(text)
    assert cli.main(["check", str(path)]) == status.BAD_INPUT
    assert "bad.json" in capsys.readouterr().err


def test_stop_before_the_first_step_saves_nothing(job, tmp_path, tiny_checkpoint):
    settings = read_job(Path(job()[0]))
    host = StandaloneHost(tiny_checkpoint.parent, tmp_path / "out", "cpu")
    control, events = Control(), []
    control.stop_and_save()
    outcome = run_job(settings, host, control=control, sink=events.append)
    assert (outcome.steps, outcome.request) == (0, Request.STOP_AND_SAVE)
    assert any(isinstance(e, Notice) and "nothing was saved" in e.text for e in events)
    assert not (tmp_path / "out" / "result.safetensors").exists()


def training(arguments: list[str], out: Path) -> tuple[subprocess.Popen[str], Path]:
    """A run in a process of its own that has made its first steps, and its log."""
    process = subprocess.Popen(
        [sys.executable, "-m", "trainer", "train", *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    log = out / "logs" / "result.csv"
    deadline = time.monotonic() + 120
    while not (log.exists() and len(log.read_text().splitlines()) > 2):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.2)
    return process, log


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT to send")
def test_ctrl_c_saves_and_exits_with_130(job, tmp_path):
    arguments = job(steps=100000)
    process, _ = training(arguments, tmp_path / "out")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == status.CANCELLED
    steps = int(kohya.load(tmp_path / "out" / "result.safetensors")[1]["ss_steps"])
    assert 0 < steps < 100000


@pytest.mark.parametrize("command", ["check", "schema"])
def test_ctrl_c_ends_every_command_without_a_traceback(command, job, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("trainer.measure.measure_step", interrupted)
    monkeypatch.setattr(cli, "listing", interrupted)
    arguments = job() if command == "check" else []
    assert cli.main([command, *arguments]) == status.CANCELLED
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("port", ["99999", "-1", "x"])
def test_a_port_that_is_none_is_bad_input(port, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["ui", "--port", port])
    assert ended.value.code == status.BAD_INPUT
    assert "--port" in capsys.readouterr().err


def test_a_grid_is_drawn_by_its_own_command(job, tmp_path, tiny_checkpoint, capfd):
    assert cli.main(["train", *job(save_every_steps=2)]) == status.DONE
    files = [tmp_path / "out" / f"result{part}.safetensors" for part in ("-step00000002", "")]
    grid = tmp_path / "grid.json"
    small = {"size_px": 64, "denoise_steps": 2, "strengths": "0, 1", "prompts": "a hat\na coat"}
    grid.write_text(json.dumps({"checkpoint": tiny_checkpoint.name, **small}), "utf-8")
    loras = "loras=" + "\n".join(map(str, files))
    arguments = ["grid", str(grid), *job()[1:]]

    assert cli.main([*arguments, "--set", loras]) == status.DONE
    assert (tmp_path / "out" / "logs" / "grids" / "grid.png").stat().st_size > 0
    assert cli.main([*arguments, "--set", loras]) == status.BAD_INPUT
    assert "exists already" in capfd.readouterr().err
    assert cli.main([*arguments, "--set", "stren=1", "--set", "prompts="]) == status.BAD_INPUT
    told = capfd.readouterr().err
    assert "stren: " in told
    assert "prompts: " in told
    assert "loras: " in told


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM to send")
def test_a_system_that_wants_its_machine_back_gets_it_and_the_job_goes_on_later(
    job, tmp_path, tiny_checkpoint
):
    """Also where states are switched off otherwise."""
    arguments = job(steps=100000, save_state_every_steps=0)
    process, log = training(arguments, tmp_path / "out")
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=60)
    assert process.returncode == status.CANCELLED
    assert f"To go on: {shlex.join(['python', '-m', 'trainer', 'train', *arguments])}" in told
    assert told.rstrip().endswith("--resume")
    assert not (tmp_path / "out" / "result.safetensors").exists()
    rows = len(log.read_text().splitlines()) - 1
    events = []
    host = StandaloneHost(tiny_checkpoint.parent, tmp_path / "out", "cpu")
    control = Control()

    def hear(event):
        events.append(event)
        if isinstance(event, StepDone):
            control.stop()

    run_job(read_job(Path(arguments[0])), host, control=control, sink=hear, resume=True)
    assert Notice(f"Going on after step {rows}") in events


def test_progress_that_nobody_can_be_shown_ends_no_training(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class FullDisk(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(sys, "stdout", FullDisk())
    monkeypatch.setattr(sys, "stderr", FullDisk())
    with show_progress() as show:
        for event in (PhaseStarted("Loading"), PhaseStarted("Training", 2), PhaseProgress(1)):
            show(event)
        show(Notice("all is well"))
