"""The webui's live model as a `DiffusionModel` over the same tensors, and all traces undone."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from modules import call_queue, devices, lowvram, sd_models, sd_vae, shared

from ..control import Control
from ..diffusion.schedule import PredictionType
from ..errors import BadInput, Problem, TrainyardError
from ..models.checkpoint import read_tensors
from ..models.detect import Detection, detect
from ..models.families import CONV_IN, Family
from ..models.ldm_names import VAE_PREFIX
from ..models.model import DTYPES, DiffusionModel, Origin, assemble_model, compute_dtype
from ..settings.groups import ModelSettings
from .gate import Gate, Manners

log = logging.getLogger(__name__)

Tensors = dict[str, torch.Tensor]
ZERO_SNR = "Zero Terminal SNR"
"""The webui's setting "Noise schedule for sampling" for models that were trained so."""
_WRAPPER = ".wrapped"
"""The webui puts its own modules around the text encoder and its token table."""


_PATCHED = (
    torch.nn.Linear,
    torch.nn.Conv2d,
    torch.nn.GroupNorm,
    torch.nn.LayerNorm,
    torch.nn.MultiheadAttention,
)
"""What the webui works LoRAs into."""


class LoanLost(TrainyardError):
    """The webui's model cannot be had back."""


def inspect(info: Any, vae: Path | None) -> str:
    """What a checkpoint is, in words; looks at the live model where it is that one.

    Raises:
        BadInput: it cannot be trained on, or the VAE file holds no VAE.
    """
    live = sd_models.model_data.sd_model
    if live is not None and live.sd_checkpoint_info.filename == info.filename:
        found = detect(live_tensors(live))
    else:
        found = detect(read_tensors(Path(info.filename), "checkpoint"))
    _trainable(info, found)
    if vae is not None:
        _read_vae(vae)
    return found.title


def live_tensors(sd_model: torch.nn.Module) -> Tensors:
    """The model's tensors themselves, under the names of a checkpoint file.

    Where a weight is stored in 8 bits and the webui keeps the exact one beside it, that is taken.
    """
    tensors: Tensors = {}
    for name, parameter in sd_model.named_parameters():
        plain = name.replace(_WRAPPER, "")
        if not plain.startswith("model_ema."):
            tensors[plain] = parameter.detach()
            if _is_8_bit(parameter):
                owner, _, leaf = name.rpartition(".")
                exact = getattr(sd_model.get_submodule(owner), f"fp16_{leaf}", None)
                tensors[plain] = tensors[plain] if exact is None else exact.detach()
    return tensors


