"""AUTOMATIC1111's webui as a lender: LoRAs lie in the live model's own weights."""

from __future__ import annotations

import logging
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from modules import call_queue, devices, lowvram, sd_hijack, sd_models, sd_vae, shared

from ..errors import TrainyardError
from ..models.detect import Detection, detect
from ..models.families import Family
from ..models.prompts import PromptStyle
from .assembling import Tensors
from .loan import embeddings, style_of

log = logging.getLogger(__name__)

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


class WebuiLender:
    """See `Lender`."""

    @property
    def lock(self) -> Any:
        return call_queue.queue_lock

    @property
    def device(self) -> torch.device:
        found: torch.device = devices.device
        return found

    def load(self, info: Any) -> None:
        """See `Lender.load`; when it fails, the webui goes on with the former checkpoint."""
        try:
            sd_models.reload_model_weights(info=info)
        except Exception as error:
            log.exception("loading %s", info.filename)
            raise TrainyardError(f"the webui cannot load {info.name}: {error}") from None

    def live(self) -> Any:
        return sd_models.model_data.sd_model

    def chosen(self) -> Any:
        return sd_models.checkpoint_aliases.get(shared.opts.sd_model_checkpoint)

    def detection(self, live: Any) -> Detection:
        return detect(live_tensors(live))

    def tensors(self, live: Any) -> Tensors:
        """See `Lender.tensors`; with --medvram and --lowvram all of them lie in main memory."""
        if lowvram.is_enabled(live):
            lowvram.send_everything_to_cpu()
        return live_tensors(live)

    def own_vae(self, live: Any) -> Tensors | None:
        kept: Tensors | None = sd_vae.get_base_vae(live)
        return kept

    def velocity(self, live: Any) -> bool:
        return bool(getattr(live, "parameterization", "eps") == "v")

    def zero_snr(self, live: Any) -> bool:
        del live
        return bool(getattr(shared.opts, "sd_noise_schedule", "Default") == ZERO_SNR)

    def clip_skip(self) -> int:
        return int(shared.opts.CLIP_stop_at_last_layers)

    def skipping(self, family: Family) -> Family:
        """See `Lender.skipping`; from 1.10 a setting lets the first of SDXL's encoders follow."""
        first, *others = family.text_encoders
        if not others or getattr(shared.opts, "sdxl_clip_l_skip", False) is not True:
            return family
        return replace(family, text_encoders=(replace(first, layer=None), *others))

    def prompt_style(self, live: Any, family: Family) -> PromptStyle:
        del live
        lookup = sd_hijack.model_hijack.embedding_db.ids_lookup
        return style_of(shared.opts, embeddings(lookup, len(family.text_encoders)))

    def take_networks_off(self, live: Any) -> list[Any]:
        """See `Lender.take_networks_off`."""
        networks = _lora_extension()
        if networks is None:
            return []
        applied = list(networks.loaded_networks)
        networks.loaded_networks.clear()
        _apply_networks(networks, live)
        return applied

    def list_networks(self, applied: list[Any]) -> None:
        """See `Lender.list_networks`; the next picture works in what it needs."""
        networks = _lora_extension()
        if networks is not None:
            networks.loaded_networks[:] = applied

    def put_networks_back(self, live: Any, applied: list[Any]) -> None:
        """Works the LoRAs into the weights again, unless a file of theirs was written meanwhile.

        The webui would take a LoRA that is in the weights for the one of that name in the folder.
        """
        networks = _lora_extension()
        if networks is None:
            return
        self.list_networks(applied)
        files = [(Path(one.network_on_disk.filename), one.mtime) for one in applied]
        unchanged = all(path.is_file() and path.stat().st_mtime <= mtime for path, mtime in files)
        if live is not None and unchanged:
            _apply_networks(networks, live)

    def free_memory(self) -> None:
        devices.torch_gc()


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


def _apply_networks(networks: Any, sd_model: torch.nn.Module) -> None:
    """Brings every weight in line with the list of LoRAs, as the next picture would."""
    wanted = bool(networks.loaded_networks)
    with torch.no_grad():
        for module in sd_model.modules():
            if not (wanted or getattr(module, "network_current_names", None)):
                continue  # nothing is in it and nothing is to come
            if hasattr(module, "network_layer_name") and isinstance(module, _PATCHED):
                networks.network_apply_weights(module)


def _lora_extension() -> Any:
    """The module of the webui's own Lora extension; None when it is switched off."""
    networks = sys.modules.get("networks")
    return networks if hasattr(networks, "network_apply_weights") else None


def _is_8_bit(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point() and tensor.element_size() == 1
