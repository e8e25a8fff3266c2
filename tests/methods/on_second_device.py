"""Trainings on another device than the one that Python runs on; it is pretended.

Run by `test_second_device.py` in a process of its own.
"""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.models.clip import modeling_clip

from tests import pretended
from trainer.control import Control
from trainer.events import StepDone
from trainer.hosts.standalone import StandaloneHost
from trainer.methods import TRAIN
from trainer.optim.kinds import KINDS
from trainer.run import run_job
from trainer.settings.schema import parse
from trainer.training.loop import Loop

pretended.begin()

Losses = list[float]
HALF = {"bf16": 2e-2, "fp16": 2e-3}
"""Relative precision of losses that are computed in it."""
INSTALLED = [
    kind.name
    for kind in KINDS.values()
    if not kind.only_cuda and importlib.util.find_spec(kind.module.partition(".")[0])
]
A_FEW = 5
"""Numbers that an optimizer may need to find its rate, however many weights there are."""
QUICK = {"save_preview": False, "save_state_every_steps": 0}
WAYS: dict[str, dict[str, object]] = {
    "int8": {"base_precision": "int8"},
    "loha": {"network": "loha"},
    "lokr_conv": {"network": "lokr_conv"},
    "dora_conv": {"network": "dora_conv"},
    "checkpointing": {"gradient_checkpointing": True, "checkpointed_parts": "all"},
    "text encoder": {"blocks": "BASE,IN01,OUT05"},
    "pictures on the way": {"sample_prompts": "red", "sample_every_steps": 2, "save_preview": True},
    "clipped": {"max_grad_norm": 1.0, "gradient_accumulation_steps": 2},
    "norms": {"scale_weight_norms": 0.1},
    "dropout": {"network_dropout": 0.1, "rank_dropout": 0.1, "module_dropout": 0.1},
    "noise": {"noise_offset": 0.1, "multires_noise_iterations": 3, "input_perturbation": 0.1},
    "loss": {"loss": "Huber", "huber_schedule": "snr", "min_snr_gamma": 5.0},
    "preserved": {"preserve_prompts": "a tree", "pool_size": 8, "pool_denoise_steps": 4},
}


@pytest.fixture
def losses(jobs: dict[str, dict[str, object]], tmp_path: Path) -> Callable[..., Losses]:
    """Trains a method on a device; gives the losses of its steps."""

    def train(
        method: str, device: str, *, folder: str = "", until: int = 0, **changes: object
    ) -> Losses:
        control = Control()
        found: Losses = []

        def listen(event: object) -> None:
            if isinstance(event, StepDone):
                found.append(event.loss)
                if event.step == until:
                    control.stop()

        settings = parse({**jobs[method], "method": method, "name": "hat", **QUICK, **changes})
        host = StandaloneHost(tmp_path, tmp_path / (folder or device.partition(":")[0]), device)
        outcome = run_job(settings, host, control=control, sink=listen, resume=bool(folder))
        assert (outcome.file is None) is bool(until)
        return found

    return train


@pytest.fixture
def waited(monkeypatch: pytest.MonkeyPatch) -> list[Counter[str]]:
    """What the host waited for inside each of the steps on the device."""
    found: list[Counter[str]] = []
    update = Loop.update

    def watched(loop: Loop, loss: Any) -> torch.Tensor:
        pretended.WAITS.clear()
        total = update(loop, loss)
        found.append(Counter(pretended.WAITS))
        return total

    monkeypatch.setattr(Loop, "update", watched)
    if mask := getattr(modeling_clip, "_make_causal_mask", None):
        # transformers 4.30 makes it in every pass of an encoder, and waits for a number
        monkeypatch.setattr(modeling_clip, "_make_causal_mask", unseen(mask))
    return found


def unseen(function: Callable[..., Any]) -> Callable[..., Any]:
    """Does what a function does, and does not count what the host waits for meanwhile."""

    def call(*args: Any, **kwargs: Any) -> Any:
        before = len(pretended.WAITS)
        made = function(*args, **kwargs)
        del pretended.WAITS[before:]
        return made

    return call


