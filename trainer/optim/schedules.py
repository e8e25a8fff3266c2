"""Learning rate schedules by name."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.optimization import TYPE_TO_SCHEDULER_FUNCTION, SchedulerType
from torch.optim import lr_scheduler

from ..errors import BadInput, Problem
from ..settings.groups import OptimizerSettings
from ..settings.values import parse_arguments
from .arguments import REFUSALS, check_arguments
from .kinds import KINDS as OPTIMIZERS

Rates = list[float]
"""The learning rate of each parameter group."""
_OWN_ARGUMENTS = (
    *("optimizer", "num_warmup_steps", "num_training_steps", "num_cycles", "power", "step_rules"),
    *("T_max", "T_0", "max_lr", "total_steps", "epochs", "steps_per_epoch", "mode"),
    *("last_epoch", "verbose", "scale_fn", "scale_mode"),
)
PLATEAU_MEMORY = 0.98
"""The plateau is sought in a running mean of the loss: single losses say next to nothing."""


@dataclass(frozen=True)
class Course:
    """What a schedule is made for."""

    steps: int
    """Those after the warm-up."""
    rates: Rates
    """The full learning rates."""
    settings: OptimizerSettings


@dataclass(frozen=True)
class ScheduleKind:
    """One schedule: the library's function or class, and what it is given."""

    make: Callable[..., Any]
    arguments: Callable[[Course], dict[str, Any]]
    """What follows from the job; a user's arguments win."""
    follows_loss: bool = False


def _diffusers(
    name: str, arguments: Callable[[Course], dict[str, Any]] = lambda course: {}
) -> ScheduleKind:
    return ScheduleKind(TYPE_TO_SCHEDULER_FUNCTION[SchedulerType(name)], arguments)


def _over_steps(course: Course) -> dict[str, Any]:
    return {"num_warmup_steps": 0, "num_training_steps": course.steps}


