"""What a method may use: the model, the data, a network, the loop, and saving."""

from __future__ import annotations

import copy
import itertools
import math
import random
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from typing import Protocol

import torch

from ..control import Control, Request
from ..data.variants import CaptionVariants
from ..errors import Stopped
from ..events import Notice, PhaseStarted, Sink, fan_out
from ..hosts.protocol import Host
from ..models.model import DiffusionModel
from ..models.prompts import truncated
from ..networks import kohya
from ..networks.build import build_network, parameter_groups
from ..networks.naming import BASE
from ..networks.network import Network
from ..settings.checks import prompt_lines
from ..settings.groups import (
    CacheSettings,
    CaptionSettings,
    LengthSettings,
    NetworkSettings,
    OptimizerSettings,
    OutputSettings,
    PictureSettings,
    TrainingSettings,
)
from ..settings.schema import JobSettings
from .beginning import Beginning
from .caches import Caches
from .compiling import compiled
from .csv_log import CsvLog
from .distributed import current_team
from .loop import Loop, LossFunction, Outcome
from .memory import gradient_checkpointing, kept_memory
from .plan import Plan, steps_per_epoch
from .saving import Saving, save
from .state import Part, Positioned, Recorder
from .training_data import TrainingData


class Watch(Protocol):
    """What looks at a network while it is trained, without changing it."""

    def due(self, step: int, last: int) -> bool:
        """Whether it looks after this step: the network is made ready for that."""

    def after_step(
        self, step: int, last: int, network: Network, helpers: Sequence[Network] = ()
    ) -> None:
        """Args: step: from 1. last: of the run. helpers: attached for the training only."""


