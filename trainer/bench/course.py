"""A real job whose steps take turns with its rivals'."""

from __future__ import annotations

import dataclasses
import functools
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from ..models.model import DiffusionModel
from ..models.text import Conditioning
from ..networks.network import Network
from ..training.loop import Loop, LossFunction, Outcome
from ..training.memory import keep_freed
from ..training.session import Session
from .clock import MB, Moment, PeakMemory, median
from .rivals import Step

WARM_UP, SPLIT, MEMORY = 1, 1, 1
"""Steps beside those that count: before them, to see the parts of one, to see its memory."""


@dataclass
class Course:
    """What is measured of one pass of a job.

    Attributes:
        rounds: how often each runner's step counts.
        make_rivals: their steps by name, over the network that is trained.
        passes: how many the method has; the last is measured.
        spent: each runner's times, `ours` and the rivals'.
        peak_mb: of `ours` and of the floor, above the frozen weights.
        parts: seconds of the parts of one step of ours.
        labels: seconds of computing and number of the frozen model's answers.
        encoding_s: seconds of computing before the first step that went into pictures, captions
            and labels.
    """

    device: torch.device
    rounds: int
    make_rivals: Callable[[Network], dict[str, Step]]
    passes: int = 1
    spent: dict[str, list[Moment]] = field(default_factory=lambda: defaultdict(list))
    peak_mb: dict[str, float] = field(default_factory=dict)
    parts: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    labels: tuple[float, int] = (0.0, 0)
    encoding_s: float = 0.0
    step: int = 0
    _rivals: dict[str, Step] = field(default_factory=dict)
    _network: Network | None = None
    _loop: Loop | None = None
    _began: Moment | None = None
    _memory: PeakMemory | None = None
    _setting_up_s: float = 0.0
    _reached: Moment | None = None

    @staticmethod
    def steps(rounds: int) -> int:
        """How many steps the job has to have."""
        return WARM_UP + rounds + SPLIT + MEMORY

    def begin(self, network: Network, loop: Loop) -> None:
        """The pass that is measured is about to make its first step."""
        self._network, self._loop = network, loop
        began = Moment.now(self.device)
        self._rivals = self.make_rivals(network)
        self._setting_up_s = Moment.now(self.device).busy_s - began.busy_s
        loop.optimizer.register_step_pre_hook(lambda *_: self.note_part("optimizer", start=True))
        loop.optimizer.register_step_post_hook(lambda *_: self.note_part("optimizer", start=False))

    def between(self) -> None:
        """Between two steps of ours, and before the first: the rivals make theirs."""
        self._finished()
        if self.step == 0:
            self._reached = Moment.now(self.device)
        self.step += 1
        if self.step <= WARM_UP + self.rounds:
            keep_freed(False)  # what our step does for itself is not the rivals'
            for name, step in self._rivals.items():
                began = Moment.now(self.device)
                step()
                self._note(name, Moment.now(self.device) - began)
            keep_freed(True)
        elif not self.splitting:
            self._memory = PeakMemory(self.device)
            self._memory.start()
            self._rivals["floor"]()
            self.peak_mb["floor"] = self._memory.stop()
            self._memory.start()
        self._began = Moment.now(self.device)

    def end(self) -> None:
        """The pass is over; the rivals' modules may go."""
        self._finished()
        self._rivals = {}

    @property
    def splitting(self) -> bool:
        """Whether the parts of this step are looked at."""
        return self.step == WARM_UP + self.rounds + SPLIT

    def note_part(self, part: str, *, start: bool) -> None:
        """A part of a step begins or ends; the parts that hold others begin before them."""
        if self.splitting:
            now = Moment.now(self.device).wall_s
            self.parts[part] += -now if start else now

    @contextmanager
    def encoding(self, part: str = "forward") -> Iterator[None]:
        """While something is encoded or labelled: before the first step, or in one."""
        began = Moment.now(self.device)
        self.note_part(part, start=True)
        yield
        self.note_part(part, start=False)
        if self.step == 0:
            self.encoding_s += (Moment.now(self.device) - began).busy_s

    def _finished(self) -> None:
        """The step that `between` began is over."""
        if self._began is None:
            return
        spent, self._began = Moment.now(self.device) - self._began, None
        if self._memory is not None:
            self.peak_mb["ours"] = self._memory.stop() + self._held_mb()
            self._memory = None
        elif self.splitting:
            self.parts["step"] = spent.wall_s
        else:
            self._note("ours", spent)

    def _note(self, name: str, spent: Moment) -> None:
        if self.step > WARM_UP:
            self.spent[name].append(spent)

    def _held_mb(self) -> float:
        """What network and optimizer keep between two steps."""
        assert self._network is not None
        assert self._loop is not None
        held: list[torch.Tensor] = [*self._network.parameters()]
        for state in self._loop.optimizer.state.values():
            held += [value for value in state.values() if isinstance(value, torch.Tensor)]
        return sum(tensor.nbytes for tensor in held) / MB

    def medians(self) -> dict[str, Moment]:
        """Each runner's median step."""
        return {name: median(spent) for name, spent in self.spent.items()}

    def split(self) -> dict[str, float]:
        """Seconds of one step's forward, backward, optimizer, and everything else."""
        parts = self.parts
        backward = parts["step"] - parts["loss"] - parts["optimizer"]
        return {
            "forward": parts["forward"],
            "backward": backward,
            "optimizer": parts["optimizer"],
            "data": parts["loss"] - parts["forward"],
        }

    def start_s(self, began: Moment) -> float:
        """Seconds of computing from `began` to the first step, without encoding and labels."""
        assert self._reached is not None
        passed = self._reached.busy_s - began.busy_s
        return passed - self._setting_up_s - self.encoding_s


