"""Every optimizer: that it is one, learns, goes on where it was, and is honest about its needs."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from trainer.control import Control
from trainer.errors import BadInput, MissingDependency
from trainer.events import ignore
from trainer.optim.kinds import KINDS, OptimizerKind
from trainer.optim.optimizers import (
    ParameterGroup,
    averaged,
    begin,
    check_optimizer,
    new_optimizer,
    warnings_of,
)
from trainer.optim.pieces import pieces
from trainer.settings.groups import OptimizerSettings, TrainingSettings
from trainer.settings.groups.optimizer import OPTIMIZERS
from trainer.training.loop import Loop

ON_THE_CPU = [kind for kind in KINDS.values() if not kind.only_cuda]
INSTALLED = [
    pytest.param(
        kind,
        id=kind.name,
        marks=pytest.mark.skipif(
            importlib.util.find_spec(kind.module.partition(".")[0]) is None,
            reason=f"{kind.module} is not installed",
        ),
    )
    for kind in ON_THE_CPU
]
SCHEDULE_FREE = [row for row in INSTALLED if row.id.endswith("ScheduleFree")]
RATES = {
    **dict.fromkeys(("SGD", "SGDNesterov", "SGDScheduleFree"), 0.3),
    **dict.fromkeys(("Adagrad", "Adamax"), 0.1),
    **{kind.name: 1.0 for kind in ON_THE_CPU if kind.one_rate},
    "DAdaptSGD": 0.3,
}
"""What suits the task below; 0.02 for all others."""
STEADY = ("Prodigy", "DAdaptAdam", "DAdaptAdaGrad", *(name for name in KINDS if "Free" in name))
STEPS = 12


class Task:
    """Two matrices whose product is to become a third, as those of a LoRA."""

    def __init__(
        self,
        kind: OptimizerKind,
        seed: int = 0,
        steps: int = STEPS,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        drawn = torch.Generator().manual_seed(5)
        self.goal = torch.randn(6, 4, generator=drawn) / 2
        torch.manual_seed(seed)
        begun = [torch.randn(3, 4) / 2, torch.zeros(6, 3), torch.ones(1)]
        self.network = nn.ParameterList(begun).to(dtype)
        self.settings = OptimizerSettings(
            optimizer=kind.name,
            learning_rate=RATES.get(kind.name, 0.02),
            lr_scheduler="constant" if kind.name in STEADY else "cosine",
            # it is the slowest to find its rate, and begins at 1e-6
            optimizer_args="d0=0.01" if kind.name == "DAdaptAdaGrad" else "",
        )
        rate = self.settings.learning_rate
        down, *up = self.network
        groups = [ParameterGroup("unet", (down,), rate), ParameterGroup("more", tuple(up), rate)]
        self.loop = Loop(groups, TrainingSettings(steps=steps, max_grad_norm=0), self.settings)

    def loss(self) -> torch.Tensor:
        down, up, size = (weight.float() for weight in self.network)
        return (size * up @ down - self.goal).square().mean()

    def train(self, until: int, look_at: int = -1) -> None:
        control = Control()

        def after_step(step: int) -> None:
            if step == look_at:
                with self.loop.averaged():
                    self.loss()
            if step == until:
                control.stop()

        self.loop.run(self.loss, control=control, sink=ignore, after_step=after_step)

    def weights(self) -> list[torch.Tensor]:
        return [weight.detach().clone() for weight in self.network]


def groups(parameter: torch.nn.Parameter) -> list[ParameterGroup]:
    return [ParameterGroup("unet", (parameter,), 0.1)]


def test_every_choice_has_a_row() -> None:
    assert tuple(KINDS) == OPTIMIZERS


@pytest.mark.parametrize("kind", INSTALLED)
def test_it_learns(kind: OptimizerKind) -> None:
    steps = 300
    task = Task(kind, steps=steps)
    before = float(task.loss().detach())
    task.train(steps)
    task.loop.end()
    assert float(task.loss().detach()) < 0.5 * before


@pytest.mark.parametrize("kind", INSTALLED)
def test_it_keeps_as_much_of_a_weight_as_the_estimate_says(kind: OptimizerKind) -> None:
    side = 256
    weight = nn.Parameter(torch.randn(side, side))
    settings = OptimizerSettings(optimizer=kind.name, lr_scheduler="constant")
    loop = Loop([ParameterGroup("unet", (weight,), 1e-3)], TrainingSettings(steps=2), settings)
    for _ in range(2):
        loop.update(lambda: weight.square().sum())
    tensors, _ = loop.state()
    kept = sum(tensor.nbytes for tensor in tensors.values()) / weight.nbytes
    assert kept == pytest.approx(kind.keeps, abs=5 / side)  # rows, columns and counts


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", INSTALLED)
def test_going_on_equals_never_having_stopped(kind: OptimizerKind, dtype: torch.dtype) -> None:
    """Through JSON, as a state on disk, and with a look at the average on the way."""
    whole = Task(kind, dtype=dtype)
    whole.train(STEPS, look_at=8)
    first = Task(kind, dtype=dtype)
    first.train(7, look_at=5)
    tensors, values = first.loop.state()
    tensors = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    second = Task(kind, seed=9, dtype=dtype)
    with torch.no_grad():
        for weight, saved in zip(second.network, first.weights(), strict=True):
            weight.copy_(saved)
    second.loop.restore(tensors, json.loads(json.dumps(values)))
    found, _ = second.loop.state()
    assert {name: tensor.dtype for name, tensor in found.items()} == {
        name: tensor.dtype for name, tensor in tensors.items()
    }
    second.train(STEPS)
    for ours, expected in zip(second.weights(), whole.weights(), strict=True):
        assert torch.equal(ours, expected)


@pytest.mark.parametrize("kind", INSTALLED)
def test_a_weight_may_get_its_first_gradient_later(kind: OptimizerKind) -> None:
    """As one does that module_dropout leaves out of the first batches."""
    early, late = (torch.nn.Parameter(torch.ones(3, 4)) for _ in range(2))
    settings = OptimizerSettings(optimizer=kind.name, lr_scheduler="constant")
    loop = Loop([ParameterGroup("unet", (early, late), 0.1)], TrainingSettings(steps=4), settings)
    learning = iter([(early,), (early,), (early, late), (late,)])
    loop.run(
        lambda: sum((weight - 2).square().sum() for weight in next(learning)),
        control=Control(),
        sink=ignore,
    )
    assert all(torch.isfinite(weight).all() for weight in (early, late))


@pytest.mark.parametrize("kind", [row for row in INSTALLED if KINDS[row.id].asks])
def test_pieces_learn_what_single_weights_do(
    kind: OptimizerKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = Task(kind)
    together.train(STEPS)
    monkeypatch.setitem(KINDS, kind.name, replace(kind, asks=False))
    apart = Task(kind)
    apart.train(STEPS)
    assert len(together.loop.state()[0]) < len(apart.loop.state()[0])
    for ours, expected in zip(together.weights(), apart.weights(), strict=True):
        assert torch.allclose(ours, expected, rtol=1e-4, atol=1e-6)


def test_pieces_are_of_one_dtype_and_weights_stay_parts_of_them() -> None:
    sizes = [(2, 3), (4,), (1, 2)]
    dtypes = [torch.bfloat16, torch.float32, torch.bfloat16]
    made = zip(sizes, dtypes, strict=True)
    weights = [nn.Parameter(torch.randn(size).to(dtype)) for size, dtype in made]
    before = [weight.detach().clone() for weight in weights]
    first, second = pieces(weights)
    assert [(one.whole.dtype, len(one.whole)) for one in (first, second)] == [
        (torch.bfloat16, 8),
        (torch.float32, 4),
    ]
    assert all(a.equal(b) for a, b in zip(weights, before, strict=True))
    weights[2].grad = torch.ones(1, 2, dtype=torch.bfloat16)
    first.gather()
    second.gather()
    assert first.whole.grad is not None
    assert first.whole.grad.tolist() == [0] * 6 + [1] * 2
    assert weights[2].grad is None
    assert second.whole.grad is None
    with torch.no_grad():
        first.whole.fill_(3)
    assert [float(weight.detach().sum()) for weight in (weights[0], weights[2])] == [18, 6]


@pytest.mark.parametrize("kind", INSTALLED)
def test_it_takes_a_warmup(kind: OptimizerKind) -> None:
    weight = torch.nn.Parameter(torch.zeros(3, 4))
    rates = OptimizerSettings(optimizer=kind.name, lr_warmup_steps=3, lr_scheduler="constant")
    loop = Loop(groups(weight), TrainingSettings(steps=6), rates)
    loop.run(lambda: (weight - 2).square().sum(), control=Control(), sink=ignore)
    assert torch.isfinite(weight).all()
    assert weight.abs().min() > 0


@pytest.mark.parametrize("kind", SCHEDULE_FREE)
def test_schedule_free_is_used_at_the_average(kind: OptimizerKind) -> None:
    """The point that the package's own eval() gives, and back to the same bits."""
    task = Task(kind)
    task.train(STEPS // 2)
    trained = task.weights()
    with task.loop.averaged():
        used = task.weights()
    assert all(torch.equal(a, b) for a, b in zip(task.weights(), trained, strict=True))
    task.loop.optimizer.eval()
    assert all(torch.equal(a, b) for a, b in zip(task.weights(), used, strict=True))
    assert not torch.equal(used[0], trained[0])


def test_others_are_used_as_they_are() -> None:
    task = Task(KINDS["AdamW"])
    task.train(3)
    before = task.weights()
    with task.loop.averaged():
        assert all(torch.equal(a, b) for a, b in zip(task.weights(), before, strict=True))
    task.loop.end()
    assert all(torch.equal(a, b) for a, b in zip(task.weights(), before, strict=True))


def test_adamw_makes_torchs_own_step():
    ours = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    theirs = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    settings = OptimizerSettings(optimizer_args="weight_decay=0.3; betas=(0.8, 0.9)")
    found = new_optimizer(settings, groups(ours))
    expected = torch.optim.AdamW([theirs], lr=0.1, weight_decay=0.3, betas=(0.8, 0.9))
    for parameter, optimizer in ((ours, found), (theirs, expected)):
        for factor in (1.0, 0.5):
            parameter.grad = torch.tensor([0.3, 0.7]) * factor
            optimizer.step()
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


def test_momentum_of_a_weight_begins_with_its_first_gradient() -> None:
    """torch's plain form, dampening included, at which the first gradient counts whole."""
    settings = OptimizerSettings(optimizer="SGD", optimizer_args="momentum=0.9; dampening=0.5")
    ours, theirs = ([torch.nn.Parameter(torch.ones(2)) for _ in range(2)] for _ in range(2))
    found = new_optimizer(settings, [ParameterGroup("unet", tuple(ours), 0.1)])
    expected = torch.optim.SGD(theirs, lr=0.1, momentum=0.9, dampening=0.5, foreach=False)
    for step in range(4):
        for (early, late), optimizer in ((ours, found), (theirs, expected)):
            early.grad = torch.tensor([0.3, 0.7]) + step
            late.grad = torch.tensor([0.1, 0.2]) - step if step > 1 else None
            optimizer.step()
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["AdamW", "SGD"])
def test_the_fused_form_is_taken(name: str) -> None:
    pytest.importorskip("torch", "2.5", reason="fused on a CPU came with it")
    settings = OptimizerSettings(optimizer=name)
    assert new_optimizer(settings, groups(torch.nn.Parameter(torch.ones(2)))).defaults["fused"]