class Loan:
    """One job's time with the webui's model."""

    def __init__(
        self,
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
            info: the webui's entry for the checkpoint.
            vae: a file to take the VAE from; None takes the checkpoint's own.
            stop_at_change: end the job, saving, when the user chooses another checkpoint; else
                the choice waits for the end of the job.
        """
        self._settings = settings
        self._info = info
        self._vae = None if vae is None else _read_vae(vae)
        self._vae_name = "" if vae is None else vae.name
        self._control = control
        self._manners = manners
        self._stop_at_change = stop_at_change
        self._gate = Gate(
            call_queue.queue_lock,
            control,
            self._look_around,
            on_leave=lambda: list_networks(self._applied),
            on_return=self._take_back,
        )
        self._lender: Any = None
        self._applied: list[Any] = []
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
            if devices.device.type == "cuda":
                torch.cuda.set_device(devices.device)
            _load(self._info)
            self._lender = sd_models.model_data.sd_model
            self._applied = take_networks_off(self._lender)
            try:
                self.model = self._assembled()
                yield
            except BaseException as error:
                traceback.clear_frames(error.__traceback__)  # they hold what filled the memory
                raise
            finally:
                self.__dict__.pop("model", None)
                put_networks_back(sd_models.model_data.sd_model, self._applied)
                devices.torch_gc()

    def _assembled(self) -> DiffusionModel:
        live, settings = self._lender, self._settings
        if lowvram.is_enabled(live):
            lowvram.send_everything_to_cpu()
        tensors = live_tensors(live)
        found = detect(tensors)
        family = _trainable(self._info, found)
        self._sources = _addresses(tensors)
        stored = tensors[CONV_IN].dtype
        dtype = compute_dtype(settings.base_precision, stored, devices.device)
        prediction_type = self._prediction_type()
        zero_snr = getattr(shared.opts, "sd_noise_schedule", "Default") == ZERO_SNR
        own_vae = sd_vae.get_base_vae(live) if self._vae is None else self._vae
        vae = own_vae or {n: t for n, t in tensors.items() if n.startswith(VAE_PREFIX)}
        others = {n: t for n, t in tensors.items() if not n.startswith(VAE_PREFIX)}
        return assemble_model(
            _placed(others, dtype),
            family,
            device=devices.device,
            clip_skip=settings.clip_skip,
            prediction_type=prediction_type,
            zero_snr=zero_snr and prediction_type == "v_prediction",
            vae_tensors=_placed(vae, DTYPES[settings.vae_precision]),
            origin=Origin(
                Path(self._info.filename).name,
                self._info.sha256 or "",
                self._info.hash or "",
                self._vae_name,
            ),
        )

    def _prediction_type(self) -> PredictionType:
        if self._settings.prediction_type == "epsilon":
            return "epsilon"
        velocity = getattr(self._lender, "parameterization", "eps") == "v"
        forced = self._settings.prediction_type == "v_prediction"
        return "v_prediction" if velocity or forced else "epsilon"

    def _look_around(self) -> Manners:
        """Called between two steps: the user's manners, and whether a checkpoint was chosen."""
        chosen = sd_models.checkpoint_aliases.get(shared.opts.sd_model_checkpoint)
        self._gate.stay = chosen is not None and chosen.filename != self._info.filename
        if self._gate.stay and self._stop_at_change:
            self._control.stop_and_save()
        return self._manners()

    def _take_back(self) -> None:
        """Called when others had the machine: the model must be again what was borrowed.

        Raises:
            LoanLost: the webui cannot load it again.
        """
        try:
            _load(self._info)
        except TrainyardError as error:
            raise LoanLost(f"the checkpoint was changed during the training, and {error}") from None
        self._lender = sd_models.model_data.sd_model
        self._applied = take_networks_off(self._lender)
        if _addresses(live_tensors(self._lender)) == self._sources:
            return
        log.info("the webui has moved its model; training goes on with where it is now")
        fresh = self._assembled()
        for ours, theirs in (
            (self.model.unet, fresh.unet),
            (self.model.vae, fresh.vae),
            (self.model.text_encoder, fresh.text_encoder),
        ):
            for mine, new in zip(ours.parameters(), theirs.parameters(), strict=True):
                mine.data = new.data


def take_networks_off(sd_model: torch.nn.Module) -> list[Any]:
    """Takes the LoRAs of the last picture out of the model's weights, where the webui left them.

    Returns:
        What `put_networks_back` needs.
    """
    networks = _lora_extension()
    if networks is None:
        return []
    applied = list(networks.loaded_networks)
    networks.loaded_networks.clear()
    _apply_networks(networks, sd_model)
    return applied


def list_networks(applied: list[Any]) -> None:
    """Names LoRAs as those of the last picture; the next picture works in what it needs."""
    networks = _lora_extension()
    if networks is not None:
        networks.loaded_networks[:] = applied


def put_networks_back(sd_model: torch.nn.Module | None, applied: list[Any]) -> None:
    """Works the LoRAs into the weights again, unless a file of theirs was written meanwhile.

    The webui would take a LoRA that is in the weights for the one of that name in the folder.
    """
    networks = _lora_extension()
    if networks is None:
        return
    list_networks(applied)
    files = [(Path(one.network_on_disk.filename), one.mtime) for one in applied]
    unchanged = all(path.is_file() and path.stat().st_mtime <= mtime for path, mtime in files)
    if sd_model is not None and unchanged:
        _apply_networks(networks, sd_model)


def _apply_networks(networks: Any, sd_model: torch.nn.Module) -> None:
    """Brings every weight in line with the list of LoRAs, as the next picture would."""
    with torch.no_grad():
        for module in sd_model.modules():
            if hasattr(module, "network_layer_name") and isinstance(module, _PATCHED):
                networks.network_apply_weights(module)


def _lora_extension() -> Any:
    """The module of the webui's own Lora extension; None when it is switched off."""
    networks = sys.modules.get("networks")
    return networks if hasattr(networks, "network_apply_weights") else None


def _load(info: Any) -> None:
    """Makes a checkpoint the live one, as the webui's menu does; at once when it is already.

    Raises:
        TrainyardError: it cannot be loaded; the webui then goes on with the former one.
    """
    try:
        sd_models.reload_model_weights(info=info)
    except Exception as error:
        log.exception("loading %s", info.filename)
        raise TrainyardError(f"the webui cannot load {info.name}: {error}") from None
    live = sd_models.model_data.sd_model
    if live is None or live.sd_checkpoint_info.filename != info.filename:
        raise TrainyardError(f"the webui did not load {info.name}; its log says why")


def _trainable(info: Any, found: Detection) -> Family:
    if found.family is not None:
        return found.family
    what = f"{info.name} is {found.title}, which cannot be trained on: {found.reason}"
    raise BadInput([Problem("checkpoint", what, "choose another checkpoint")])


def _read_vae(path: Path) -> Tensors:
    """The tensors of a VAE file, or of the VAE in a checkpoint, named as in a VAE file."""
    tensors = read_tensors(path, "vae")
    if "encoder.conv_in.weight" in tensors:
        return tensors
    cut = len(VAE_PREFIX)
    inside = {name[cut:]: t for name, t in tensors.items() if name.startswith(VAE_PREFIX)}
    if not inside:
        what = f"{path.name} holds no VAE but {detect(tensors).title}"
        raise BadInput([Problem("vae", what, "choose a VAE")])
    return inside


def _placed(tensors: Tensors, dtype: torch.dtype) -> Tensors:
    """On the webui's device in `dtype`; the tensors themselves where they are that already."""
    return {
        name: tensor.to(devices.device, dtype)
        for name, tensor in tensors.items()
        if tensor.is_floating_point()
    }


def _addresses(tensors: Tensors) -> tuple[int, ...]:
    return tuple(tensor.data_ptr() for tensor in tensors.values())


def _is_8_bit(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point() and tensor.element_size() == 1
