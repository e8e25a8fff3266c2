"""A training that dies and goes on from its state ends with the same bytes as one that does not."""

from __future__ import annotations

import dataclasses
import json
import secrets
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch

from trainer.control import Control
from trainer.events import ignore
from trainer.hosts.standalone import StandaloneHost
from trainer.methods import addift
from trainer.models.model import DiffusionModel
from trainer.networks import kohya
from trainer.run import run_job
from trainer.settings.groups import ModelSettings
from trainer.settings.schema import parse
from trainer.training.loop import Loop, LossFunction

STEPS = 4
BOTH_PASSES = 2 * STEPS

CASES: dict[str, tuple[str, int, dict[str, object]]] = {
    "lora": ("lora", 3, {}),
    "lora, before the first state": ("lora", 1, {}),
    "lora, seed drawn": ("lora", 3, {"seed": -1}),
    "lora, accumulation": ("lora", 3, {"gradient_accumulation_steps": 2, "max_grad_norm": 1.0}),
    "lora, text encoder": ("lora", 3, {"blocks": "BASE,M00", "text_encoder_learning_rate": 1e-3}),
    "lora, schedule": ("lora", 3, {"lr_scheduler": "cosine", "lr_warmup_steps": 2}),
    "lora, dropout, norms, LoRA+": (
        "lora",
        3,
        {
            "network": "c3lier",
            "conv_rank": 1,
            "lora_plus_ratio": 4,
            "network_dropout": 0.2,
            "rank_dropout": 0.3,
            "module_dropout": 0.2,
            "scale_weight_norms": 0.001,
            "gradient_accumulation_steps": 2,
        },
    ),
    "lora, schedule-free": (
        "lora",
        3,
        {"optimizer": "AdamWScheduleFree", "lr_scheduler": "constant", "save_every_steps": 1},
    ),
    "difference, schedule-free, second pass": (
        "difference",
        STEPS + 3,
        {"optimizer": "AdamWScheduleFree", "lr_scheduler": "constant", "module_dropout": 0.3},
    ),
    "lora, plateau": ("lora", 3, {"lr_scheduler": "reduce_on_plateau"}),
    "lora, noise": ("lora", 3, {"noise_offset": 0.1, "input_perturbation": 0.1}),
    "ileco": ("ileco", 3, {"pool_latents": "both"}),
    "difference, first pass": ("difference", 3, {}),
    "difference, between the passes": ("difference", STEPS + 1, {}),
    "difference, before the second pass's first state": ("difference", STEPS + 2, {}),
    "difference, second pass": ("difference", STEPS + 3, {}),
    "difference, another batch size": (
        "difference",
        STEPS + 4,
        {"placements": 8, "second_pass": {"batch_size": 3}},
    ),
    "addift": ("addift", 4, {}),
    "multi_addift": ("multi_addift", 4, {}),
}
"""Name -> method, the update (of both passes) that never happens, settings."""


class Died(BaseException):
    """What nothing catches."""