def test_a_row_says_what_its_name_means_and_the_user_may_say_otherwise() -> None:
    parameter = torch.nn.Parameter(torch.ones(2))
    settings = OptimizerSettings(optimizer="SGDNesterov")
    (group,) = new_optimizer(settings, groups(parameter)).param_groups
    assert (group["nesterov"], group["momentum"]) == (True, 0.9)
    settings = OptimizerSettings(optimizer="SGDNesterov", optimizer_args="momentum=0.5")
    (group,) = new_optimizer(settings, groups(parameter)).param_groups
    assert (group["nesterov"], group["momentum"]) == (True, 0.5)


def test_adafactor_keeps_to_the_learning_rate() -> None:
    settings = OptimizerSettings(optimizer="AdaFactor", optimizer_args="warmup_init=False")
    (group,) = new_optimizer(settings, groups(torch.nn.Parameter(torch.ones(2)))).param_groups
    assert (group["relative_step"], group["scale_parameter"], group["lr"]) == (False, False, 0.1)
    settings = OptimizerSettings(optimizer="AdaFactor", optimizer_args="relative_step=True")
    with pytest.raises(BadInput, match="manual `lr`"):
        new_optimizer(settings, groups(torch.nn.Parameter(torch.ones(2))))


def test_prodigy_takes_the_sdxl_notes_arguments() -> None:
    """facts/checklist.md E."""
    pytest.importorskip("prodigyopt")
    arguments = {
        "decouple": True,
        "weight_decay": 0.01,
        "d_coef": 1,
        "use_bias_correction": True,
        "safeguard_warmup": True,
    }
    text = "\n".join(f"{name}={value}" for name, value in arguments.items())
    settings = OptimizerSettings(optimizer="Prodigy", learning_rate=1.0, optimizer_args=text)
    (group,) = new_optimizer(settings, groups(torch.nn.Parameter(torch.ones(2)))).param_groups
    assert {name: group[name] for name in arguments} == arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("weight_decy=0.1", "did you mean weight_decay"),
        ("lr=1", "lr here - it has a field of its own"),
        ("fused=False", "fused here"),
        ("eps=-1", "AdamW refuses them"),
        ("betas=1", "AdamW refuses them"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    settings = OptimizerSettings(optimizer_args=arguments)
    with pytest.raises(BadInput, match=message):
        new_optimizer(settings, groups(torch.nn.Parameter(torch.ones(2))))


class Quantised(torch.optim.AdamW):
    """Stands in for an optimizer of an optional package."""

    def __init__(self, params: Any, lr: float = 1e-3, block_size: int = 2048) -> None:
        super().__init__(params, lr=lr)
        self.block_size = block_size


@pytest.fixture
def bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package of that name with one optimizer."""
    package, module = ModuleType("bitsandbytes"), ModuleType("bitsandbytes.optim")
    vars(module)["AdamW8bit"] = Quantised
    monkeypatch.setitem(sys.modules, "bitsandbytes", package)
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", module)


@pytest.mark.usefixtures("bitsandbytes")
def test_what_needs_cuda_is_refused_elsewhere_when_it_is_made() -> None:
    settings = OptimizerSettings(optimizer="AdamW8bit", optimizer_args="block_size=64")
    check_optimizer(settings)
    with pytest.raises(BadInput, match="runs on CUDA alone, and this training on cpu"):
        new_optimizer(settings, groups(torch.nn.Parameter(torch.ones(2))))
    with pytest.raises(BadInput, match="did you mean block_size"):
        check_optimizer(OptimizerSettings(optimizer="AdamW8bit", optimizer_args="blocksize=64"))


@pytest.mark.usefixtures("bitsandbytes")
def test_a_package_that_lacks_the_optimizer_is_named() -> None:
    with pytest.raises(BadInput, match="PagedLion8bit cannot be imported from bitsandbytes.optim"):
        check_optimizer(OptimizerSettings(optimizer="PagedLion8bit"))


@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS.values() if kind.package], ids=lambda kind: kind.name
)
def test_a_missing_package_is_named_with_the_command(
    kind: OptimizerKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = kind.module.partition(".")[0]
    for name in [name for name in sys.modules if name.partition(".")[0] == root]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "meta_path", sys.meta_path[-1:])
    with pytest.raises(MissingDependency) as caught:
        check_optimizer(OptimizerSettings(optimizer=kind.name, learning_rate=1.0))
    (problem,) = caught.value.problems
    assert kind.package is not None
    assert problem.where == "optimizer"
    assert f"{kind.name} needs the package {kind.package.name}" in problem.what
    assert f'pip install "{kind.package.name}{kind.package.versions}"' in problem.cure


def test_different_rates_are_refused_where_there_is_only_one() -> None:
    pytest.importorskip("prodigyopt")
    settings = OptimizerSettings(
        optimizer="Prodigy",
        learning_rate=1.0,
        text_encoder_learning_rate=0.5,
        lora_plus_ratio=4,
    )
    with pytest.raises(BadInput) as caught:
        check_optimizer(settings)
    fields = [problem.where for problem in caught.value.problems]
    assert fields == ["text_encoder_learning_rate", "lora_plus_ratio"]


def test_a_learning_rate_for_another_optimizer_is_pointed_out() -> None:
    (warning,) = warnings_of(OptimizerSettings(optimizer="Prodigy", learning_rate=1e-4))
    assert "learning_rate: Prodigy finds its rate itself" in warning
    assert warnings_of(OptimizerSettings(optimizer="Prodigy", learning_rate=1.0)) == []
    assert warnings_of(OptimizerSettings()) == []
    (warning,) = warnings_of(OptimizerSettings(optimizer="AdamWScheduleFree"))
    assert "lr_scheduler: AdamWScheduleFree averages" in warning
    steady = OptimizerSettings(optimizer="AdamWScheduleFree", lr_scheduler="constant")
    assert warnings_of(steady) == []


def test_begin_and_average_ask_nothing_of_torchs_own() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
    begin(optimizer)
    with averaged(optimizer):
        assert optimizer.param_groups[0]["params"][0] == 1
