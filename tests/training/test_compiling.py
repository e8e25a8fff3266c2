"""Training on a compiled model: the same training, a verdict, and nothing left behind."""

from __future__ import annotations

import gc
import importlib.util
import math
import re
import shutil
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.attention import BasicTransformerBlock
from torch import Tensor

from tests.modules import tiny_modules
from trainer.control import Control
from trainer.errors import BadInput
from trainer.events import Event, Notice, PhaseStarted, StepDone
from trainer.hosts.standalone import StandaloneHost
from trainer.networks.build import build_network
from trainer.networks.network import Network
from trainer.run import run_job
from trainer.settings.groups import NetworkSettings
from trainer.settings.schema import parse
from trainer.training import compiling
from trainer.training.compiling import compiled, obstacle, verdict
from trainer.training.plan import make_plan

Train = Callable[..., list[Event]]
HAS_COMPILER = bool(shutil.which("c++") or shutil.which("g++"))
ALL_TWICE = {"gradient_checkpointing": True, "checkpointed_parts": "all"}


@pytest.fixture
def job(tiny_checkpoint: Path, pictures: Path) -> dict[str, object]:
    return {
        "method": "lora",
        "checkpoint": str(tiny_checkpoint),
        "images": str(pictures),
        "name": "result",
        "steps": 4,
        "rank": 2,
        "alpha": 2,
        "learning_rate": 0.02,
        "image_size_px": 64,
        "bucket_step_px": 0,
        "save_preview": False,
        "save_state_every_steps": 0,
        "overwrite": True,
        "seed": 1,
    }