class WatchedModel(DiffusionModel):
    """A model whose predictions are counted among the parts of a step."""

    course: Course

    def denoise(
        self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning
    ) -> torch.Tensor:
        """See `DiffusionModel.denoise`."""
        if torch.is_grad_enabled():
            self.course.note_part("forward", start=True)
            prediction = super().denoise(latents, timesteps, conditioning)
            self.course.note_part("forward", start=False)
            return prediction
        began = Moment.now(self.device)
        with self.course.encoding(part="labels"):
            prediction = super().denoise(latents, timesteps, conditioning)
        seconds, count = self.course.labels
        spent = Moment.now(self.device) - began
        self.course.labels = (seconds + spent.busy_s, count + len(latents))
        return prediction

    def encode_pixels(self, pixels: torch.Tensor) -> torch.Tensor:
        """See `DiffusionModel.encode_pixels`."""
        with self.course.encoding():
            return super().encode_pixels(pixels)

    def encode_prompts(self, prompts: list[str]) -> Conditioning:
        """See `DiffusionModel.encode_prompts`; with a graph it is a part of the step."""
        with self.course.encoding():
            return super().encode_prompts(prompts)

    def encode_weighted(self, prompts: list[str]) -> Conditioning:
        """See `DiffusionModel.encode_weighted`."""
        with self.course.encoding():
            return super().encode_weighted(prompts)


class BenchSession(Session):
    """A session whose last pass is measured."""

    course: Course

    def watch_with(self, course: Course) -> None:
        """Lets `course` see the session's steps."""
        self.course = course
        fields = {f.name: getattr(self.model, f.name) for f in dataclasses.fields(self.model)}
        self.model = WatchedModel(**fields)
        self.model.course = course

    def new_loop(self, network: Network) -> Loop:
        """See `Session.new_loop`."""
        loop = super().new_loop(network)
        if self.course.passes == 1:
            self.course.begin(network, loop)
        return loop

    def fit(self, network: Network, loss_of_next_batch: LossFunction, **options: Any) -> Outcome:
        """See `Session.fit`."""
        course = self.course
        if course.passes > 1:
            try:
                return super().fit(network, loss_of_next_batch, **options)
            finally:
                course.passes -= 1

        @functools.wraps(loss_of_next_batch)
        def loss() -> torch.Tensor:
            course.note_part("loss", start=True)
            value = loss_of_next_batch()
            course.note_part("loss", start=False)
            return value

        self.control.give_way = course.between
        try:
            return super().fit(network, loss, **options)
        finally:
            course.end()
