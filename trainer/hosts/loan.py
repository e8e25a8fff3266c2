"""A webui's live model as a `DiffusionModel` over the same tensors, and all traces undone.

What differs from one webui to another stands behind `Lender`.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch

from ..control import Control
from ..diffusion.schedule import PredictionType
from ..errors import TrainyardError
from ..models.checkpoint import metadata, read_tensors, tensor_names
from ..models.detect import Detection, detect
from ..models.families import Family
from ..models.model import DiffusionModel, Origin
from ..models.prediction import ZERO_SNR_MARK, marked_prediction
from ..models.prompts import PromptStyle
from ..models.text import Embedding
from ..settings.groups import ModelSettings
from .assembling import Tensors, assembled, let_go, read_vae, trainable
from .gate import Gate, Manners

log = logging.getLogger(__name__)

OTHER_CHOSEN = (
    "Another checkpoint was chosen in the webui. It waits for the end of this training, and so do"
    " all pictures; Stop and save lets them in."
)

Names = tuple[Embedding, ...]
ENCODER_KEYS = ("clip_l", "clip_g")
"""What webuis call the parts of an embedding that is made for two text encoders."""


class Lender(Protocol):
    """A webui with a model that it can lend; all is called with its queue lock held.

    `live` is the webui's object for the model that it has loaded, `info` its entry for a
    checkpoint file, `applied` what it needs to know to put LoRAs back.
    """

    @property
    def lock(self) -> Any:
        """What a picture waits for: `acquire(blocking)`, `release()`."""

    @property
    def device(self) -> torch.device:
        """Where the webui computes."""

    def load(self, info: Any) -> None:
        """Makes a checkpoint the live one, as the webui's menu does; at once when it is already.

        Raises:
            TrainyardError: it cannot be loaded.
        """

    def live(self) -> Any:
        """The live model; None when there is none."""

    def chosen(self) -> Any:
        """The entry of the checkpoint that the user has chosen; None when it is unknown."""

    def detection(self, live: Any) -> Detection:
        """What the model is."""

    def tensors(self, live: Any) -> Tensors:
        """The model's tensors themselves, under the names of a checkpoint file, VAE included.

        Text encoders may have transformers' names below their place in the file.

        Raises:
            BadInput: they are stored in a way that cannot be trained on.
        """

    def own_vae(self, live: Any) -> Tensors | None:
        """The checkpoint's VAE where the webui has put another in its place, else None."""

    def velocity(self, live: Any) -> bool:
        """Whether the model predicts the velocity."""

    def zero_snr(self, live: Any) -> bool:
        """Whether the webui samples the model from pure noise."""

    def clip_skip(self) -> int:
        """What the user has set for it."""

    def skipping(self, family: Family) -> Family:
        """The family, with `layer` None for the text encoders that follow CLIP skip here."""

    def prompt_style(self, live: Any, family: Family) -> PromptStyle:
        """How the webui reads prompts, and the embeddings that fit the model."""

    def take_networks_off(self, live: Any) -> Any:
        """Takes the LoRAs of the last picture out of the weights; returns `applied`."""

    def list_networks(self, applied: Any) -> None:
        """Says that these LoRAs are in no weight now, but were those of the last picture."""

    def put_networks_back(self, live: Any, applied: Any) -> None:
        """Leaves the weights as the last picture left them, or as the next one will take them."""

    def free_memory(self) -> None:
        """Gives memory back that nothing holds."""


class LoanLost(TrainyardError):
    """The webui's model cannot be had back."""


def inspect(lender: Lender, info: Any, vae: Path | None) -> Detection:
    """What a checkpoint is; looks at the live model where it is that one.

    Raises:
        BadInput: it cannot be trained on, or the VAE file holds no VAE.
    """
    live = lender.live()
    if live is not None and live.sd_checkpoint_info.filename == info.filename:
        found = lender.detection(live)
    else:
        found = detect(read_tensors(Path(info.filename), "checkpoint"))
    family = trainable(info.name, found)
    if vae is not None:
        read_vae(vae)
    return replace(found, family=lender.skipping(family))