@pytest.fixture
def train(job: dict[str, object], tmp_path: Path) -> Train:
    """Trains on the tiny checkpoint; gives what the user is told."""

    def run(**changes: object) -> list[Event]:
        told: list[Event] = []
        host = StandaloneHost(tmp_path, tmp_path / "out", "cpu")
        run_job(parse({**job, **changes}), host, control=Control(), sink=told.append)
        return told

    return run


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traces the model and its backward pass, and makes no code of its own for it.

    The tiny model's gradients change by two thirds where its latents change by a millionth.
    """
    monkeypatch.setattr(compiling, "BACKEND", "aot_eager")
    monkeypatch.setattr(compiling, "ROUNDING", math.inf)
    monkeypatch.setattr(compiling, "TRIALS", 1)


def losses(told: list[Event]) -> list[float]:
    return [event.loss for event in told if isinstance(event, StepDone)]


def phases(told: list[Event]) -> list[str]:
    return [event.title for event in told if isinstance(event, PhaseStarted)]


def notices(told: list[Event]) -> list[str]:
    return [event.text for event in told if isinstance(event, Notice)]


@pytest.mark.parametrize(
    "changes",
    [
        {**ALL_TWICE, "blocks": "BASE,IN01,OUT05", "base_precision": "int8"},
        {"blocks": "BASE"},
        {"base_precision": "bf16"},
        {"compiled_parts": "whole", "base_precision": "int8"},
    ],
)
@pytest.mark.usefixtures("quick")
def test_a_job_trains_the_same(changes: dict[str, object], train: Train) -> None:
    plain, fast = train(**changes), train(**changes, torch_compile=True)
    still = train(**{**changes, "learning_rate": 1e-9})

    def apart(one: list[Event]) -> float:
        return math.dist(losses(one), losses(plain))

    assert apart(fast) < 0.4 * apart(still), "what is learnt is the same but for rounding"
    assert phases(fast) == [*phases(plain), "Compiling the model", "Training"]
    (told,) = (text for text in notices(fast) if text not in notices(plain))
    assert told.startswith("Compiled in ")


@pytest.mark.usefixtures("quick")
def test_each_size_of_pictures_is_compiled_and_told_of(train: Train) -> None:
    told = notices(train(torch_compile=True, image_size_px=96, bucket_step_px=32, batch_size=1))
    first, second = (text for text in told if text.startswith("Compiled"))
    assert first.startswith("Compiled in ")
    assert re.match(r"Compiled for 1 x \d+ x \d+ px and 77 tokens, too, in \d+ s", second)


class Little:
    """A UNet with a network, and the pass that a step makes."""

    def __init__(self) -> None:
        self.unet = tiny_modules(0, "sd1")[0].requires_grad_(False)
        wanted = NetworkSettings(rank=2, alpha=2.0, blocks=("IN01", "M00", "OUT10", "OUT11"))
        self.network: Network = build_network(wanted, self.unet, [], family="sd1")
        drawn = torch.Generator().manual_seed(0)
        for weight in self.network.parameters():
            weight.data += 0.1 * torch.randn(weight.shape, generator=drawn)
        context = torch.randn(1, 77, self.unet.config.cross_attention_dim, generator=drawn)
        self.told = (torch.tensor([500]), context)
        self.latents = torch.randn(1, 4, 8, 8, generator=drawn)

    def predict(self) -> Tensor:
        (prediction,) = self.unet(self.latents, *self.told, return_dict=False)
        return prediction

    def gradients(self) -> tuple[Tensor, ...]:
        return torch.autograd.grad(self.predict().square().sum(), self.network.unet_parameters())

    def compiled(self, told: list[str], parts: str = "blocks") -> Any:
        """Notes in `told` what the user reads, and when the clock stands still."""

        @contextmanager
        def off_the_clock() -> Iterator[None]:
            told.append("off")
            yield
            told.append("on")

        return compiled(
            self.unet,
            self.network.unet_parameters(),
            parts=parts,
            batches=10,
            phase=PhaseStarted("Training"),
            sink=lambda event: told.append(getattr(event, "title", "") or event.text),
            off_the_clock=off_the_clock,
        )


@pytest.mark.parametrize("parts", compiling.PARTS)
@pytest.mark.usefixtures("quick")
def test_graphs_run_compiled_with_the_same_gradients_and_nothing_stays(
    parts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[bool] = []
    make = torch.compile

    def noted(plain: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        fast = make(plain, **options)

        def call(*inputs: Any, **more: Any) -> Any:
            calls.append(torch.is_grad_enabled())
            return fast(*inputs, **more)

        return call

    monkeypatch.setattr(torch, "compile", noted)
    little, told = Little(), []
    with little.network:
        plain = little.gradients()
        with little.compiled(told, parts):
            with torch.no_grad():
                little.predict()
            assert not calls
            torch.testing.assert_close(little.gradients(), plain, rtol=1e-3, atol=1e-3)
            count = len(calls)
            little.gradients()
            with torch.no_grad():
                little.predict()
            kinds = compiling.PARTS[parts]
            each = len([1 for part in little.unet.modules() if isinstance(part, kinds)])
            assert len(calls) == count + each > count
            assert all(calls)
    assert [text.split()[0] for text in told] == ["off", "Compiling", "Compiled", "Training", "on"]
    assert not [part for part in little.unet.modules() if "forward" in vars(part)]
    kept = weakref.ref(little.unet), weakref.ref(little.network)
    del little
    gc.collect()
    assert [one() for one in kept] == [None, None]


@pytest.mark.skipif(not HAS_COMPILER, reason="torch finds no C++ compiler")
def test_code_that_torch_makes_has_the_same_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    class Chosen(BasicTransformerBlock):
        """One of a block's kind, whose input lies transposed."""

    little, told = Little(), []
    block = little.unet.up_blocks[3].attentions[2].transformer_blocks[0]
    monkeypatch.setattr(block, "__class__", Chosen)
    monkeypatch.setitem(compiling.PARTS, "blocks", (Chosen,))
    with little.network, little.compiled(told):
        little.gradients()  # which are checked
    assert told[2].startswith("Compiled in ")