class Session:
    """One run of one job on a borrowed model."""

    def __init__(
        self,
        settings: JobSettings,
        plan: Plan,
        model: DiffusionModel,
        host: Host,
        *,
        control: Control,
        sink: Sink,
        beginning: Beginning | None = None,
        goes_on: bool = False,
    ) -> None:
        """Draws what is random, unless it was drawn before.

        Args:
            beginning: what an earlier part of the run has drawn.
            goes_on: the run has made steps before, so that its log is continued.
        """
        self.job = settings
        """The whole job's; shared with `second_pass`."""
        self.settings = settings
        """Of the pass that is trained."""
        self.plan = plan
        self.model = model
        self.control = control
        self.host = host
        given = settings[TrainingSettings].seed
        seed = secrets.randbits(32) if given == -1 else given
        self.beginning = beginning or Beginning(seed, secrets.randbits(32), time.time())
        self.seed = self.beginning.seed
        self.generator = torch.Generator(model.device).manual_seed(self.seed)
        self.caches = Caches(
            settings.get(CacheSettings),
            host.log_dir / "cache",
            model,
            lambda text: self.sink(Notice(text)),
        )
        self._networks = itertools.count()
        """Numbers of the networks made; shared with `second_pass`, so that no two begin alike."""
        self.passes: list[str] = []
        """Titles of the passes begun; shared with `second_pass`."""
        self.recorder: Recorder | None = None
        """Saves states and begins at one; shared by the passes of a method."""
        self.watch: Watch | None = None
        """Looks at the network whose file is the result, after the steps that it wants to see."""
        self.sink = sink
        if settings[OutputSettings].log_csv:
            log = CsvLog(host.log_dir / f"{settings[OutputSettings].name}.csv", goes_on=goes_on)
            self.sink = fan_out(sink, log)

    @property
    def trains_text_encoder(self) -> bool:
        """Whether the block BASE is chosen."""
        return BASE in self.settings[NetworkSettings].blocks

    @property
    def captions(self) -> CaptionVariants:
        """How the pictures' captions are read and varied."""
        trigger = self.settings[PictureSettings].trigger_word
        return CaptionVariants(self.settings.get(CaptionSettings), trigger, self.seed)

    def second_pass(self) -> Session:
        """The same run with the settings of the second pass."""
        second = copy.copy(self)
        second.settings = self.job.for_second_pass()
        return second

    def prompts(self, text: str) -> tuple[str, ...]:
        """The prompts of a field, one a line, cut to the limit; an empty one if there is none."""
        return tuple(map(self.cut, prompt_lines(text)))

    def cut(self, prompt: str) -> str:
        """A prompt without the words at its end that go beyond the limit."""
        most = self.settings.get(LengthSettings).max_prompt_tokens
        return truncated(prompt, self.model.prompts.tokens, most)

    def check_stopped(self) -> None:
        """To be called between parts of long preparations.

        Raises:
            Stopped: the user ended the job.
        """
        if self.control.checkpoint() is not Request.CONTINUE:
            raise Stopped

    def new_network(self, file: str | None = None) -> Network:
        """A network by the settings, not attached yet; continued from a file if one is named.

        Args:
            file: the file to continue from, or an empty text for none; None: as in the settings.

        Raises:
            BadInput: no layer is chosen, or the file does not fit.
        """
        wanted = self.settings[NetworkSettings]
        model = self.model
        network = build_network(
            wanted,
            model.unet,
            model.text_encoders if self.trains_text_encoder else [],
            family=model.family.name,
            device=model.device,
            generator=torch.Generator().manual_seed(self.seed + next(self._networks)),
        )
        network.fuses = not self.settings[TrainingSettings].torch_compile
        source = wanted.resume_from if file is None else file
        if source:
            path = kohya.find(source, self.host.output_dir)
            tensors, _ = kohya.load(path)
            network.load(tensors, source=str(path))
        return network

    def fit(
        self,
        network: Network,
        loss_of_next_batch: LossFunction,
        *,
        data: TrainingData | None = None,
        order: Positioned | None = None,
        title: str = "Training",
        saving: Saving | None = None,
        helpers: Sequence[Network] = (),
    ) -> Outcome:
        """Trains the attached network and saves it: on the way, at the end, and when told to.

        Args:
            order: what has to be found again at its place to go on later; None: the data's order.
            title: what the user reads meanwhile.
            saving: where to; None: as planned.
            helpers: networks that are attached only for the training; pictures on the way are
                drawn without them.

        Raises:
            NotANumber: when the loss is no number; what was saved before stays.
            Stopped: the user ended the job before the first step.
        """
        self.caches.prune()
        loop = self.new_loop(network)
        saving = saving or self._planned_saving()
        order = order or (data.order if data else None)
        self.passes.append(title)
        part = Part(network, loop, self.generator, order)
        if self.recorder is not None and self.recorder.enter(part):
            return Outcome(self.settings[TrainingSettings].steps, math.nan, Request.CONTINUE)

        loss = self._own_share(network, loss_of_next_batch, loop, order)
        after_step = self._after_step(network, loop, data, saving, helpers)
        phase = PhaseStarted(title, self.settings[TrainingSettings].steps)
        self.sink(phase)
        self.spare_memory()
        with self.training_mode(), self._compiled(network, loop, phase):
            outcome = loop.run(loss, control=self.control, sink=self.sink, after_step=after_step)
        if outcome.steps == 0:
            raise Stopped
        noted = outcome.request is not Request.CONTINUE and self._note_state(outcome.request)
        network.end_dropout()
        loop.end()
        if outcome.request in (Request.STOP, Request.INTERRUPT):
            kept = (
                "its state was saved, so that it can go on" if noted else "nothing more was saved"
            )
            self.sink(Notice(f"Stopped after step {outcome.steps}; {kept}"))
        elif saving.at_end or outcome.request is Request.STOP_AND_SAVE:
            file = save(self, network, saving.file, loop, data, saving.strength, final=True)
            if saving.file == self.plan.output_file:
                return replace(outcome, file=file)
        return outcome

    def _planned_saving(self) -> Saving:
        """That of the network that is the job's result."""
        strength = self.settings[NetworkSettings].network_strength
        return Saving(self.plan.output_file, self.plan.save_points, strength=strength)

    def _note_state(self, request: Request) -> bool:
        """Whether a job that ends early can go on later."""
        always = request is Request.INTERRUPT
        return self.recorder is not None and self.recorder.at_stop(always=always)

    def _after_step(
        self,
        network: Network,
        loop: Loop,
        data: TrainingData | None,
        saving: Saving,
        helpers: Sequence[Network],
    ) -> Callable[[int], None]:
        """What follows a step: limits, copies, pictures, and last the state of all that."""
        most = self.settings[NetworkSettings].scale_weight_norms
        steps = self.settings[TrainingSettings].steps
        watch = self.watch if saving.file == self.plan.output_file else None

        def after_step(step: int) -> None:
            if most:
                network.limit_norms(most)
            if step in saving.points:
                loop.check_loss(self.sink)
                path = saving.points[step]
                save(self, network, path, loop, data, saving.strength, final=False)
            if watch is not None and watch.due(step, steps):
                with loop.averaged():
                    watch.after_step(step, steps, network, helpers)
            if self.recorder is not None:  # last: what goes on from here has all of the above
                self.recorder.after_step(step, lambda: loop.check_loss(self.sink))

        return after_step

    def _own_share(
        self,
        network: Network,
        loss_of_next_batch: LossFunction,
        loop: Loop,
        order: Positioned | None,
    ) -> LossFunction:
        """The loss of one batch out of as many as there are processes, which take one each.

        What is random in a batch follows from the seed and the batch's number alone, so that it
        does not matter which process takes it.
        """
        team, passed = loop.team, len(self.passes)
        numbers = itertools.count(loop.step * loop.training.gradient_accumulation_steps)

        def skip(count: int) -> None:
            for _ in range(count):
                next(numbers)
                if order is not None:
                    order.skip()

        def loss_of_own_batch() -> torch.Tensor:
            skip(team.rank)
            number = next(numbers)
            # a text seed is hashed with SHA-512, so that neighbouring batches share nothing
            drawn = random.Random(f"{self.seed}/{passed}/{number}")
            self.generator.manual_seed(drawn.getrandbits(32))
            network.draw_dropout(f"{self.seed}-{number}")
            loss = loss_of_next_batch()
            skip(team.size - 1 - team.rank)
            return loss

        return loss_of_own_batch

    def new_loop(self, network: Network) -> Loop:
        """The loop over the network's parameters, by the settings.

        Raises:
            BadInput: optimizer or schedule refuse their arguments.
        """
        rates, training = self.settings[OptimizerSettings], self.settings[TrainingSettings]
        return Loop(
            parameter_groups(network, rates),
            training,
            rates,
            compute_dtype=self.model.compute_dtype,
            steps_per_epoch=steps_per_epoch(
                training, self.plan.views, paired=bool(self.plan.pairs)
            ),
            team=current_team(),
        )

    def spare_memory(self) -> None:
        """Moves to the main memory what the steps do not need, until something needs it."""
        model = self.model
        model.set_aside(model.vae, *(() if self.trains_text_encoder else model.text_encoders))

    def _compiled(
        self, network: Network, loop: Loop, phase: PhaseStarted
    ) -> AbstractContextManager[None]:
        """The UNet compiled for the length of a `with` block, if that is set."""
        training = loop.training
        if not training.torch_compile:
            return nullcontext()
        return compiled(
            self.model.unet,
            network.unet_parameters(),
            parts=training.compiled_parts,
            batches=(training.steps - loop.step) * loop.own_batches,
            phase=phase,
            sink=self.sink,
            off_the_clock=loop.off_the_clock,
        )

    @contextmanager
    def training_mode(self) -> Iterator[None]:
        """What makes a step cheap, for the length of a `with` block.

        On a CPU the step's memory is kept for the next one; gradient checkpointing is on if it
        is set.
        """
        with ExitStack() as stack:
            if self.model.device.type == "cpu":
                stack.enter_context(kept_memory())
            training = self.settings[TrainingSettings]
            if training.gradient_checkpointing:
                parts = training.checkpointed_parts
                stack.enter_context(gradient_checkpointing(self.model, parts))
            yield
