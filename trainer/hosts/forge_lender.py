"""Forge and reForge as lenders: UNet, text encoders and VAE lie behind patchers.

A LoRA is worked into the weights that lie on the GPU and taken out of them by loading the patcher
without it; modules move between GPU and main memory by themselves, so tensors are looked up anew
whenever others had the machine.  Generation runs in inference mode, which marks the tensors.

Source: facts/hosts.md of this project, read from Forge's and reForge's modules.
"""

from __future__ import annotations

import dataclasses
import importlib
import logging
import re
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from modules import call_queue, devices, sd_hijack, sd_models, sd_vae, shared

from ..errors import BadInput, Problem, TrainyardError
from ..models.checkpoint import read_tensors
from ..models.detect import Detection, detect
from ..models.families import Family, TextEncoderRow
from ..models.ldm_names import UNET_PREFIX, VAE_PREFIX
from ..models.prompts import PromptStyle
from .assembling import Tensors, read_vae
from .loan import embeddings, style_of

log = logging.getLogger(__name__)

ENCODERS = {"sd1": ("clip_l",), "sd2": ("clip_h",), "sdxl": ("clip_l", "clip_g")}
"""What Forge calls the text encoders of each family, in the family's order."""
_PROJECTION = "text_projection.weight"
_LAYER = r"(?:encoder\.layers|resblocks)\.(\d+)\."


class ForgeLender:
    """Forge; see `Lender`."""

    memory_module = "backend.memory_management"

    @property
    def lock(self) -> Any:
        return call_queue.queue_lock

    @property
    def device(self) -> torch.device:
        found: torch.device = devices.device
        return found

    @property
    def memory(self) -> Any:
        """The webui's memory management."""
        return importlib.import_module(self.memory_module)

    def load(self, info: Any) -> None:
        """See `Lender.load`; when it fails, no checkpoint is loaded."""
        chosen, live = self.chosen(), self.live()
        loaded = live is not None and live.sd_checkpoint_info.filename == info.filename
        if chosen is not None or not loaded:  # reForge loads the first file without a choice
            shared.opts.data["sd_model_checkpoint"] = info.title
        try:
            self._reload(info)
        except Exception as error:
            log.exception("loading %s", info.filename)
            raise TrainyardError(f"the webui cannot load {info.name}: {error}") from None

    def _reload(self, info: Any) -> None:
        data = sd_models.model_data
        data.forge_loading_parameters = {**data.forge_loading_parameters, "checkpoint_info": info}
        sd_models.forge_model_reload()

    def live(self) -> Any:
        """See `Lender.live`; before the first picture there is only a placeholder."""
        live = sd_models.model_data.sd_model
        return live if hasattr(live, "forge_objects_original") else None

    def chosen(self) -> Any:
        return sd_models.checkpoint_aliases.get(shared.opts.sd_model_checkpoint)

    def detection(self, live: Any) -> Detection:
        """See `Lender.detection`; the file tells, because Forge names text encoders its own way."""
        found, layers = _file_facts(live)
        if found.family is None:
            return found
        rows = found.family.text_encoders
        kept = zip(rows, layers, self._encoders(live, found.family.name), strict=True)
        fitting = tuple(_fitting(row, stored, encoder) for row, stored, encoder in kept)
        family = dataclasses.replace(found.family, text_encoders=fitting)
        return dataclasses.replace(found, family=family)

    def tensors(self, live: Any) -> Tensors:
        """See `Lender.tensors`; UNet and text encoders are moved to the GPU as for a picture."""
        parts = live.forge_objects_original
        self.memory.load_models_gpu([parts.unet, parts.clip.patcher])
        tensors = dict(_named(parts.unet.model.diffusion_model, UNET_PREFIX))
        family = _file_facts(live)[0].family
        assert family is not None, "what cannot be trained on is not lent"
        for row, encoder in zip(
            family.text_encoders, self._encoders(live, family.name), strict=True
        ):
            tensors.update(_named(encoder.transformer, row.prefix))
            # reForge keeps this one beside the encoder, and multiplies from the other side.
            projection = getattr(encoder, "text_projection", None)
            if row.pooled and isinstance(projection, torch.Tensor):
                tensors[row.prefix + _PROJECTION] = ordinary(projection).T
        tensors.update(_named(parts.vae.first_stage_model, VAE_PREFIX))
        return tensors

    def _encoders(self, live: Any, family: str) -> list[Any]:
        """The text encoders' modules in the family's order."""
        encoders = live.forge_objects_original.clip.cond_stage_model
        return [getattr(encoders, name) for name in ENCODERS[family]]

    def own_vae(self, live: Any) -> Tensors | None:
        """See `Lender.own_vae`: a VAE among Forge's additional modules takes its place."""
        if not getattr(shared.opts, "forge_additional_modules", ()):
            return None
        try:
            return read_vae(Path(live.sd_checkpoint_info.filename))
        except BadInput:  # the checkpoint has none: the one that was added is its own
            return None

    def velocity(self, live: Any) -> bool:
        return bool(
            live.forge_objects_original.unet.model.predictor.prediction_type == "v_prediction"
        )

    def zero_snr(self, live: Any) -> bool:
        marked = getattr(getattr(live, "model_config", None), "ztsnr", False)
        return bool(marked) or shared.opts.sd_noise_schedule == "Zero Terminal SNR"

    def clip_skip(self) -> int:
        return int(shared.opts.CLIP_stop_at_last_layers)

    def skipping(self, family: Family) -> Family:
        """See `Lender.skipping`; CLIP skip counts where it goes beyond the family's own layer."""
        skip = self.clip_skip()
        rows = (
            row
            if row.layer is None
            else dataclasses.replace(row, layer=max(row.layer, skip - row.last_layers_unused))
            for row in family.text_encoders
        )
        return dataclasses.replace(family, text_encoders=tuple(rows))

    def prompt_style(self, live: Any, family: Family) -> PromptStyle:
        """See `Lender.prompt_style`; every text encoder's engine knows the same embeddings.

        Forge breaks lines at commas as the others do by default, whatever its setting says.
        """
        names = ("text_processing_engine", "text_processing_engine_l")
        engines = [getattr(live, name) for name in names if hasattr(live, name)]
        lookup = engines[0].embeddings.ids_lookup if engines else {}
        style = style_of(shared.opts, embeddings(lookup, len(family.text_encoders)))
        return dataclasses.replace(style, comma_reach=PromptStyle().comma_reach)

    def take_networks_off(self, live: Any) -> None:
        """See `Lender.take_networks_off`."""
        if (networks := _lora_extension()) is not None:
            networks.load_networks([], [], [])
        parts = live.forge_objects_original
        parts.unet.refresh_loras()
        parts.clip.patcher.refresh_loras()

    def list_networks(self, applied: None) -> None:
        """See `Lender.list_networks`: the next picture loads what it needs anew."""

    def put_networks_back(self, live: Any, applied: None) -> None:
        """See `Lender.put_networks_back`: the next picture loads what it needs anew."""

    def free_memory(self) -> None:
        devices.torch_gc()


