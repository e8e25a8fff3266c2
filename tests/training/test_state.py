"""A training that is interrupted and goes on ends exactly where an uninterrupted one ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

from trainer.control import Control
from trainer.data.batches import BatchOrder
from trainer.errors import BadInput
from trainer.events import ignore
from trainer.optim.optimizers import ParameterGroup
from trainer.settings.groups import OptimizerSettings, TrainingSettings
from trainer.training.beginning import Beginning
from trainer.training.loop import Loop
from trainer.training.state import (
    HEADER,
    RANDOM,
    Part,
    Recorder,
    State,
    StateError,
    StateFolder,
    check_same,
)

SETTINGS: dict[str, object] = {"rank": 4, "name": "hat", "steps": 12}
STEPS = 12
BEGINNING = Beginning(seed=3, session_id=77, started_s=1.5e9)


class Run:
    """A network that learns noise drawn by the run's own generator, from batches in order."""

    def __init__(self, seed: int = 3) -> None:
        torch.manual_seed(seed)
        self.network = nn.Linear(5, 2)
        self.generator = torch.Generator().manual_seed(seed)
        self.order = BatchOrder([(64, 64)] * 7, batch_size=2, seed=seed)
        groups = [ParameterGroup("unet", tuple(self.network.parameters()), 0.01)]
        training = TrainingSettings(steps=STEPS, max_grad_norm=1.0)
        rates = OptimizerSettings(lr_scheduler="cosine", lr_warmup_steps=2)
        self.loop = Loop(groups, training, rates)
        self.seen: list[tuple[int, ...]] = []

    @property
    def part(self) -> Part:
        return Part(self.network, self.loop, self.generator, self.order)

    def loss(self) -> torch.Tensor:
        indices = next(self.order)
        self.seen.append(indices)
        noise = torch.randn(len(indices), 5, generator=self.generator)
        return (self.network(noise) - noise[:, :2] * len(self.seen)).square().mean()

    def train(self, recorder: Recorder | None = None, until: int = STEPS) -> None:
        control = Control()

        def after_step(step: int) -> None:
            if recorder is not None:
                recorder.after_step(step, lambda: self.loop.check_loss(ignore))
            if step == until:
                control.stop()

        self.loop.run(self.loss, control=control, sink=ignore, after_step=after_step)


def recorder(folder: StateFolder, resume: State | None = None, every: int = 5) -> Recorder:
    return Recorder(folder, SETTINGS, BEGINNING, every_steps=every, resume=resume)


def test_going_on_equals_never_having_stopped(tmp_path: Path) -> None:
    whole = Run()
    whole.train()
    folder = StateFolder(tmp_path)
    first, notes = Run(), recorder(folder)
    assert not notes.enter(first.part)
    first.train(notes, until=7)  # saved after step 5; steps 6 and 7 are lost
    saved = folder.newest()
    assert saved is not None and saved.values["step"] == 5
    second = Run(seed=9)  # another start, which must not matter
    second.order = BatchOrder([(64, 64)] * 7, batch_size=2, seed=3)
    notes = recorder(folder, saved)
    assert not notes.enter(second.part)
    second.seen = first.seen[:5]
    second.train(notes)
    assert second.seen == whole.seen
    assert second.loop.smoothed_loss == whole.loop.smoothed_loss
    for ours, wanted in zip(second.network.parameters(), whole.network.parameters(), strict=True):
        assert torch.equal(ours, wanted)


def test_a_job_goes_on_on_another_kind_of_device(tmp_path: Path) -> None:
    """The state of a GPU's random numbers is 16 bytes."""
    folder = StateFolder(tmp_path)
    first, notes = Run(), recorder(folder)
    notes.enter(first.part)
    first.train(notes, until=5)
    saved = folder.newest()
    assert saved is not None
    saved.tensors[RANDOM] = torch.zeros(16, dtype=torch.uint8)
    second = Run()
    assert not recorder(folder, saved).enter(second.part)
    assert second.loop.step == 5
    assert second.order.state() == first.order.state()


def test_the_file_holds_tensors_and_json_alone(tmp_path: Path) -> None:
    run, notes = Run(), recorder(StateFolder(tmp_path))
    notes.enter(run.part)
    run.train(notes)
    path = tmp_path / "state-0-00000010.safetensors"
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()[HEADER])
    assert header["settings"] == SETTINGS
    assert header["values"]["schedule"]["steps"] == 10


