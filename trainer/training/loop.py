"""The one training loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..control import Control, Request
from ..errors import TrainyardError
from ..events import Sink, StepDone
from ..optim.kinds import KINDS
from ..optim.optimizers import ParameterGroup, averaged, begin, end, new_optimizer
from ..optim.pieces import Piece, pieces
from ..optim.schedules import Schedule
from ..settings.groups import OptimizerSettings, TrainingSettings
from .distributed import Team
from .stopwatch import Stopwatch

LossFunction = Callable[[], torch.Tensor]
"""Draws the next batch and returns its loss, a scalar with a graph."""

REPORT_INTERVAL_S = 0.25
"""Losses stay on the device between two reports: asking for each would stall a GPU."""
LOSS_SMOOTHING = 0.98
SPEED_WINDOW_STEPS = 50


class NotANumber(TrainyardError):
    """The loss became NaN or infinite."""

    def __init__(self, step: int) -> None:
        super().__init__(
            f"the loss became NaN or infinite by step {step}; files saved before are good"
            " - lower learning_rate, or set base_precision to fp32 (or bf16 instead of fp16)"
        )
        self.step = step


@dataclass(frozen=True)
class Outcome:
    """How a run of the loop ended."""

    steps: int
    """Optimizer updates made."""
    loss: float
    """The smoothed loss at the end."""
    request: Request
    """CONTINUE when every step was made, else what cut the run short."""
    file: Path | None = None
    """The result, where it was saved."""


@dataclass(frozen=True)
class _Pending:
    step: int
    loss: torch.Tensor
    learning_rates: tuple[float, ...]


class Loop:
    """Makes exactly `training.steps` optimizer updates of some parameters.

    The caller brings the loss; data, model and method are no concern of this class.
    """

    def __init__(
        self,
        groups: Sequence[ParameterGroup],
        training: TrainingSettings,
        optimizer: OptimizerSettings,
        *,
        compute_dtype: torch.dtype = torch.float32,
        steps_per_epoch: float = math.inf,
        team: Team = Team(),  # noqa: B008
    ) -> None:
        """Makes optimizer and schedule.

        Args:
            compute_dtype: float16 switches loss scaling on.
            steps_per_epoch: optimizer updates in which the data are seen once.
            team: the processes that share each step's batches.

        Raises:
            BadInput: optimizer or schedule refuse their arguments, or the batches of a step
                cannot be shared.
        """
        self.groups = tuple(group for group in groups if group.parameters)
        self.parameters = [p for group in self.groups for p in group.parameters]
        self.training = training
        self.team = team
        self.own_batches = team.share(training.gradient_accumulation_steps)
        team.same_weights(self.parameters)
        self.steps_per_epoch = steps_per_epoch
        self.step = 0
        self.smoothed_loss = math.nan
        self._pieces: list[Piece] = []
        asks = KINDS[optimizer.optimizer].asks
        taken = tuple(map(self._in_pieces, self.groups)) if asks else self.groups
        self.optimizer = new_optimizer(optimizer, taken)
        begin(self.optimizer)
        self.schedule = Schedule(optimizer, self.optimizer, training.steps)
        device = self.parameters[0].device.type
        self.scaler = _new_scaler(device, compute_dtype is torch.float16)
        self._pending: list[_Pending] = []
        self._watch = Stopwatch()
        self._marks: list[tuple[float, int]] = []

    @property
    def epoch(self) -> int:
        """The epoch of the last step made, counted from 1."""
        return self.epoch_of(self.step)

    def epoch_of(self, step: int) -> int:
        """The epoch of a step, counted from 1."""
        return max(1, math.ceil(step / self.steps_per_epoch))

    def run(
        self,
        loss_of_next_batch: LossFunction,
        *,
        control: Control,
        sink: Sink,
        after_step: Callable[[int], None] = lambda step: None,
    ) -> Outcome:
        """Trains until the last step or until `control` ends the run.

        Args:
            after_step: called after each update with its number, for save points and samples.

        Raises:
            NotANumber: when the loss is no number; the step that showed it is not saved.
        """
        self._marks = [(self._watch.elapsed_s, self.step)]
        self._watch.start()
        request = Request.CONTINUE
        while self.step < self.training.steps:
            with self.off_the_clock():
                request = control.checkpoint()
            request = self.team.agreed(request)
            if request is not Request.CONTINUE:
                break
            loss = self.update(loss_of_next_batch)
            self._pending.append(_Pending(self.step, loss, self._learning_rates()))
            self.schedule.step(loss)
            if self._watch.elapsed_s - self._marks[-1][0] >= REPORT_INTERVAL_S:
                self._report(sink)
            after_step(self.step)
        self._report(sink)
        self._watch.stop()
        return Outcome(self.step, self.smoothed_loss, request)

    @contextmanager
    def off_the_clock(self) -> Iterator[None]:
        """However long the `with` block takes, neither speed nor time left nor the log count it.

        Such as a pause, or pictures that are let through.
        """
        self._watch.stop()
        try:
            yield
        finally:
            self._watch.start()

    def averaged(self) -> AbstractContextManager[None]:
        """The parameters as they are to be used and saved, for the length of a `with` block."""
        return averaged(self.optimizer)

    def end(self) -> None:
        """Leaves the parameters as they are to be used; no update may follow."""
        end(self.optimizer)

    def check_loss(self, sink: Sink) -> None:
        """Reports what is pending, so that nothing is saved after a NaN.

        Raises:
            NotANumber: when the loss is no number.
        """
        self._report(sink)

    def update(self, loss_of_next_batch: LossFunction) -> torch.Tensor:
        """One optimizer update; returns its mean loss, on the device.  `run` is made of these."""
        count = self.training.gradient_accumulation_steps
        total = torch.zeros((), device=self.parameters[0].device)
        for _ in range(self.own_batches):
            loss = loss_of_next_batch() / count
            self.scaler.scale(loss).backward()
            total += loss.detach()
        total = self.team.sum_gradients(self.parameters, total)
        for piece in self._pieces:
            piece.gather()
        if self.training.max_grad_norm:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self._optimized, self.training.max_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return total

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Where the loop stands between two steps: tensors by name, and JSON values.

        The tensors are the optimizer's own, `<parameter>.<name>`, not copies.
        """
        optimizer = self.optimizer.state_dict()
        tensors: dict[str, torch.Tensor] = {}
        plain: dict[str, dict[str, Any]] = {}
        for index, held in optimizer["state"].items():
            for name, value in held.items():
                if isinstance(value, torch.Tensor):
                    tensors[f"{index}.{name}"] = value
                else:
                    plain.setdefault(str(index), {})[name] = value
        return tensors, {
            "step": self.step,
            "smoothed_loss": None if math.isnan(self.smoothed_loss) else self.smoothed_loss,
            "elapsed_s": self._watch.elapsed_s,
            "optimizer": {"state": plain, "param_groups": optimizer["param_groups"]},
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def restore(self, tensors: Mapping[str, torch.Tensor], values: Mapping[str, Any]) -> None:
        """Goes on where `state` was taken; the loop must be a new one with the same settings.

        Raises:
            ValueError: the state is of another number of parameters.
        """
        held: dict[int, dict[str, Any]] = {
            int(index): dict(plain) for index, plain in values["optimizer"]["state"].items()
        }
        for name, tensor in tensors.items():
            index, _, key = name.partition(".")
            held.setdefault(int(index), {})[key] = tensor
        groups = values["optimizer"]["param_groups"]
        self.optimizer.load_state_dict({"state": held, "param_groups": groups})
        self._keep_dtypes(held)
        self.schedule.load_state_dict(values["schedule"])
        if values["scaler"]:  # empty where losses were not scaled, as on a CPU
            self.scaler.load_state_dict(values["scaler"])
        self.step = values["step"]
        loss = values["smoothed_loss"]
        self.smoothed_loss = math.nan if loss is None else loss
        self._watch = Stopwatch(values["elapsed_s"])

    def _keep_dtypes(self, saved: Mapping[int, Mapping[str, Any]]) -> None:
        """Undoes that torch casts what it loads to the dtype of the weights.

        Some optimizers keep fp32 for weights in bf16, and would go on with rounded numbers.
        """
        for index, values in saved.items():
            loaded = self.optimizer.state[self._optimized[index]]
            for name, value in values.items():
                if isinstance(value, torch.Tensor) and value.dtype is not loaded[name].dtype:
                    loaded[name] = value.to(loaded[name].device)

    @property
    def _optimized(self) -> list[torch.nn.Parameter]:
        """What the optimizer changes: the parameters, or the pieces that they are views of."""
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def _in_pieces(self, group: ParameterGroup) -> ParameterGroup:
        made = tuple(pieces(group.parameters))
        self._pieces += made
        return replace(group, parameters=tuple(piece.whole for piece in made))

    def _learning_rates(self) -> tuple[float, ...]:
        """One for each group; an optimizer may have split a group into several."""
        rates = {group["name"]: float(group["lr"]) for group in self.optimizer.param_groups}
        return tuple(rates[group.name] for group in self.groups)

    def _report(self, sink: Sink) -> None:
        """Fetches the pending losses in one go and sends a record for each."""
        if not self._pending:
            return
        losses = torch.stack([one.loss for one in self._pending]).tolist()
        now = self._watch.elapsed_s
        self._marks = [*self._marks[-SPEED_WINDOW_STEPS:], (now, self.step)]
        first_time, first_step = self._marks[0]
        steps_per_s = (self.step - first_step) / max(now - first_time, 1e-9)
        pending, self._pending = self._pending, []
        for one, loss in zip(pending, losses, strict=True):
            if not math.isfinite(loss):
                raise NotANumber(one.step)
            self.smoothed_loss = self._smoothed(loss, one.step)
            sink(self._record(one, loss, now, steps_per_s))

    def _smoothed(self, loss: float, step: int) -> float:
        """Exponential mean; over the first steps the plain mean, so that it starts unbiased."""
        if math.isnan(self.smoothed_loss):
            return loss
        keep = min(LOSS_SMOOTHING, 1 - 1 / step)
        return keep * self.smoothed_loss + (1 - keep) * loss

    def _record(self, one: _Pending, loss: float, now: float, steps_per_s: float) -> StepDone:
        rates = dict(zip((group.name for group in self.groups), one.learning_rates, strict=True))
        return StepDone(
            step=one.step,
            total_steps=self.training.steps,
            epoch=self.epoch_of(one.step),
            loss=loss,
            smoothed_loss=self.smoothed_loss,
            learning_rate=rates.get("unet", one.learning_rates[0]),
            text_encoder_learning_rate=rates.get("text_encoder"),
            elapsed_s=now,
            steps_per_s=steps_per_s,
            left_s=(self.training.steps - one.step) / max(steps_per_s, 1e-9),
        )


def _new_scaler(device: str, enabled: bool) -> torch.amp.GradScaler:
    """Loss scaling for half precision; before torch 2.3 it was made for CUDA alone."""
    if hasattr(torch.amp, "GradScaler"):
        return torch.amp.GradScaler(device, enabled=enabled)
    return torch.cuda.amp.GradScaler(enabled=enabled)
