"""A server of our routes alone; its jobs are done by a stand-in."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fastapi
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from trainer.api import yard as yards
from trainer.api.app import add_routes
from trainer.control import Control, Request
from trainer.errors import BadInput, Problem
from trainer.events import PhaseStarted, Saved, Sink, StepDone
from trainer.jobs.job import Job
from trainer.models.detect import Detection
from trainer.models.families import SD1
from trainer.training.csv_log import CsvLog

HEADERS = {"X-Trainyard": "1"}
STEPS = 5


class Surroundings:
    """A host whose checkpoint is good for everything."""

    def __init__(self, folder: Path) -> None:
        self.output_dir = folder / "out"
        self.log_dir = folder / "logs"

    def check_model(self, settings: object) -> Detection:
        del settings
        return Detection(SD1, SD1.title)

    def checkpoints(self) -> list[str]:
        return ["a.safetensors", "b.safetensors"]

    def vaes(self) -> list[str]:
        return []

    def loras(self) -> list[str]:
        return []

    def loaded_checkpoint(self) -> str:
        return "b.safetensors"


def step(number: int) -> StepDone:
    return StepDone(number, STEPS, 1, 0.5 / number, 0.5, 1e-4, None, number * 1.0, 1.0, 0.0)


class Bench:
    """A client, and the hand that lets the stand-in's steps happen."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go = threading.Event()
        self.go.set()
        monkeypatch.setattr(yards.Yard, "_run", self._run)
        self.host = Surroundings(folder)
        self.yard = yards.Yard(self.host, folder / "data")  # type: ignore[arg-type]
        app = fastapi.FastAPI()
        add_routes(app, self.yard)
        self.client = TestClient(app)
        self.pictures = folder / "pictures"
        self.pictures.mkdir()
        for number in range(3):
            Image.new("RGB", (64, 64), (80 * number, 0, 0)).save(self.pictures / f"{number}.png")
        (self.pictures / "0.txt").write_text("a red square", "utf-8")

    def _run(self, job: Job, control: Control, sink: Sink) -> None:
        log = CsvLog(self.host.log_dir / f"{job.name}.csv")
        sink(PhaseStarted("Training", STEPS))
        for number in range(1, STEPS + 1):
            self.go.wait()
            sink(step(number))
            log(step(number))
            if control.checkpoint() is not Request.CONTINUE:
                break
        if job.name == "broken":
            raise BadInput([Problem("images", "are gone", "look for them")])
        if control.request is not Request.STOP:
            sink(Saved(self.host.output_dir / f"{job.name}.safetensors", STEPS, True))

    def settings(self, **values: object) -> dict[str, object]:
        given = {"method": "lora", "checkpoint": "a", "images": str(self.pictures)}
        small = {"image_size_px": "64", "bucket_step_px": "0", "steps": "10"}
        return {**given, **small, **values}

    def lora(self, name: str) -> Path:
        """A LoRA file of one layer among the results."""
        import torch

        from trainer.networks import kohya

        layer = "lora_unet_mid_block_attentions_0_proj_in"
        weights = {f"{layer}.lora_{side}.weight": torch.zeros(2, 2) for side in ("down", "up")}
        path = self.host.output_dir / f"{name}.safetensors"
        kohya.save(path, {**weights, f"{layer}.alpha": torch.tensor(2.0)}, {})
        return path

    def get(self, path: str) -> Any:
        answer = self.client.get(f"/trainyard/v1/{path}", headers=HEADERS)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(
        self, path: str, body: Mapping[str, object], status: int = 200, method: str = "POST"
    ) -> Any:
        url = f"/trainyard/v1/{path}"
        answer = self.client.request(method, url, json=body, headers=HEADERS)
        assert answer.status_code == status, answer.text
        return answer.json()

    def until(self, state: str, name: str) -> dict[str, Any]:
        end = time.monotonic() + 30
        while time.monotonic() < end:
            jobs = [job for job in self.get("status")["jobs"] if job["name"] == name]
            if jobs and jobs[0]["state"] == state:
                return jobs[0]
            time.sleep(0.02)
        raise TimeoutError(f"{name} did not become {state}: {self.get('status')['jobs']}")
