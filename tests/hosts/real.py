"""A real webui in a process of its own, for the tests marked `webui`.

Set WEBUI_DIR to a checkout of AUTOMATIC1111's webui 1.10.1, of Forge or of reForge, and
WEBUI_PYTHON to the Python of its environment (with diffusers); the embedded checkpoint is put into
a data folder of its own.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.modules import tiny_modules
from trainer.demo.checkpoint import CHECKPOINT, TEXT_FOLDER_MARK, install_world
from trainer.models.export import ldm_tensors, write_checkpoint
from trainer.models.families import Family
from trainer.models.tokenizer import write_vocabulary
from trainer.networks import kohya

WEBUI_DIR = os.environ.get("WEBUI_DIR", "")
ROOT = Path(__file__).resolve().parents[2]
OTHER = "z-world"
"""A second checkpoint of the same weights; the webui begins with the first by name."""
WIDTH = 64
"""Of the embedded checkpoint's text encoder."""
START_S, JOB_S = 600, 3600


def kind(source: Path) -> str:
    """Which webui a checkout is: "A1111", "Forge" or "reForge"."""
    if (source / "backend/memory_management.py").is_file():
        return "Forge"
    return "reForge" if (source / "ldm_patched").is_dir() else "A1111"


KIND = kind(Path(WEBUI_DIR))
ON_CPU = (
    ("--use-cpu", "all", "--no-half", "--precision", "full", "--do-not-download-clip")
    if KIND == "A1111"
    else ("--always-cpu", "--gradio-allowed-path", WEBUI_DIR)  # with Gradio 4 for its own scripts
)
FLAGS = (
    *ON_CPU,
    *("--api", "--no-hashing", "--no-download-sd-model", "--disable-console-progressbars"),
    *("--skip-torch-cuda-test", "--skip-python-version-check", "--skip-version-check"),
    *("--skip-prepare-environment", "--skip-install"),
)


MARKS = [
    pytest.mark.webui,
    pytest.mark.skipif(not WEBUI_DIR, reason="WEBUI_DIR names no webui"),
    pytest.mark.skipif(not CHECKPOINT.is_file(), reason="there is no embedded checkpoint"),
]
"""Of every file of tests that starts one."""
PROBE = ROOT / "tests/hosts/probe"


class RealWebui:
    """A webui in a process of its own."""

    def __init__(self, data: Path, flags: Sequence[str] = ()) -> None:
        self.data = data
        self.flags = (*FLAGS, *flags)
        self.loras = data / "models/Lora"
        for folder in ("models/Stable-diffusion", "models/Lora", "extensions", "embeddings"):
            (data / folder).mkdir(parents=True)
        checkpoints = data / "models/Stable-diffusion"
        install_world(checkpoints)
        for file in list(checkpoints.glob("*.*")):  # the same once more
            shutil.copy(file, file.with_name(OTHER + file.suffix))
        vectors = torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(1))
        save_file({"emb_params": vectors}, data / "embeddings/mychar.safetensors")
        (data / "extensions/trainyard").symlink_to(ROOT, target_is_directory=True)
        shutil.copytree(PROBE, data / "extensions/probe")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.process: subprocess.Popen[bytes] | None = None

    def add(self, family: Family) -> str:
        """Gives it a tiny checkpoint of a family, with random weights; returns its name."""
        file = self.data / f"models/Stable-diffusion/{family.name}.safetensors"
        unet, vae, encoders = tiny_modules(family=family.name)
        write_checkpoint(file, ldm_tensors(unet, vae, encoders, family, torch.float32))
        text_folder = file.with_name(f"{family.name}_text_encoder").resolve()
        write_vocabulary(text_folder)
        for number, encoder in enumerate(encoders):
            name = f"config_{number}.json" if number else "config.json"
            encoder.config.to_json_file(text_folder / name, use_diff=False)
        yaml = (PROBE / f"{family.name}.yaml").read_text("utf-8")
        yaml = yaml.replace(TEXT_FOLDER_MARK, text_folder.as_posix())
        file.with_suffix(".yaml").write_text(yaml, "utf-8")
        return file.name

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
                [
                    python,
                    "launch.py",
                    "--port",
                    str(self.port),
                    "--data-dir",
                    self.data,
                    *self.flags,
                ],
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

    def picture(self, prompt: str = "a red circle on a white background", **more: object) -> str:
        """A digest of a picture that the webui draws."""
        return hashlib.sha256(self.image(prompt, 1, steps=4, **more).tobytes()).hexdigest()

    def image(self, prompt: str, seed: int, **more: object) -> Image.Image:
        """A picture that the webui draws."""
        body = {"prompt": prompt, "seed": seed, "width": 64, "height": 64, **more}
        answer = self.ask("sdapi/v1/txt2img", {**body, "do_not_save_samples": True})
        return Image.open(io.BytesIO(base64.b64decode(answer["images"][0]))).convert("RGB")

    def options(self, **values: object) -> None:
        """Changes the webui's settings, those of them that its version has."""
        has = self.ask("sdapi/v1/options")
        self.ask("sdapi/v1/options", {name: one for name, one in values.items() if name in has})

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


CONDITIONED = (
    "a red circle",
    "a (red:1.4) circle on a [white] background, (((big)))",
    "a red circle BREAK on a white background",
    "a (red BREAK circle:1.2) BREAK [BREAK white]",
    "a red circle BREAK",
    "a mychar circle, (mychar:0.7)",
    ", ".join(["a red circle on a white background"] * 12),
    " ".join(["cat"] * 72) + " mychar",
)
"""Prompts with all that the webui's syntax has."""


@contextmanager
def started(data: Path, flags: Sequence[str] = ()) -> Iterator[RealWebui]:
    """A webui for the length of a `with` block."""
    webui = RealWebui(data, flags)
    try:
        webui.start()
        yield webui
    finally:
        webui.kill()


def short_job(folder: Path) -> dict[str, object]:
    """A LoRA training of four pictures, which are put into the folder."""
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
