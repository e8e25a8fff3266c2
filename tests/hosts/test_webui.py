"""Against a real webui on the CPU: what the stand-in claims, and what only the real one can show.

Set WEBUI_DIR to a checkout of AUTOMATIC1111's webui 1.10.1 and WEBUI_PYTHON to the Python of its
environment (with diffusers); the embedded checkpoint is put into a data folder of its own.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from trainer.demo.checkpoint import CHECKPOINT, install_world
from trainer.networks import kohya

WEBUI_DIR = os.environ.get("WEBUI_DIR", "")
pytestmark = [
    pytest.mark.webui,
    pytest.mark.skipif(not WEBUI_DIR, reason="WEBUI_DIR names no webui"),
    pytest.mark.skipif(not CHECKPOINT.is_file(), reason="there is no embedded checkpoint"),
]
ROOT = Path(__file__).resolve().parents[2]
START_S, JOB_S = 600, 600
FLAGS = (
    *("--api", "--use-cpu", "all", "--no-half", "--precision", "full", "--no-hashing"),
    *("--skip-torch-cuda-test", "--skip-python-version-check", "--skip-version-check"),
    *("--skip-prepare-environment", "--skip-install", "--do-not-download-clip"),
    *("--no-download-sd-model", "--disable-console-progressbars"),
)


class RealWebui:
    """A webui in a process of its own."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.loras = data / "models/Lora"
        for folder in ("models/Stable-diffusion", "models/Lora", "extensions", "embeddings"):
            (data / folder).mkdir(parents=True)
        install_world(data / "models/Stable-diffusion")
        (data / "extensions/trainyard").symlink_to(ROOT, target_is_directory=True)
        shutil.copytree(ROOT / "tests/hosts/probe", data / "extensions/probe")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        log = self.data / "webui.log"
        python = os.environ.get("WEBUI_PYTHON", "python")
        given = {
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
            "GRADIO_ANALYTICS_ENABLED": "False",
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "1",
            "no_proxy": "127.0.0.1,localhost",
        }
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [python, "launch.py", "--port", str(self.port), "--data-dir", self.data, *FLAGS],
                cwd=WEBUI_DIR,
                env={**os.environ, **given},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        end = time.monotonic() + START_S
        while "Startup time" not in log.read_text("utf-8", "replace"):
            assert self.process.poll() is None, log.read_text("utf-8", "replace")[-3000:]
            assert time.monotonic() < end, "the webui does not start"
            time.sleep(1)

    def kill(self) -> None:
        """As a power failure does."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def ask(self, path: str, body: Mapping[str, object] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", "X-Trainyard": "1"}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/{path}", data, headers)
        with urllib.request.urlopen(request, timeout=JOB_S) as answer:
            return json.load(answer)

    def picture(self, prompt: str = "a red circle on a white background") -> str:
        """A digest of a picture that the webui draws."""
        body = {"prompt": prompt, "seed": 1, "steps": 4, "width": 64, "height": 64}
        answer = self.ask("sdapi/v1/txt2img", {**body, "do_not_save_samples": True})
        return hashlib.sha256(base64.b64decode(answer["images"][0])).hexdigest()

    def train(self, **settings: object) -> int:
        """Starts a job and returns its number."""
        answer = self.ask("trainyard/v1/jobs", {"settings": settings, "start": True})
        return int(answer["job"]["id"])

    def until_step(self, job: int, step: int) -> None:
        end = time.monotonic() + JOB_S
        while time.monotonic() < end:
            now = self.ask("trainyard/v1/status")["job"]
            if now and now["id"] == job and now["phase"] == "Training" and now["done"] >= step:
                return
            time.sleep(0.1)
        raise TimeoutError(f"job {job} does not come to step {step}")

    def result(self, job: int) -> dict[str, Any]:
        """The job when it has ended."""
        end = time.monotonic() + JOB_S
        while time.monotonic() < end:
            found: dict[str, Any] = self.ask(f"trainyard/v1/jobs/{job}")
            if found["state"] not in ("queued", "running", "paused"):
                return found
            time.sleep(0.2)
        raise TimeoutError(f"job {job} does not end")

    def tensors(self, name: str) -> dict[str, torch.Tensor]:
        return kohya.load(self.loras / f"{name}.safetensors")[0]


@pytest.fixture(scope="module")
def webui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealWebui]:
    real = RealWebui(tmp_path_factory.mktemp("webui"))
    real.start()
    yield real
    real.kill()


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """A short LoRA training of four pictures."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(4):
        Image.new("RGB", (64, 64), (60 * number, 90, 200)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"a picture {number}", "utf-8")
    return {
        "method": "lora",
        "checkpoint": CHECKPOINT.name,
        "images": str(folder),
        "image_size_px": 64,
        "min_length_px": 64,
        "rank": 4,
        "alpha": 4,
        "learning_rate": 1e-2,
        "steps": 16,
        "seed": 1,
        "trigger_word": "ohwx",
        "save_preview": False,
        "save_precision": "fp32",
    }


