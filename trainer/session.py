"""What a method may use: the model, the data, a network, the loop, and saving."""

from __future__ import annotations

import copy
import functools
import inspect
import itertools
import math
import random
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch

from .caches import Caches
from .control import Control, Request
from .csv_log import CsvLog
from .data.batches import BatchOrder, LatentDataset
from .data.masks import load_masks
from .data.pairs import load_mask
from .data.variants import CaptionVariants
from .distributed import current_team
from .errors import BadInput, Problem, Stopped
from .events import Notice, PhaseProgress, PhaseStarted, Saved, Sink, fan_out
from .hosts.protocol import Host
from .loop import Loop, LossFunction, Outcome
from .memory import kept_memory
from .models.model import DTYPES, DiffusionModel
from .models.prompts import split, truncated
from .models.text import (
    CHUNK_TOKENS,
    Conditioning,
    ConditioningCache,
    EncodesAhead,
    KnownConditionings,
)
from .networks import kohya
from .networks.build import build_network, parameter_groups
from .networks.metadata import build_metadata
from .networks.naming import BASE
from .networks.network import Network
from .paths import user_path
from .plan import Plan
from .run_facts import run_facts
from .settings.checks import prompt_lines
from .settings.groups import (
    CacheSettings,
    CaptionSettings,
    MaskSettings,
    NetworkSettings,
    OptimizerSettings,
    OutputSettings,
    PictureMaskSettings,
    PictureSettings,
    PriorSettings,
    PromptSettings,
    TrainingSettings,
)
from .settings.schema import JobSettings
from .state import Beginning, Part, Positioned, Recorder
from .training_data import PairData, PictureData, TrainingData

VAE_BATCH_SIZE = 4
RESCUED = "rescued"
"""Folder among the logs for results whose own folder cannot be written to."""
CAPTIONS_AT_ONCE = 256
"""Captions between two looks at whether the user has stopped the job."""
BATCHES_AHEAD = 32
"""Varied captions of so many batches are encoded together."""


@dataclass(frozen=True)
class Saving:
    """Where a network goes."""

    file: Path
    points: Mapping[int, Path] = field(default_factory=dict)
    """Step -> file, for copies on the way."""
    at_end: bool = True
    """False: only when the user stops and saves."""