@pytest.fixture(autouse=True)
def _same_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files tell when and by which session they were made."""
    monkeypatch.setattr(time, "time", lambda: 1.6e9)
    monkeypatch.setattr(secrets, "randbits", lambda bits: 12345)
    # the last lessons before the death and the first after it were labelled together
    monkeypatch.setattr(addift, "LABELLED_AT_ONCE", 3)


def dying(update: int) -> Callable[[Loop, LossFunction], torch.Tensor]:
    made = iter(range(1, update))
    step = Loop.update

    def die(loop: Loop, loss: LossFunction) -> torch.Tensor:
        if next(made, None) is None:
            raise Died
        return step(loop, loss)

    return die


@pytest.mark.parametrize("case", CASES)
def test_the_file_is_the_same_to_the_byte(
    case: str,
    jobs: dict[str, dict[str, object]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    method, update, changes = CASES[case]
    if "schedule-free" in case:
        pytest.importorskip("schedulefree")
    more = {"steps": STEPS, "save_state_every_steps": 2, "save_preview": False, "name": "r"}
    settings = parse({**jobs[method], "method": method, "blocks": "M00,OUT05", **more, **changes})

    def train(out: str, *, resume: bool = False) -> Path:
        host = StandaloneHost(tmp_path, tmp_path / out, "cpu")
        run_job(settings, host, control=Control(), sink=ignore, resume=resume)
        return tmp_path / out / "r.safetensors"

    whole = train("whole")
    with monkeypatch.context() as patched:
        patched.setattr(Loop, "update", dying(update))
        with pytest.raises(Died):
            train("cut")
    file = train("cut", resume=True)
    assert file.read_bytes() == whole.read_bytes()
    assert file.with_suffix(".json").read_bytes() == whole.with_suffix(".json").read_bytes()
    rows = [(out / "logs/r.csv").read_text() for out in (whole.parent, file.parent)]
    numbers = [[line.split(",")[:4] for line in text.splitlines()] for text in rows]
    assert numbers[0] == numbers[1]


def test_a_seed_that_was_drawn_stays_though_no_state_was_saved(
    jobs: dict[str, dict[str, object]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # each run draws its own
    host = StandaloneHost(tmp_path, tmp_path / "out", "cpu")
    file = tmp_path / "out/r.safetensors"

    def seeds(**changes: object) -> tuple[int, int]:
        settings = parse({**jobs["lora"], "method": "lora", "name": "r", "overwrite": True})
        with monkeypatch.context() as patched:
            patched.setattr(Loop, "update", dying(1))
            with pytest.raises(Died):
                run_job(settings.replace(seed=-1), host, control=Control(), sink=ignore)
        (noted,) = (tmp_path / "out/logs/states/r").iterdir()
        drawn = json.loads(noted.read_text())["seed"]
        settings = settings.replace(**changes)
        run_job(settings, host, control=Control(), sink=ignore, resume=True)
        assert not noted.exists()
        return drawn, int(kohya.load(file)[1]["ss_seed"])

    drawn, used = seeds(seed=-1)
    assert used == drawn
    again, used = seeds(seed=5)
    assert again != drawn
    assert used == 5


@pytest.mark.parametrize(
    ("method", "changes"),
    [("lora", {}), ("difference", {"rank": 1, "second_pass": {"rank": 2, "steps": 2}})],
)
def test_a_job_that_was_complete_is_not_done_again(
    method: str,
    changes: dict[str, object],
    jobs: dict[str, dict[str, object]],
    tmp_path: Path,
) -> None:
    """The program may end between the result and the queue's note of it."""
    settings = parse({**jobs[method], "method": method, "name": "r", **changes})
    host = StandaloneHost(tmp_path, tmp_path / "out", "cpu")
    made = run_job(settings, host, control=Control(), sink=ignore)
    file = tmp_path / "out/r.safetensors"
    before = file.stat().st_mtime_ns
    outcome = run_job(settings, host, control=Control(), sink=ignore, resume=True)
    assert (outcome.steps, file.stat().st_mtime_ns) == (made.steps, before)


class SetWebui(StandaloneHost):
    """A host whose user sets the CLIP skip that jobs with 0 take."""

    clip_skip = 2

    def borrow(
        self, settings: ModelSettings, control: Control | None = None
    ) -> AbstractContextManager[DiffusionModel]:
        skip = settings.clip_skip or self.clip_skip
        return super().borrow(dataclasses.replace(settings, clip_skip=skip), control)


def test_clip_skip_stays_as_it_was_in_the_webui_when_the_training_began(
    jobs: dict[str, dict[str, object]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = {"steps": STEPS, "save_state_every_steps": 2, "save_preview": False, "name": "r"}
    settings = parse({**jobs["lora"], "method": "lora", "blocks": "M00", **more})
    whole, cut = (SetWebui(tmp_path, tmp_path / name, "cpu") for name in ("whole", "cut"))
    run_job(settings, whole, control=Control(), sink=ignore)
    with monkeypatch.context() as patched:
        patched.setattr(Loop, "update", dying(3))
        with pytest.raises(Died):
            run_job(settings, cut, control=Control(), sink=ignore)
    cut.clip_skip = 1
    run_job(settings, cut, control=Control(), sink=ignore, resume=True)
    files = [host.output_dir / "r.safetensors" for host in (whole, cut)]
    assert kohya.load(files[0])[1]["ss_clip_skip"] == "2"
    assert files[0].read_bytes() == files[1].read_bytes()
