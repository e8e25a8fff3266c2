"""What a method may use: the model, the data, a network, the loop, and saving."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from .control import Control, Request
from .csv_log import CsvLog
from .data.batches import BatchOrder, LatentDataset
from .data.views import View
from .errors import Stopped
from .events import Notice, PhaseProgress, PhaseStarted, Saved, Sink, fan_out
from .hosts.protocol import Host
from .loop import Loop, LossFunction, Outcome
from .models.model import DTYPES, DiffusionModel
from .models.text import Conditioning, ConditioningCache
from .networks import kohya
from .networks.kinds import KINDS
from .networks.metadata import RunFacts, build_metadata, folder_facts
from .networks.naming import BASE
from .networks.network import Network
from .networks.targets import find_targets
from .optim.optimizers import ParameterGroup
from .plan import Plan
from .settings.groups import (
    DataSettings,
    NetworkSettings,
    OptimizerSettings,
    OutputSettings,
    TrainingSettings,
)
from .settings.schema import JobSettings

VAE_BATCH_SIZE = 4


@dataclass(frozen=True)
class TrainingData:
    """Encoded pictures and the endless order in which they are trained."""

    dataset: LatentDataset
    order: BatchOrder


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
    ) -> None:
        self.settings = settings
        self.plan = plan
        self.model = model
        self.control = control
        self.started_s = time.time()
        given = settings[TrainingSettings].seed
        self.seed = secrets.randbits(32) if given == -1 else given
        self.generator = torch.Generator(model.device).manual_seed(self.seed)
        self.session_id = secrets.randbits(32)
        self.sink = sink
        if settings[OutputSettings].log_csv:
            log = CsvLog(host.log_dir / f"{settings[OutputSettings].name}.csv")
            self.sink = fan_out(sink, log)

    @property
    def trains_text_encoder(self) -> bool:
        """Whether the block BASE is chosen."""
        return BASE in self.settings[NetworkSettings].blocks

    def encode_images(self) -> TrainingData:
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
            device=self.model.device,
            unreadable=self.settings[DataSettings].unreadable,
            progress=self._encoded,
        )
        order = BatchOrder(dataset.frames_px, training.batch_size, self.seed)
        return TrainingData(dataset, order)

    def _encoded(self, done: int, total: int) -> None:
        del total
        if self.control.checkpoint() is not Request.CONTINUE:
            raise Stopped
        self.sink(PhaseProgress(done))

    def prompt_encoder(self, prompts: Sequence[str]) -> Callable[[Sequence[str]], Conditioning]:
        """Encodes captions: from a cache filled now, or live when the text encoder is trained."""
        if self.trains_text_encoder:
            return lambda wanted: self.model.encode_prompts(list(wanted))
        cache = ConditioningCache(self.model.encode_prompts)
        self.sink(PhaseStarted("Encoding captions"))
        cache.prepare(prompts)
        return cache

    def new_network(self) -> Network:
        """A network by the settings, not attached yet; continued from a file if one is named.

        Raises:
            BadInput: no layer is chosen, or the file does not fit.
        """
        wanted = self.settings[NetworkSettings]
        model = self.model
        targets = find_targets(
            model.unet,
            [model.text_encoder] if self.trains_text_encoder else [],
            family=model.family.name,
            blocks=wanted.blocks,
            element=wanted.element,
            convolutions=KINDS[wanted.network].convolutions,
        )
        network = Network(
            targets,
            wanted.network,
            rank=wanted.rank,
            alpha=wanted.alpha,
            dtype=DTYPES[wanted.network_precision],
            device=model.device,
            generator=torch.Generator().manual_seed(self.seed),
        )
        if wanted.resume_from:
            tensors, _ = kohya.load(Path(wanted.resume_from).expanduser())
            network.load(tensors, source=wanted.resume_from)
        return network

    def fit(
        self,
        network: Network,
        loss_of_next_batch: LossFunction,
        *,
        data: TrainingData | None = None,
    ) -> Outcome:
        """Trains the attached network and saves it: on the way, at the end, and when told to.

        Raises:
            NotANumber: when the loss is no number; what was saved before stays.
            Stopped: the user ended the job before the first step.
        """
        loop = self.new_loop(network)

        def after_step(step: int) -> None:
            if step in self.plan.save_points:
                loop.check_loss(self.sink)
                self._save(network, self.plan.save_points[step], loop, data, final=False)

        self.sink(PhaseStarted("Training", self.plan.steps))
        with self.training_mode():
            outcome = loop.run(
                loss_of_next_batch, control=self.control, sink=self.sink, after_step=after_step
            )
        if outcome.steps == 0:
            raise Stopped
        if outcome.request is Request.STOP:
            self.sink(Notice(f"Stopped after step {outcome.steps}; nothing more was saved"))
        else:
            self._save(network, self.plan.output_file, loop, data, final=True)
        return outcome

    def new_loop(self, network: Network) -> Loop:
        """The loop over the network's parameters, by the settings.

        Raises:
            BadInput: optimizer or schedule refuse their arguments.
        """
        rates = self.settings[OptimizerSettings]
        assert rates.text_encoder_learning_rate is not None  # it inherits learning_rate
        return Loop(
            [
                ParameterGroup("unet", tuple(network.unet_parameters()), rates.learning_rate),
                ParameterGroup(
                    "text_encoder",
                    tuple(network.text_encoder_parameters()),
                    rates.text_encoder_learning_rate,
                ),
            ],
            self.settings[TrainingSettings],
            rates,
            compute_dtype=self.model.compute_dtype,
            steps_per_epoch=self.plan.steps_per_epoch,
        )

    def training_mode(self) -> AbstractContextManager[None]:
        """Gradient checkpointing on, if it is set, for the length of a `with` block."""
        if self.settings[TrainingSettings].gradient_checkpointing:
            return _gradient_checkpointing(self.model)
        return nullcontext()

    def _save(
        self, network: Network, path: Path, loop: Loop, data: TrainingData | None, *, final: bool
    ) -> None:
        output = self.settings[OutputSettings]
        strength = self.settings[NetworkSettings].network_strength
        tensors = network.tensors(DTYPES[output.save_precision], strength)
        metadata = build_metadata(self.settings, self._facts(network, loop, data))
        kohya.save(path, tensors, metadata)
        self.sink(Saved(path, loop.step, final))

    def _facts(self, network: Network, loop: Loop, data: TrainingData | None) -> RunFacts:
        model = self.model
        folders, errors = [], [0.0]
        resolution_px = (model.family.resolution_px, model.family.resolution_px)
        if data is not None:
            given = self.settings[DataSettings]
            captions = [image.caption for image in self.plan.images]
            folders = [folder_facts(Path(given.images).name, captions, given.repeats)]
            errors = [_ratio_error(view) for view in data.dataset.views]
            resolution_px = given.image_size_px
        half = {torch.float16: "fp16", torch.bfloat16: "bf16"}
        return RunFacts(
            family=model.family.name,
            predicts_velocity=model.schedule.prediction_type == "v_prediction",
            network=network.facts(),
            text_encoder_trained=self.trains_text_encoder,
            checkpoint_file=model.origin.name,
            checkpoint_sha256=model.origin.sha256,
            checkpoint_short_hash=model.origin.legacy_hash,
            vae_file=model.origin.vae_name,
            resolution_px=resolution_px,
            mixed_precision=half.get(model.compute_dtype, "no"),
            seed=self.seed,
            folders=folders,
            buckets=self.plan.frames,
            mean_ratio_error=sum(errors) / len(errors),
            steps=loop.step,
            epoch=loop.epoch,
            epochs=self.plan.epochs,
            batches_per_epoch=data.order.batches_per_epoch if data else 0,
            started_at_s=self.started_s,
            finished_at_s=time.time(),
            session_id=self.session_id,
        )


@contextmanager
def _gradient_checkpointing(model: DiffusionModel) -> Iterator[None]:
    """It works in training mode only; these models set dropout, which that mode is for, to 0."""
    model.unet.train()
    model.unet.enable_gradient_checkpointing()
    model.text_encoder.train()
    model.text_encoder.gradient_checkpointing_enable({"use_reentrant": False})
    try:
        yield
    finally:
        model.unet.disable_gradient_checkpointing()
        model.text_encoder.gradient_checkpointing_disable()
        model.unet.eval()
        model.text_encoder.eval()


def _ratio_error(view: View) -> float:
    """Difference between a picture's and its frame's width / height, as sd-scripts states it."""
    (height, width), (frame_height, frame_width) = view.image.size_px, view.frame_px
    return abs(width / height - frame_width / frame_height)
