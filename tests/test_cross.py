"""Family x network x method x precision: every pair of values occurs in some training."""

from __future__ import annotations

import gc
import math
import random
import weakref
from collections.abc import Callable, Mapping
from itertools import combinations
from pathlib import Path

import pytest
import torch

from tests.conftest import tiny_tensors
from tests.methods.conftest import jobs, pairs  # noqa: F401 - fixtures
from trainer.control import Control, Request
from trainer.events import Event, StepDone
from trainer.hosts import standalone
from trainer.hosts.standalone import StandaloneHost
from trainer.methods import TRAIN
from trainer.models.families import FAMILIES
from trainer.models.model import DiffusionModel, assemble_model
from trainer.models.packing import STORAGES
from trainer.networks import kohya
from trainer.networks.build import build_network
from trainer.networks.kinds import KINDS
from trainer.run import run_job
from trainer.settings.groups import NetworkSettings
from trainer.settings.schema import parse

STEPS = 2
HAS_FP16 = hasattr(torch.amp, "GradScaler")
"""Before torch 2.3 a CPU had neither autocast to float16 nor loss scaling."""
DIMENSIONS: dict[str, tuple[str, ...]] = {
    "family": tuple(family.name for family in FAMILIES),
    "network": tuple(KINDS),
    "method": tuple(TRAIN),
    "base_precision": ("fp32", "bf16", *(("fp16",) if HAS_FP16 else ()), *STORAGES),
    "network_precision": ("fp32", "bf16", "fp16"),
    "gradient_checkpointing": ("off", "on"),
    "checkpointed_parts": ("attention", "all"),
}
Row = tuple[str, ...]
Pair = tuple[tuple[int, str], tuple[int, str]]


def pairs_of(row: Row) -> set[Pair]:
    return set(combinations(enumerate(row), 2))  # type: ignore[arg-type]


def covering() -> list[Row]:
    """Rows that hold every pair of values of two dimensions, about as few as there can be."""
    values = list(DIMENSIONS.values())
    left: set[Pair] = set()
    for (i, these), (j, those) in combinations(enumerate(values), 2):
        left |= {((i, a), (j, b)) for a in these for b in those}
    draw = random.Random(0)
    rows: list[Row] = []
    while left:
        due = dict(min(left))
        tried = [
            tuple(due.get(i, draw.choice(some)) for i, some in enumerate(values)) for _ in range(40)
        ]
        best = max(tried, key=lambda row: len(pairs_of(row) & left))
        left -= pairs_of(best)
        rows.append(best)
    return rows


ROWS = covering()


@pytest.fixture(scope="module")
def lent() -> dict[str, dict[str, torch.Tensor]]:
    """Every family's tensors, as a host holds them in its memory."""
    return {family.name: tiny_tensors(family) for family in FAMILIES}


@pytest.fixture(scope="module")
def models(lent: Mapping[str, dict[str, torch.Tensor]]) -> dict[str, DiffusionModel]:
    return {
        family.name: assemble_model(lent[family.name], family, device=torch.device("cpu"))
        for family in FAMILIES
    }


@pytest.mark.parametrize("row", ROWS, ids="-".join)
def test_it_trains_and_leaves_no_trace(
    row: Row,
    lent: Mapping[str, dict[str, torch.Tensor]],
    models: Mapping[str, DiffusionModel],
    jobs: Mapping[str, dict[str, object]],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chosen = dict(zip(DIMENSIONS, row, strict=True))
    tensors = lent[chosen.pop("family")]
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    monkeypatch.setattr(standalone, "read_tensors", lambda path, where: tensors)
    alive: list[weakref.ref[object]] = []
    assemble: Callable[..., object] = standalone.assembled

    def watched(*args: object, **kwargs: object) -> object:
        model = assemble(*args, **kwargs)
        alive.extend(weakref.ref(part) for part in (model, model.unet, model.vae))  # type: ignore
        return model

    monkeypatch.setattr(standalone, "assembled", watched)
    job = {**jobs[chosen["method"]], "name": "n", "steps": STEPS, "save_preview": False, **chosen}
    host = StandaloneHost(tmp_path, tmp_path / "out", "cpu")
    events: list[Event] = []

    outcome = run_job(parse(job), host, control=Control(), sink=events.append)

    assert (outcome.steps, outcome.request) == (STEPS, Request.CONTINUE)
    assert math.isfinite(outcome.loss)
    losses = [event.loss for event in events if isinstance(event, StepDone)]
    assert len(losses) == STEPS * (2 if chosen["method"] == "difference" else 1)
    assert all(math.isfinite(loss) for loss in losses)
    assert all(torch.equal(before[name], tensor) for name, tensor in tensors.items())
    assert all(tensor.grad is None for tensor in tensors.values())
    gc.collect()
    assert len(alive) == 3
    assert not any(part() is not None for part in alive)

    file = tmp_path / "out" / "n.safetensors"
    saved, metadata = kohya.load(file)
    assert metadata["ss_steps"] == str(STEPS)
    modules, family = models[row[0]], row[0]
    wanted = parse({**job, "network_precision": "fp32"})[NetworkSettings]
    again = build_network(wanted, modules.unet, modules.text_encoders, family=family)
    again.load(saved)
    held = again.tensors()
    assert held.keys() == saved.keys()
    assert all(torch.equal(held[name], tensor) for name, tensor in saved.items())
