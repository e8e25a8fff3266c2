"""Optimizers by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import BadInput, Problem
from ..settings.groups import OptimizerSettings
from ..settings.values import parse_arguments
from .arguments import REFUSALS, check_arguments
from .kinds import KINDS, OptimizerKind


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that share a learning rate."""

    name: str
    """What the log calls the group: "unet", "text_encoder", or these with a "_fast" behind."""
    parameters: tuple[torch.nn.Parameter, ...]
    learning_rate: float


_OWN_ARGUMENTS = (
    *("params", "named_parameters", "lr"),
    *("fused", "foreach", "maximize", "capturable", "differentiable"),
    *("use_triton", "fsdp_in_use", "model_sharding", "verbose", "log_every", "kwargs"),
)
STEADY = ("constant", "constant_with_warmup")
LOWEST_FACTOR = 0.01
"""Below it, a learning rate was meant for an optimizer that does not find its rate itself."""


def check_optimizer(settings: OptimizerSettings) -> None:
    """Checks that the optimizer is there and takes its arguments, without making one.

    Raises:
        BadInput: its package is not installed, an argument is not the optimizer's, or it cannot
            have different learning rates.
    """
    kind = KINDS[settings.optimizer]
    arguments = parse_arguments(settings.optimizer_args)
    check_arguments("optimizer_args", kind.load(), arguments, _OWN_ARGUMENTS)
    problems = list(_one_rate(kind, settings)) if kind.one_rate else []
    if problems:
        raise BadInput(problems)


def warnings_of(settings: OptimizerSettings) -> list[str]:
    """What will work, but hardly as the user thinks."""
    kind, rate = KINDS[settings.optimizer], settings.learning_rate
    found = []
    if kind.one_rate and rate < LOWEST_FACTOR:
        found.append(
            f"learning_rate: {kind.name} finds its rate itself and multiplies it by {rate:g},"
            " which is next to nothing - use 1"
        )
    if kind.averages and settings.lr_scheduler not in STEADY:
        found.append(
            f"lr_scheduler: {kind.name} averages instead of slowing down, and"
            f" {settings.lr_scheduler} takes the last steps out of that - use constant"
        )
    return found


def new_optimizer(
    settings: OptimizerSettings, groups: Sequence[ParameterGroup]
) -> torch.optim.Optimizer:
    """The chosen optimizer over `groups`, in its fused form where torch has one.

    Raises:
        BadInput: as `check_optimizer`; or it refuses a value, or does not run on this device.
    """
    check_optimizer(settings)
    kind = KINDS[settings.optimizer]
    device = groups[0].parameters[0].device.type
    if kind.only_cuda and device != "cuda":
        cure = "choose AdamW, or Lion or Adafactor to save memory"
        what = f"{kind.name} runs on CUDA alone, and this training on {device}"
        raise BadInput([Problem("optimizer", what, cure)])
    make = kind.load()
    arguments = {**kind.arguments, **parse_arguments(settings.optimizer_args)}
    rows = [
        {"params": list(group.parameters), "lr": group.learning_rate, "name": group.name}
        for group in groups
    ]
    fuses = kind.package is None and fused_works(make, device, arguments)
    fused = {"fused": True} if fuses else {}
    try:
        if kind.build is not None:
            return kind.build(make, rows, {**arguments, "lr": settings.learning_rate})
        return make(rows, lr=settings.learning_rate, **fused, **arguments)
    except REFUSALS as error:
        what = f"{settings.optimizer} refuses them: {error}"
        cure = "correct or remove the argument"
        raise BadInput([Problem("optimizer_args", what, cure)]) from error


@contextmanager
def averaged(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """The parameters as they are to be used and saved, for the length of a `with` block.

    Schedule-free optimizers train at one point and average another; what they have learned is the
    average.  Afterwards the training goes on bit for bit where it was.

    Source: Defazio et al. 2024, The Road Less Scheduled, section 2.
    """
    if not hasattr(optimizer, "eval"):
        yield
        return
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    before = [parameter.detach().clone() for parameter in parameters]
    optimizer.eval()
    try:
        yield
    finally:
        optimizer.train()  # type: ignore[attr-defined]
        with torch.no_grad():
            for parameter, value in zip(parameters, before, strict=True):
                parameter.copy_(value)


def begin(optimizer: torch.optim.Optimizer) -> None:
    """Makes a schedule-free optimizer ready for steps; others need nothing."""
    if hasattr(optimizer, "train"):
        optimizer.train()


def end(optimizer: torch.optim.Optimizer) -> None:
    """Leaves the parameters as they are to be used; no step may follow."""
    if hasattr(optimizer, "eval"):
        optimizer.eval()


def _one_rate(kind: OptimizerKind, settings: OptimizerSettings) -> Iterator[Problem]:
    what = f"{kind.name} has one rate for everything"
    if settings.text_encoder_learning_rate not in (None, settings.learning_rate):
        yield Problem("text_encoder_learning_rate", what, "leave it empty")
    if settings.lora_plus_ratio != 1:
        yield Problem("lora_plus_ratio", what, "use 1, or an optimizer such as AdamW")


def fused_works(
    make: Callable[..., torch.optim.Optimizer], device: str, arguments: Mapping[str, Any]
) -> bool:
    """Whether an optimizer has a fused form there that does all that the plain one does.

    torch 2.1 fails at the first step only; its SGD with momentum, where the first gradient of one
    weight comes after that of another, as module_dropout has it.
    """
    early, late = (torch.zeros(1, device=device, requires_grad=True) for _ in range(2))
    try:
        optimizer = make([early, late], lr=0.1, fused=True, **arguments)
        for weight in (early, late):
            weight.grad = torch.zeros_like(weight)
            optimizer.step()
    except REFUSALS:
        return False
    return True