@pytest.fixture
def alike(losses: Callable[..., Losses], waited: list[Counter[str]]) -> Callable[..., None]:
    """Trains on the CPU and on the device: the losses are the same, and no step has waited."""

    def compare(method: str, within: float = 1e-3, **changes: object) -> None:
        expected = losses(method, "cpu", **changes)
        waited.clear()
        with pretended.pretended_device():
            found = losses(method, pretended.DEVICE, **changes)
        assert found == pytest.approx(expected, rel=within, abs=1e-5)  # some are all but 0
        assert waited
        assert not any(waited)

    return compare


@pytest.mark.parametrize("method", TRAIN)
def test_it_trains_there_as_on_the_cpu(method: str, alike: Callable[..., None]) -> None:
    alike(method)


@pytest.mark.parametrize("way", WAYS)
def test_all_that_a_job_may_have_works_there(way: str, alike: Callable[..., None]) -> None:
    alike("lora", **WAYS[way])


@pytest.mark.parametrize("family", ["sd2", "sdxl"])
def test_every_family_trains_there(
    family: str, alike: Callable[..., None], tiny_checkpoints: dict[str, Path]
) -> None:
    checkpoint = str(tiny_checkpoints[family])
    alike("lora", checkpoint=checkpoint, prediction_type="epsilon")


@pytest.mark.parametrize("precision", HALF)
def test_half_precision_is_that_of_autocast(precision: str, alike: Callable[..., None]) -> None:
    alike("lora", HALF[precision], base_precision=precision)


@pytest.mark.parametrize("name", INSTALLED)
def test_no_optimizer_waits_for_each_weight(
    name: str, losses: Callable[..., Losses], waited: list[Counter[str]]
) -> None:
    rate = 1.0 if KINDS[name].one_rate else 1e-4
    steady = {"optimizer": name, "learning_rate": rate, "lr_scheduler": "constant"}
    with pretended.pretended_device():
        losses("lora", pretended.DEVICE, **steady)
    assert len(waited) == 3
    most = A_FEW if KINDS[name].asks else 0
    # what is made in the first step may come from the main memory
    assert all(step.total() <= most for step in waited[1:])


def test_captions_that_vary_are_encoded_ahead(
    losses: Callable[..., Losses], waited: list[Counter[str]]
) -> None:
    with pretended.pretended_device():
        losses("lora", pretended.DEVICE, shuffle_tags=True, caption_dropout_rate=0.1)
    first, *others = waited
    assert first, "the text encoder came for them, and was set aside"
    assert not any(others)


@pytest.mark.parametrize("devices", [(pretended.DEVICE, "cpu"), ("cpu", pretended.DEVICE)])
def test_a_training_goes_on_on_another_device(
    devices: tuple[str, str], losses: Callable[..., Losses]
) -> None:
    whole = losses("lora", "cpu", steps=6)
    moved: dict[str, Any] = {"folder": "moved", "steps": 6, "save_state_every_steps": 100}
    with pretended.pretended_device():
        first = losses("lora", devices[0], until=3, **moved)
        then = losses("lora", devices[1], **moved)
    assert 0 < len(first) < 6
    assert first + then == pytest.approx(whole, rel=1e-3)


def test_what_a_gpu_refuses_is_refused_and_what_waits_is_seen() -> None:
    with pretended.pretended_device():
        pretended.WAITS.clear()
        there, here = torch.ones(2, device=pretended.DEVICE), torch.ones(2)
        with pytest.raises(RuntimeError, match="two devices"):
            there + here
        with pytest.raises(RuntimeError, match="generator"):
            torch.randn(2, device=pretended.DEVICE, generator=torch.Generator())
        assert not pretended.WAITS
        assert bool((there + there.new_ones(2)).sum() == 4)
        assert there.cpu().equal(here)
        assert pretended.WAITS == ["aten._local_scalar_dense", "aten._to_copy"]