KINDS: dict[str, ScheduleKind] = {
    "constant": _diffusers("constant"),
    "constant_with_warmup": _diffusers("constant"),
    "linear": _diffusers("linear", _over_steps),
    "cosine": _diffusers("cosine", _over_steps),
    "cosine_with_restarts": _diffusers(
        "cosine_with_restarts",
        lambda course: {**_over_steps(course), "num_cycles": course.settings.lr_cycles},
    ),
    "polynomial": _diffusers(
        "polynomial", lambda course: {**_over_steps(course), "power": course.settings.lr_power}
    ),
    "piecewise_constant": _diffusers(
        "piecewise_constant", lambda course: {"step_rules": course.settings.lr_step_rules}
    ),
    "cosine_annealing": ScheduleKind(
        lr_scheduler.CosineAnnealingLR, lambda course: {"T_max": course.steps}
    ),
    "cosine_annealing_with_restarts": ScheduleKind(
        lr_scheduler.CosineAnnealingWarmRestarts,
        lambda course: {"T_0": max(1, -(-course.steps // course.settings.lr_cycles))},
    ),
    "exponential": ScheduleKind(
        lr_scheduler.ExponentialLR, lambda course: {"gamma": 0.01 ** (1 / course.steps)}
    ),
    "step": ScheduleKind(
        lr_scheduler.StepLR, lambda course: {"step_size": max(1, -(-course.steps // 3))}
    ),
    "multi_step": ScheduleKind(
        lr_scheduler.MultiStepLR,
        lambda course: {"milestones": [course.steps // 2, course.steps * 3 // 4]},
    ),
    "cyclic": ScheduleKind(
        lr_scheduler.CyclicLR,
        lambda course: {
            "base_lr": [rate / 10 for rate in course.rates],
            "max_lr": course.rates,
            "step_size_up": max(1, course.steps // (2 * course.settings.lr_cycles)),
            "cycle_momentum": False,
        },
    ),
    "one_cycle": ScheduleKind(
        lr_scheduler.OneCycleLR,
        lambda course: {
            "max_lr": course.rates,
            "total_steps": max(2, course.steps),
            "cycle_momentum": False,
        },
    ),
    "reduce_on_plateau": ScheduleKind(
        lr_scheduler.ReduceLROnPlateau,
        lambda course: {"patience": max(10, course.steps // 20)},
        follows_loss=True,
    ),
}


class Schedule:
    """The learning rate over exactly the steps of a training.

    First the warm-up, in a straight line from 0 (or from the line's next point, for an optimizer
    that can do nothing at 0); then the library's schedule over the steps that are left.  Between
    two steps it is nothing but their number (and what a plateau remembers), so that a training
    that goes on has it exactly as it was.
    """

    def __init__(
        self, settings: OptimizerSettings, optimizer: torch.optim.Optimizer, steps: int
    ) -> None:
        """Sets the learning rates of the first step.

        Raises:
            BadInput: as `check_schedule`; or the schedule refuses a value.
        """
        check_schedule(settings)
        self._settings = settings
        self._optimizer = optimizer
        self._warmup = warmup_steps(settings, steps)
        self._above = 1 if OPTIMIZERS[settings.optimizer].needs_rate else 0
        self._full = [float(group["lr"]) for group in optimizer.param_groups]
        self._course = Course(max(1, steps - self._warmup), self._full, settings)
        self._kind = KINDS[settings.lr_scheduler]
        self._done = 0
        self._rates: Rates = []
        self._loss: float | None = None
        self._begin()

    def step(self, loss: torch.Tensor | None = None) -> None:
        """Goes on to the next step.

        Args:
            loss: of the step just made; a plateau is sought in it, and not without it.
        """
        self._done += 1
        if self._done > self._warmup:
            self._set(self._rates)
            if not self._kind.follows_loss:
                self._inner.step()
            elif loss is not None:
                self._smooth(float(loss))
                self._inner.step(self._loss)
            self._rates = self._current()
        self._warm()

    def state_dict(self) -> dict[str, Any]:
        """Where it stands, as JSON values."""
        state: dict[str, Any] = {"steps": self._done}
        if self._kind.follows_loss:
            names = ("best", "num_bad_epochs", "cooldown_counter", "last_epoch")
            state["plateau"] = {name: getattr(self._inner, name) for name in names}
            state["loss"], state["rates"] = self._loss, self._rates
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where `state_dict` was taken; the settings must be the same."""
        for group, rate in zip(self._optimizer.param_groups, self._full, strict=True):
            group["lr"] = rate
            group.pop("initial_lr", None)  # the library notes it anew
        self._begin()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that no step of the optimizer came before
            if self._kind.follows_loss:
                self._done, self._loss = state["steps"], state["loss"]
                self._rates = list(state["rates"])
                vars(self._inner).update(state["plateau"])
                self._warm()
            else:
                for _ in range(state["steps"]):
                    self.step()

    def _begin(self) -> None:
        given = parse_arguments(self._settings.lr_scheduler_args)
        try:
            self._inner = self._kind.make(
                self._optimizer, **{**self._kind.arguments(self._course), **given}
            )
        except REFUSALS as error:
            where = "lr_step_rules" if self._settings.lr_step_rules else "lr_scheduler_args"
            what = f"{self._settings.lr_scheduler} refuses them: {error}"
            raise BadInput([Problem(where, what, "correct or empty them")]) from error
        self._done = 0
        self._loss = None
        self._rates = self._current()
        self._warm()

    def _warm(self) -> None:
        above, warmup = self._above, self._warmup
        part = min(1.0, (self._done + above) / (warmup + above)) if warmup else 1.0
        self._set([rate * part for rate in self._rates])

    def _smooth(self, loss: float) -> None:
        before = loss if self._loss is None else self._loss
        self._loss = PLATEAU_MEMORY * before + (1 - PLATEAU_MEMORY) * loss

    def _current(self) -> Rates:
        return [float(group["lr"]) for group in self._optimizer.param_groups]

    def _set(self, rates: Rates) -> None:
        for group, rate in zip(self._optimizer.param_groups, rates, strict=True):
            group["lr"] = rate


def check_schedule(settings: OptimizerSettings) -> None:
    """Checks what can be known of a schedule before an optimizer exists.

    Raises:
        BadInput: a setting is missing, or an argument is not the schedule's.
    """
    name = settings.lr_scheduler
    arguments = parse_arguments(settings.lr_scheduler_args)
    check_arguments("lr_scheduler_args", KINDS[name].make, arguments, _OWN_ARGUMENTS)
    if name == "piecewise_constant" and not settings.lr_step_rules:
        what = "is empty, and lr_scheduler is piecewise_constant"
        cure = "write for example 1:100,0.1:400,0.01"
        raise BadInput([Problem("lr_step_rules", what, cure)])


def warmup_steps(settings: OptimizerSettings, steps: int) -> int:
    """The steps of the warm-up, however they are given."""
    return settings.lr_warmup_steps or round(steps * settings.lr_warmup_percent / 100)


def learning_rates(settings: OptimizerSettings, steps: int) -> Rates:
    """The learning rate of each step of a training, before it is made.

    A plateau cannot be foreseen: its course is the one without any.

    Raises:
        BadInput: as `Schedule`.
    """
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=settings.learning_rate)
    schedule = Schedule(settings, optimizer, steps)
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the optimizer makes no step
        for _ in range(steps):
            found.append(float(optimizer.param_groups[0]["lr"]))
            schedule.step()
    return found