class ReForgeLender(ForgeLender):
    """reForge and Forge classic, whose model has the shape of A1111's beside the patchers."""

    memory_module = "ldm_patched.modules.model_management"

    def _reload(self, info: Any) -> None:
        sd_models.reload_model_weights(info=info)

    def own_vae(self, live: Any) -> Tensors | None:
        """See `Lender.own_vae`."""
        kept: Tensors | None = sd_vae.get_base_vae(live)
        return kept

    def velocity(self, live: Any) -> bool:
        return bool(getattr(live, "parameterization", "eps") == "v")

    def zero_snr(self, live: Any) -> bool:
        marked = getattr(live, "ztsnr", False)
        return bool(marked) or shared.opts.sd_noise_schedule == "Zero Terminal SNR"

    def prompt_style(self, live: Any, family: Family) -> PromptStyle:
        """See `Lender.prompt_style`."""
        lookup = sd_hijack.model_hijack.embedding_db.ids_lookup
        return style_of(shared.opts, embeddings(lookup, len(family.text_encoders)))

    def take_networks_off(self, live: Any) -> None:
        """See `Lender.take_networks_off`; the weights are put back when they leave the GPU."""
        clean = getattr(live, "current_lora_hash", "[]") == "[]"
        if (networks := _lora_extension()) is not None:
            networks.load_networks([], [], [])
        if not clean:
            self.memory.unload_all_models()


def ordinary(tensor: torch.Tensor) -> torch.Tensor:
    """The same storage as a tensor that gradients may pass through, whatever mode made it."""
    tensor = tensor.detach()
    if not tensor.is_inference():
        return tensor
    empty = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    shape = tensor.storage_offset(), tensor.size(), tensor.stride()
    return empty.set_(tensor.untyped_storage(), *shape)  # type: ignore[no-any-return, call-overload]


def _named(module: torch.nn.Module, prefix: str) -> Iterator[tuple[str, torch.Tensor]]:
    """A module's parameters below a place in the checkpoint.

    Raises:
        BadInput: they are quantised, so that there is no matrix to multiply with.
    """
    for name, parameter in module.named_parameters():
        if hasattr(parameter, "bnb_quantized") or hasattr(parameter, "gguf_cls"):
            what = "lies in memory in a quantised form (nf4, fp4 or gguf)"
            cure = "set 'Diffusion in Low Bits' to Automatic, or choose an ordinary checkpoint"
            raise BadInput([Problem("checkpoint", what, cure)])
        # The wrapper around the token table names it twice; the inner one is used and comes last.
        yield prefix + name.replace(".wrapped", ""), ordinary(parameter)


def _file_facts(live: Any) -> tuple[Detection, tuple[int, ...]]:
    """What the live checkpoint's file is, and how many layers its text encoders have there."""
    path = Path(live.sd_checkpoint_info.filename)
    return _read_facts(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=2)
def _read_facts(path: Path, changed_ns: int) -> tuple[Detection, tuple[int, ...]]:
    del changed_ns  # only tells one content from the next
    names = read_tensors(path, "checkpoint")
    found = detect(names)
    rows = found.family.text_encoders if found.family else ()
    return found, tuple(_layers(n for n in names if n.startswith(row.prefix)) for row in rows)


def _fitting(row: TextEncoderRow, stored: int, encoder: Any) -> TextEncoderRow:
    """The row for an encoder as it lies in memory: Forge leaves unused layers out itself."""
    live = _layers(name for name, _ in encoder.transformer.named_parameters())
    return dataclasses.replace(
        row, last_layers_unused=max(0, row.last_layers_unused - (stored - live))
    )


def _layers(names: Iterator[str]) -> int:
    found = (re.search(_LAYER, name) for name in names)
    return max((int(one[1]) + 1 for one in found if one is not None), default=0)


def _lora_extension() -> Any:
    """The module of Forge's own Lora extension; None when it is switched off."""
    networks = sys.modules.get("networks")
    return networks if hasattr(networks, "load_lora_state_dict") else None