class Loan:
    """One job's time with the webui's model."""

    def __init__(
        self,
        lender: Lender,
        settings: ModelSettings,
        info: Any,
        vae: Path | None,
        control: Control,
        manners: Callable[[], Manners],
        *,
        stop_at_change: bool,
    ) -> None:
        """Touches nothing yet.

        Args:
            lender: the webui.
            info: the webui's entry for the checkpoint.
            vae: a file to take the VAE from; None takes the checkpoint's own.
            stop_at_change: end the job, saving, when the user chooses another checkpoint; else
                the choice waits for the end of the job.
        """
        self._lender = lender
        self._settings = settings
        self._info = info
        self._vae = None if vae is None else read_vae(vae)
        self._vae_name = "" if vae is None else vae.name
        self._control = control
        self._manners = manners
        self._stop_at_change = stop_at_change
        self._gate = Gate(
            lender.lock,
            control,
            self._look_around,
            on_leave=lambda: lender.list_networks(self._applied),
            on_return=self._take_back,
        )
        self._applied: Any = None
        self._sources: tuple[int, ...] = ()
        self.model: DiffusionModel

    @contextmanager
    def held(self) -> Iterator[None]:
        """Has the model for the length of a `with` block.

        However the block ends, the webui's model is then what it was, the memory that the job
        used is free, and only then may the webui generate again.

        Raises:
            BadInput: the model cannot be trained on.
            TrainyardError: the webui cannot load it.
        """
        with self._gate.held(), torch.inference_mode(False), torch.enable_grad():
            lender = self._lender
            if lender.device.type == "cuda":
                torch.cuda.set_device(lender.device)
            self._applied = lender.take_networks_off(self._loaded())
            try:
                self.model = self._assembled()
                yield
            except BaseException as error:
                let_go(error)
                raise
            finally:
                self.__dict__.pop("model", None)
                lender.put_networks_back(lender.live(), self._applied)
                gc.collect()  # networks, optimizer and hooks hold each other in rings
                lender.free_memory()

    def _loaded(self) -> Any:
        """The live model, which is the job's checkpoint.

        Raises:
            TrainyardError: the webui cannot load it.
        """
        self._lender.load(self._info)
        live = self._lender.live()
        if live is None or live.sd_checkpoint_info.filename != self._info.filename:
            raise TrainyardError(f"the webui did not load {self._info.name}; its log says why")
        return live

    def _assembled(self) -> DiffusionModel:
        lender, settings = self._lender, self._settings
        live = lender.live()
        tensors = lender.tensors(live)
        family = lender.skipping(trainable(self._info.name, lender.detection(live)))
        self._sources = _addresses(tensors)
        file = Path(self._info.filename)
        names = tensor_names(file)  # of a mark, older webuis know nothing
        marked = marked_prediction(names, metadata(file)) == "v_prediction"
        said: PredictionType = "v_prediction" if marked or lender.velocity(live) else "epsilon"
        return assembled(
            settings,
            tensors,
            family,
            lender.device,
            said=said,
            zero_snr=ZERO_SNR_MARK in names or lender.zero_snr(live),
            clip_skip=lender.clip_skip(),
            vae=lender.own_vae(live) if self._vae is None else self._vae,
            origin=Origin(
                file.name, self._info.sha256 or "", self._info.hash or "", self._vae_name
            ),
            style=lender.prompt_style(live, family),
        )

    def _look_around(self) -> Manners:
        """Called between two steps: the user's manners, and whether a checkpoint was chosen."""
        chosen = self._lender.chosen()
        self._gate.stay = chosen is not None and chosen.filename != self._info.filename
        if self._gate.stay and self._stop_at_change:
            log.warning("stopped, because another checkpoint was chosen in the webui")
            self._control.stop_and_save()
        self._control.hint = OTHER_CHOSEN if self._gate.stay else ""
        return self._manners()

    def _take_back(self) -> None:
        """Called when others had the machine: the model must be again what was borrowed.

        Raises:
            LoanLost: the webui cannot load it again.
        """
        try:
            live = self._loaded()
        except TrainyardError as error:
            raise LoanLost(f"the checkpoint was changed during the training, and {error}") from None
        self._applied = self._lender.take_networks_off(live)
        if _addresses(self._lender.tensors(live)) == self._sources:
            return
        log.info("the webui has moved its model; training goes on with where it is now")
        fresh = self._assembled()
        for ours, theirs in (
            (self.model.unet, fresh.unet),
            (self.model.vae, fresh.vae),
            *zip(self.model.text_encoders, fresh.text_encoders, strict=True),
        ):
            before, now = ([*part.parameters(), *part.buffers()] for part in (ours, theirs))
            for mine, new in zip(before, now, strict=True):
                mine.data = new.data


def style_of(options: Any, known: Names) -> PromptStyle:
    """How prompts are read by a webui's settings; 1.7 has no emphasis but the original one."""
    default = PromptStyle()
    return PromptStyle(
        str(getattr(options, "emphasis", default.emphasis)),
        int(getattr(options, "comma_padding_backtrack", default.comma_reach)),
        known,
    )


def embeddings(lookup: Mapping[int, Sequence[tuple[Sequence[int], Any]]], encoders: int) -> Names:
    """The embeddings in a webui's table that fit a model with so many text encoders.

    Args:
        lookup: first token -> [(tokens of the name, the webui's embedding)]; its `vec` is a tensor,
            or for two encoders a dict of two.
    """
    found: list[Embedding] = []
    for candidates in lookup.values():
        for name, one in candidates:
            parts = one.vec if isinstance(one.vec, dict) else {"clip_l": one.vec}
            vectors = tuple(parts[key] for key in ENCODER_KEYS[:encoders] if key in parts)
            if len(vectors) == encoders:
                found.append(Embedding(tuple(name), vectors))
    return tuple(found)


def _addresses(tensors: Tensors) -> tuple[int, ...]:
    return tuple(tensor.data_ptr() for tensor in tensors.values())