class Watch(Protocol):
    """What looks at a network while it is trained, without changing it."""

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
    ) -> None:
        """Draws what is random, unless the run goes on from `beginning`."""
        self.settings = settings
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
        self.networks_made = 0
        self.passes: list[str] = []
        """Titles of the passes begun; shared with `second_pass`."""
        self.recorder: Recorder | None = None
        """Saves states and begins at one; shared by the passes of a method."""
        self.watch: Watch | None = None
        """Looks at the network whose file is the result, after every step."""
        self.sink = sink
        if settings[OutputSettings].log_csv:
            log = CsvLog(host.log_dir / f"{settings[OutputSettings].name}.csv")
            self.sink = fan_out(sink, log)

    @property
    def trains_text_encoder(self) -> bool:
        """Whether the block BASE is chosen."""
        return BASE in self.settings[NetworkSettings].blocks

    def encode_images(self) -> PictureData:
        """Encodes every picture of the plan once.

        Raises:
            BadInput: a picture cannot be decoded, unless such are skipped.
            Stopped: the user ended the job meanwhile.
        """
        training = self.settings[TrainingSettings]
        self.sink(PhaseStarted("Encoding pictures", len(set(self.plan.views))))
        dataset = LatentDataset(
            self.plan.views,
            self.model.encode_pixels,
            encode_batch_size=VAE_BATCH_SIZE,
            latents=self.caches.latents(self.plan.views),
            unreadable=self.settings[PictureSettings].unreadable,
            progress=self._encoded,
        )
        order = BatchOrder(dataset.frames_px, training.batch_size, self.seed)
        captions = self.settings.get(CaptionSettings)
        masks = self.settings.get(PictureMaskSettings)
        trigger = self.settings[PictureSettings].trigger_word
        tokens, most = self.model.prompts.tokens, captions.max_prompt_tokens

        @functools.lru_cache(maxsize=1 << 14)
        def cut(caption: str) -> str:
            short = len(caption.encode()) <= most  # a token is one byte at least
            return caption if short else truncated(caption, tokens, most)

        return PictureData(
            dataset,
            order,
            CaptionVariants(captions, trigger, self.seed),
            load_masks(dataset.views, masks),
            masks,
            self.settings.get(PriorSettings).prior_loss_weight,
            cut,
        )

    def encode_pairs(self) -> PairData:
        """Encodes both pictures of every pair of the plan once, and cuts their masks.

        Raises:
            BadInput: a picture cannot be decoded, or a mask selects nothing.
            Stopped: the user ended the job meanwhile.
        """
        pairs = self.plan.pairs
        masks = tuple(load_mask(pair, self.settings[MaskSettings]) for pair in pairs)
        views = [pair.original for pair in pairs] + [pair.target for pair in pairs]
        self.sink(PhaseStarted("Encoding pictures", len(set(views))))
        dataset = LatentDataset(
            views,
            self.model.encode_pixels,
            encode_batch_size=VAE_BATCH_SIZE,
            latents=self.caches.latents(views),
            progress=self._encoded,
        )
        batch_size = self.settings[TrainingSettings].batch_size
        # Fewer pairs than a batch holds come several times in it, each with noise of its own.
        times = -(-batch_size // len(pairs))
        order = BatchOrder(dataset.frames_px[: len(pairs)] * times, batch_size, self.seed)
        return PairData(dataset, order, masks)

    def _encoded(self, done: int, total: int) -> None:
        del total
        self.check_stopped()
        self.sink(PhaseProgress(done))

    def second_pass(self) -> Session:
        """The same run with the settings of the second pass."""
        second = copy.copy(self)
        second.settings = self.settings.for_second_pass()
        return second

    def prompts(self, text: str) -> tuple[str, ...]:
        """The prompts of a field, one a line, cut to the limit; an empty one if there is none."""
        most = self.settings[PromptSettings].max_prompt_tokens
        return tuple(truncated(p, self.model.prompts.tokens, most) for p in prompt_lines(text))

    def prompt_encoder(
        self, prompts: Sequence[str], *, webui_syntax: bool = False
    ) -> Callable[[Sequence[str]], Conditioning]:
        """Encodes captions: from a cache filled now, or live when the text encoder is trained."""
        if not self.trains_text_encoder:
            return self.frozen_encoder(prompts, webui_syntax=webui_syntax)
        encode = self.model.encode_weighted if webui_syntax else self.model.encode_prompts
        return lambda wanted: encode(list(wanted))

    def caption_encoder(
        self, data: PictureData, beside: Sequence[str] = ()
    ) -> Callable[[Sequence[str]], Conditioning]:
        """Encodes the captions of pictures, and prompts beside them.

        From a cache where captions stay the same; where they vary, those of many batches at once;
        live when the text encoder is trained.
        """
        emphasis = self.settings.get(CaptionSettings).caption_emphasis
        if self.trains_text_encoder:
            return self.prompt_encoder((), webui_syntax=emphasis)
        if not data.variants.varies:
            return self.frozen_encoder((*data.captions, *beside), webui_syntax=emphasis)
        return EncodesAhead(
            lambda: self._conditioning_cache(webui_syntax=emphasis),
            lambda: data.upcoming(BATCHES_AHEAD),
            always=beside,
        )

    def frozen_encoder(
        self, prompts: Sequence[str], *, webui_syntax: bool = False
    ) -> ConditioningCache:
        """Encodes captions with the model as it is now, each once."""
        known = self.caches.conditionings(prompts, webui_syntax=webui_syntax)
        cache = self._conditioning_cache(known, webui_syntax=webui_syntax)
        self.sink(PhaseStarted("Encoding captions", len(prompts)))
        for first in range(0, len(prompts), CAPTIONS_AT_ONCE):
            self.check_stopped()
            cache.prepare(prompts[first : first + CAPTIONS_AT_ONCE])
            self.sink(PhaseProgress(min(first + CAPTIONS_AT_ONCE, len(prompts))))
        return cache

    def _conditioning_cache(
        self, known: KnownConditionings | None = None, *, webui_syntax: bool
    ) -> ConditioningCache:
        tokens = self.model.prompts.tokens

        def windows(prompt: str) -> int:
            if webui_syntax:
                return len(split(prompt, tokens))
            return max(1, math.ceil(len(tokens(prompt)) / CHUNK_TOKENS))

        model = self.model
        encode = model.encode_weighted if webui_syntax else model.encode_prompts
        return ConditioningCache(encode, windows=windows, known=known)

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
            generator=torch.Generator().manual_seed(self.seed + self.networks_made),
        )
        self.networks_made += 1
        source = wanted.resume_from if file is None else file
        if source:
            tensors, _ = kohya.load(user_path(source))
            network.load(tensors, source=source)
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
        saving = saving or Saving(self.plan.output_file, self.plan.save_points)
        watch = self.watch if saving.file == self.plan.output_file else None
        order = order or (data.order if data else None)
        self.passes.append(title)
        part = Part(network, loop, self.generator, order)
        if self.recorder is not None and self.recorder.enter(part):
            return Outcome(self.settings[TrainingSettings].steps, math.nan, Request.CONTINUE)

        most = self.settings[NetworkSettings].scale_weight_norms
        loss = self._own_share(network, loss_of_next_batch, loop, order)

        def after_step(step: int) -> None:
            if most:
                network.limit_norms(most)
            if step in saving.points:
                loop.check_loss(self.sink)
                self._save(network, saving.points[step], loop, data, final=False)
            if watch is not None:
                with loop.averaged():
                    watch.after_step(step, self.settings[TrainingSettings].steps, network, helpers)
            if self.recorder is not None:  # last: what goes on from here has all of the above
                self.recorder.after_step(step, lambda: loop.check_loss(self.sink))

        self.sink(PhaseStarted(title, self.settings[TrainingSettings].steps))
        self.spare_memory()
        with self.training_mode():
            outcome = loop.run(loss, control=self.control, sink=self.sink, after_step=after_step)
        if outcome.steps == 0:
            raise Stopped
        if self.recorder is not None and outcome.request is not Request.CONTINUE:
            self.recorder.at_stop()
        network.end_dropout()
        loop.end()
        if outcome.request is Request.STOP:
            self.sink(Notice(f"Stopped after step {outcome.steps}; nothing more was saved"))
        elif saving.at_end or outcome.request is Request.STOP_AND_SAVE:
            self._save(network, saving.file, loop, data, final=True)
        return outcome

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
        rates = self.settings[OptimizerSettings]
        return Loop(
            parameter_groups(network, rates),
            self.settings[TrainingSettings],
            rates,
            compute_dtype=self.model.compute_dtype,
            steps_per_epoch=self.plan.steps_per_epoch,
            team=current_team(),
        )

    def spare_memory(self) -> None:
        """Moves to the main memory what the steps do not need, until something needs it."""
        model = self.model
        model.set_aside(model.vae, *(() if self.trains_text_encoder else model.text_encoders))

    @contextmanager
    def training_mode(self) -> Iterator[None]:
        """What makes a step cheap, for the length of a `with` block.

        On a CPU the step's memory is kept for the next one; gradient checkpointing is on if it
        is set.
        """
        with ExitStack() as stack:
            if self.model.device.type == "cpu":
                stack.enter_context(kept_memory())
            if self.settings[TrainingSettings].gradient_checkpointing:
                stack.enter_context(_gradient_checkpointing(self.model))
            yield

    def _save(
        self, network: Network, path: Path, loop: Loop, data: TrainingData | None, *, final: bool
    ) -> None:
        output = self.settings[OutputSettings]
        strength = self.settings[NetworkSettings].network_strength
        with loop.averaged():
            tensors = network.tensors(DTYPES[output.save_precision], strength)
        metadata = build_metadata(self.settings, run_facts(self, network, loop, data))
        try:
            kohya.save(path, tensors, metadata)
        except BadInput as error:
            if final:
                raise self._rescued(path, tensors, metadata, error) from error
            self.sink(Notice(f"This copy is missing: {error}"))
        else:
            self.sink(Saved(path, loop.step, final))

    def _rescued(
        self,
        path: Path,
        tensors: Mapping[str, torch.Tensor],
        metadata: Mapping[str, str],
        error: BadInput,
    ) -> BadInput:
        """Saves a result that cannot go to its place to the logs; the error that tells of it."""
        elsewhere = self.host.log_dir / RESCUED / path.name
        try:
            kohya.save(elsewhere, tensors, metadata)
        except BadInput:
            return error
        cure = f"it was saved as {elsewhere}: move it to its place"
        return BadInput([Problem(p.where, p.what, cure) for p in error.problems])


@contextmanager
def _gradient_checkpointing(model: DiffusionModel) -> Iterator[None]:
    """It works in training mode only; these models set dropout, which that mode is for, to 0."""
    model.unet.train()
    model.unet.enable_gradient_checkpointing()
    for encoder in model.text_encoders:
        enable = encoder.gradient_checkpointing_enable
        if inspect.signature(enable).parameters:
            # transformers 4.30 only has the reentrant kind, which loses the adapters' gradients
            # here; the text encoders are small and do without.
            encoder.train()
            enable({"use_reentrant": False})
    try:
        yield
    finally:
        model.unet.disable_gradient_checkpointing()
        model.unet.eval()
        for encoder in model.text_encoders:
            encoder.gradient_checkpointing_disable()
            encoder.eval()