def test_the_last_few_are_kept_and_cleared(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path / "states", keep=2)
    run, notes = Run(), recorder(folder, every=3)
    notes.enter(run.part)
    run.train(notes)
    names = sorted(path.name for path in folder.folder.iterdir())
    assert names == ["state-0-00000009.safetensors", "state-0-00000012.safetensors"]
    notes.done()
    assert not folder.folder.exists()


def test_a_damaged_state_is_passed_over(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path)
    run, notes = Run(), recorder(folder)
    notes.enter(run.part)
    run.train(notes)
    newest = tmp_path / "state-0-00000010.safetensors"
    newest.write_bytes(newest.read_bytes()[:300])
    saved = folder.newest()
    assert saved is not None and saved.values["step"] == 5


def test_a_damaged_state_takes_the_place_of_no_good_one(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path, keep=1)
    (tmp_path / "state-0-00000099.safetensors").write_bytes(b"")
    run, notes = Run(), recorder(folder)
    notes.enter(run.part)
    run.train(notes)
    assert [path.name for path in tmp_path.iterdir()] == ["state-0-00000010.safetensors"]


def test_a_state_that_was_read_leaves_its_file_alone(tmp_path: Path) -> None:
    """Windows neither removes nor replaces a file that is still mapped into the memory."""
    run, folder = Run(), StateFolder(tmp_path)
    notes = recorder(folder)
    notes.enter(run.part)
    run.train(notes, until=5)
    state = folder.newest()
    assert state is not None
    before = {name: tensor.numpy().tobytes() for name, tensor in state.tensors.items()}
    (path,) = tmp_path.glob("state-*")
    with path.open("r+b") as file:  # in place: what is mapped shows it
        file.write(bytes(path.stat().st_size))
    assert {name: t.numpy().tobytes() for name, t in state.tensors.items()} == before


def test_a_second_pass_goes_on_behind_a_complete_first(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path)
    first, second, notes = Run(1), Run(2), recorder(folder)
    notes.enter(first.part)
    first.train(notes)
    notes.enter(second.part)
    second.train(notes, until=6)
    saved = folder.newest()
    assert saved is not None and saved.part == 1
    again, later, notes = Run(7), Run(8), recorder(folder, saved)
    later.order = BatchOrder([(64, 64)] * 7, batch_size=2, seed=2)
    assert notes.enter(again.part), "the first pass is complete"
    assert torch.equal(again.network.weight, first.network.weight)
    assert not notes.enter(later.part)
    assert later.loop.step == 5


def test_changed_settings_are_named(tmp_path: Path) -> None:
    saved = State(0, {}, {"step": 5}, {"rank": 4, "name": "hat", "gone": 1}, BEGINNING)
    with pytest.raises(BadInput) as refused:
        now = {"rank": 8, "name": "cap", "new": 2}  # an update brought `new` and took `gone`
        Recorder(StateFolder(tmp_path), now, BEGINNING, every_steps=5, resume=saved)
    assert [problem.where for problem in refused.value.problems] == ["rank"]


@pytest.mark.parametrize(
    ("before", "now", "changed"),
    [
        ({"rank": 1, "steps": 2}, {}, {"second_pass.rank": "4, but was 1"}),
        ({}, {"rank": 1}, {"second_pass.rank": "1, but was 4"}),
        ({"rank": 1}, {"rank": 2}, {"second_pass.rank": "2, but was 1"}),
        ({"rank": 1}, {"rank": 1}, {}),
        ({"rank": 4}, {}, {}),  # as the first pass has it
        ({"seed": 7, "gone": 3}, {}, {}),  # of a former version, which passed the seed over
    ],
)
def test_a_second_pass_that_was_changed_is_named(
    before: dict[str, object], now: dict[str, object], changed: dict[str, str]
) -> None:
    saved, wanted = (
        {"rank": 4, "steps": 2, "seed": 3, **({"second_pass": own} if own else {})}
        for own in (before, now)
    )
    try:
        check_same(saved, wanted)
        problems: dict[str, str] = {}
    except BadInput as refused:
        problems = {one.where: one.what for one in refused.problems}
    assert problems.keys() == changed.keys()
    assert all(part in problems[where] for where, part in changed.items())


def test_another_network_is_refused(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path)
    run, notes = Run(), recorder(folder)
    notes.enter(run.part)
    run.train(notes)
    other = Run()
    other.network = nn.Linear(6, 2)
    with pytest.raises(StateError, match="does not fit"):
        recorder(folder, folder.newest()).enter(other.part)