@pytest.mark.usefixtures("quick")
def test_no_block_lies_transposed_inside_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    straight: dict[bool, set[bool]] = {True: set(), False: set()}
    plain = BasicTransformerBlock.forward

    def forward(self: BasicTransformerBlock, x: Tensor, *inputs: Any, **options: Any) -> Tensor:
        straight[torch.compiler.is_compiling()].add(x.is_contiguous())
        return plain(self, x, *inputs, **options)

    monkeypatch.setattr(BasicTransformerBlock, "forward", forward)
    monkeypatch.setattr(compiling, "BACKEND", "eager")  # what is traced is enough
    little = Little()
    with little.network, little.compiled([], "whole"):
        little.gradients()
    assert False in straight[False]
    assert straight[True] == {True}


@pytest.mark.parametrize(
    ("factor", "parts", "cure"),
    [(1.1, "blocks", "switch it off"), (math.nan, "whole", "set compiled_parts to blocks; or ")],
)
def test_wrong_gradients_are_noticed(
    factor: float, parts: str, cure: str, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(plain: Callable[..., Any], **_: Any) -> Callable[..., Any]:
        def forward(*inputs: Any, **options: Any) -> Any:
            answer = plain(*inputs, **options)  # of the UNet, a tuple
            return (factor * answer[0],) if parts == "whole" else factor * answer

        return forward

    monkeypatch.setattr(torch, "compile", wrong)
    with pytest.raises(BadInput, match="torch_compile: changes what is computed here") as caught:
        train(torch_compile=True, compiled_parts=parts)
    assert caught.value.problems[0].cure.startswith(cure)


def test_a_machine_that_cannot_compile_is_told_of(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    def backend(*_: Any) -> Any:
        raise RuntimeError("no compiler there.\nLook elsewhere")

    monkeypatch.setattr(compiling, "BACKEND", backend)
    with pytest.raises(
        BadInput, match=r"torch_compile: does not work here \(.*no compiler there\)"
    ):
        train(torch_compile=True)
    train()


def test_an_old_torch_that_cannot_is_told_of(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise RuntimeError("Dynamo is not supported on Python 3.12+")

    monkeypatch.setattr(torch, "compile", refuse)
    with pytest.raises(BadInput, match="does not work here .Dynamo is not supported"):
        train(torch_compile=True)


@pytest.mark.parametrize(
    ("version", "gpu", "triton", "missing"),
    [
        ("2.3.1+cu121", True, False, "triton"),
        ("2.3.1+cu121", True, True, ""),
        ("2.13.0+cpu", False, False, ""),
        ("2.2.0", True, True, "torch 2.2.0"),
    ],
)
def test_what_is_missing_is_known(
    version: str, gpu: bool, triton: bool, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "__version__", version)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(importlib.util, "find_spec", {"triton": triton}.get)
    problem = obstacle()
    assert bool(problem) is bool(missing)
    assert problem is None or (problem.where == "torch_compile" and missing in problem.what)


def test_what_is_missing_is_told_before_the_training(
    job: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = StandaloneHost(tmp_path, tmp_path, "cpu")
    monkeypatch.setattr(torch, "__version__", "2.1.2")
    make_plan(parse(job), host)
    with pytest.raises(BadInput, match="torch_compile: is on, but torch 2.1.2 cannot"):
        make_plan(parse({**job, "torch_compile": True}), host)


@pytest.mark.parametrize(
    ("compiling_s", "plain_s", "fast_s", "batches", "told"),
    [
        (
            60.0,
            0.5,
            0.25,
            1000,
            "Compiled in 60 s: a batch takes 0.25 s instead of 0.5 s. It pays after 240 of the 1000"
            " to come",
        ),
        (
            60.0,
            0.5,
            0.25,
            239,
            "Compiled in 60 s: a batch takes 0.25 s instead of 0.5 s. It pays after 240, and 239"
            " are to come: switch torch_compile off for so few",
        ),
        (
            60.0,
            0.25,
            0.5,
            1000,
            "Compiled in 60 s: a batch takes 0.5 s instead of 0.25 s, which never pays here: switch"
            " torch_compile off",
        ),
    ],
)
def test_the_verdict(
    compiling_s: float, plain_s: float, fast_s: float, batches: int, told: str
) -> None:
    assert verdict(compiling_s, plain_s, fast_s, batches) == told