def same(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_training_leaves_the_model_as_it_was_and_its_lora_works(webui, settings) -> None:
    plain = webui.picture()
    before = webui.ask("probe")
    done = webui.result(webui.train(**settings, name="alone"))
    assert (done["state"], done["error"]) == ("done", "")
    assert webui.ask("probe") == before
    assert webui.picture() == plain
    listed = {one["name"]: one for one in webui.ask("sdapi/v1/loras")}
    assert listed["alone"]["metadata"]["ss_network_dim"] == "4"
    card = json.loads((webui.loras / "alone.json").read_text("utf-8"))
    assert (card["activation text"], card["sd version"]) == ("ohwx", "SD1")
    assert webui.picture("a red circle on a white background <lora:alone:1>") != plain
    assert webui.picture() == plain


def test_a_lora_in_the_weights_is_not_trained_on_and_is_put_back(webui, settings) -> None:
    webui.picture("a red circle <lora:alone:1>")
    before = webui.ask("probe")
    assert webui.result(webui.train(**settings, name="over"))["state"] == "done"
    assert webui.ask("probe") == before
    assert same(webui.tensors("over"), webui.tensors("alone"))


def test_pictures_and_training_do_not_disturb_each_other(webui, settings) -> None:
    plain, changed = webui.picture(), webui.picture("a circle <lora:alone:1>")
    job = webui.train(**settings, name="interrupted")
    webui.until_step(job, 2)
    assert webui.picture() == plain
    assert webui.picture("a circle <lora:alone:1>") == changed
    assert webui.ask("trainyard/v1/status")["running"], "the pictures came in the middle"
    assert webui.result(job)["state"] == "done"
    assert same(webui.tensors("interrupted"), webui.tensors("alone"))


def test_a_new_file_of_the_same_name_takes_effect_at_once(webui, settings) -> None:
    prompt = "a circle <lora:again:1>"
    webui.result(webui.train(**settings, name="again"))
    first = webui.picture(prompt)
    webui.result(webui.train(**{**settings, "seed": 2}, name="again", overwrite=True))
    assert webui.picture(prompt) != first


@pytest.mark.parametrize("save", [False, True])
def test_a_stop_leaves_the_model_as_it_was(webui, settings, save) -> None:
    webui.picture()
    before = webui.ask("probe")
    job = webui.train(**settings, name=f"stopped-{save}")
    webui.until_step(job, 2)
    webui.ask(f"trainyard/v1/jobs/{job}/stop", {"save": save})
    assert webui.result(job)["state"] == ("done" if save else "cancelled")
    assert (webui.loras / f"stopped-{save}.safetensors").exists() is save
    assert webui.ask("probe") == before


def test_a_killed_webui_goes_on_with_the_job(webui, settings) -> None:
    job = webui.train(**settings, name="killed", save_state_every_steps=3)
    webui.until_step(job, 8)
    webui.kill()
    assert not (webui.loras / "killed.safetensors").exists()
    webui.start()
    assert webui.ask(f"trainyard/v1/jobs/{job}")["state"] == "interrupted"
    webui.ask(f"trainyard/v1/jobs/{job}/requeue", {"resume": True})
    webui.ask("trainyard/v1/queue/start", {})
    done = webui.result(job)
    assert (done["state"], done["error"]) == ("done", "")
    assert same(webui.tensors("killed"), webui.tensors("alone"))
