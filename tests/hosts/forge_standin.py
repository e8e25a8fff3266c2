"""Stand-ins for Forge and reForge: the same surfaces as far as Trainyard touches them.

They reuse the modules of the stand-in for A1111's webui, which the host has imported already.
Source: their sources at dfdcbab (Forge) and 3b56b26 (reForge); `test_sources.py` checks the names.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import nn

from tests.hosts.standin import WEBUI, FairLock, Info
from tests.modules import tiny_modules
from trainer.models.export import ldm_tensors
from trainer.models.families import FAMILIES
from trainer.models.ldm_names import UNET_PREFIX, VAE_PREFIX

CLIPS = {"sd1": ("clip_l",), "sd2": ("clip_h",), "sdxl": ("clip_l", "clip_g")}


class TokenTable(nn.Module):
    """Around the token table, for textual inversion; names its weight a second time."""

    def __init__(self, wrapped: nn.Module) -> None:
        super().__init__()
        self.wrapped = wrapped
        self.weight = wrapped.weight


def tree(tensors: Mapping[str, torch.Tensor], prefix: str) -> nn.Module:
    """Modules with the tensors below a prefix, named as in the file."""
    root = nn.Module()
    for name, tensor in tensors.items():
        if not name.startswith(prefix):
            continue
        module = root
        *parents, last = name[len(prefix) :].split(".")
        for part in parents:
            if not hasattr(module, part):
                module.add_module(part, nn.Module())
            module = getattr(module, part)
        module.register_parameter(last, nn.Parameter(tensor.clone(), requires_grad=False))
    return root


class Patcher:
    """Works a LoRA, here a number that is added, into its module when that is loaded."""

    def __init__(self, model: nn.Module, addition: float = 0.0) -> None:
        self.model = model
        self.addition = addition
        if not hasattr(model, "loader"):
            model.loader = SimpleNamespace(backup={}, loaded=0.0)

    def with_lora(self, addition: float) -> Patcher:
        return Patcher(self.model, addition)

    @torch.inference_mode()
    def refresh_loras(self) -> None:
        """Puts new parameters in the place of those it changes, and the old ones back."""
        loader = self.model.loader
        if loader.loaded == self.addition:
            return
        named = dict(self.model.named_parameters())
        for name, parameter in loader.backup.items():
            self._set(name, parameter)
        loader.backup = {}
        if self.addition:
            for name, parameter in named.items():
                loader.backup[name] = parameter
                self._set(name, nn.Parameter(parameter + self.addition, requires_grad=False))
        loader.loaded = self.addition

    def _set(self, name: str, parameter: nn.Parameter) -> None:
        owner, _, leaf = name.rpartition(".")
        module = self.model.get_submodule(owner)
        module._parameters[leaf] = parameter
        if isinstance(module, TokenTable):
            module.wrapped._parameters[leaf] = parameter


class Forge:
    """Forge's modules and its live model of one family."""

    memory_name = "backend.memory_management"

    def __init__(self, family: str, file: Path, data_path: Path) -> None:
        self.family = next(one for one in FAMILIES if one.name == family)
        self.info = Info(str(file))
        self.lock = FairLock()
        self.loads: list[int] = []
        self.sd_model: Any = None
        self._install(data_path)

    def _install(self, data_path: Path) -> None:
        WEBUI.start(data_path, {"one": Path(self.info.filename)})
        m = WEBUI.modules
        m["call_queue"].queue_lock = self.lock
        m["shared"].opts.sd_noise_schedule = "Default"
        m["shared"].opts.forge_additional_modules = []
        models = m["sd_models"]
        models.checkpoints_list = {self.info.name: self.info}
        models.checkpoint_aliases = dict.fromkeys(self.info.ids, self.info)
        models.model_data = SimpleNamespace(
            sd_model=SimpleNamespace(cond_stage_model=None),
            forge_loading_parameters={"additional_modules": [], "checkpoint_info": self.info},
            forge_hash="",
        )
        memory = ModuleType(self.memory_name)
        memory.load_models_gpu = self.load_models
        memory.unload_all_models = self.unload
        package, _, _ = self.memory_name.partition(".")
        sys.modules[package] = ModuleType(package)
        sys.modules[self.memory_name] = memory
        networks = WEBUI.networks = ModuleType("networks")
        networks.loaded_networks = []
        networks.list_available_networks = lambda: None
        networks.load_networks = self.load_networks
        networks.load_lora_state_dict = lru_cache(lambda path: Path(path).read_bytes())
        sys.modules["networks"] = networks
        models.forge_model_reload = self.reload

    def uninstall(self) -> None:
        """Leaves the modules as the stand-in for A1111 has them."""
        models = WEBUI.modules["sd_models"]
        if hasattr(models, "forge_model_reload"):
            del models.forge_model_reload
        sys.modules.pop("modules_forge", None)
        networks = WEBUI.networks = sys.modules["networks"] = ModuleType("networks")
        networks.loaded_networks = []

    @torch.inference_mode()
    def reload(self) -> None:
        """Loads the chosen checkpoint; its tensors are made in inference mode."""
        data = WEBUI.modules["sd_models"].model_data
        wanted = str(data.forge_loading_parameters)
        if data.forge_hash == wanted:
            return
        self.sd_model = data.sd_model = self.engine()
        data.forge_hash = wanted

    def engine(self) -> Any:
        unet, vae, encoders = tiny_modules(0, self.family.name)
        tensors = ldm_tensors(unet, vae, encoders, self.family, torch.float32)
        clips = nn.Module()
        for name, row, encoder in zip(
            CLIPS[self.family.name], self.family.text_encoders, encoders, strict=True
        ):
            clips.add_module(name, self.text_encoder(encoder, row.last_layers_unused))
        diffusion = nn.Module()
        diffusion.diffusion_model = tree(tensors, UNET_PREFIX)
        diffusion.predictor = SimpleNamespace(prediction_type="epsilon")
        objects = SimpleNamespace(
            unet=Patcher(diffusion),
            clip=SimpleNamespace(cond_stage_model=clips, patcher=Patcher(clips)),
            vae=SimpleNamespace(first_stage_model=tree(tensors, VAE_PREFIX)),
        )
        return SimpleNamespace(
            forge_objects=SimpleNamespace(**vars(objects)),
            forge_objects_original=objects,
            sd_checkpoint_info=self.info,
            current_lora_hash="[]",
            model_config=SimpleNamespace(ztsnr=False),
            text_processing_engine=SimpleNamespace(embeddings=SimpleNamespace(ids_lookup={})),
        )

    def text_encoder(self, encoder: Any, unused: int) -> nn.Module:
        """Forge makes text encoders without the layers that their family does not use."""
        made = nn.Module()
        layers = encoder.text_model.encoder.layers
        encoder.text_model.encoder.layers = layers[: len(layers) - unused]
        table = encoder.text_model.embeddings
        table.token_embedding = TokenTable(table.token_embedding)
        made.transformer = encoder.requires_grad_(False)
        for name, parameter in list(made.named_parameters()):  # loaded in inference mode
            owner, _, leaf = name.rpartition(".")
            fresh = nn.Parameter(parameter.clone(), requires_grad=False)
            module = made.get_submodule(owner)
            module._parameters[leaf] = fresh
            if isinstance(module, TokenTable):
                module.wrapped._parameters[leaf] = fresh
        return made

    def load_models(self, patchers: list[Patcher]) -> None:
        self.loads.append(len(patchers))
        for patcher in patchers:
            patcher.refresh_loras()

    def unload(self) -> None:
        """reForge's; Forge keeps what is loaded."""
        for patcher in (self.parts.unet, self.parts.clip.patcher):
            Patcher(patcher.model).refresh_loras()

    @property
    def parts(self) -> Any:
        return self.sd_model.forge_objects_original

    def load_networks(
        self, names: list[float], te_multipliers: list[float], unet_multipliers: list[float]
    ) -> None:
        """Here a LoRA's name is the number that it adds."""
        for _ in zip(te_multipliers, unet_multipliers, strict=True):
            pass  # both must be lists
        current, original = self.sd_model.forge_objects, self.parts
        if self.sd_model.current_lora_hash == str(names):
            return
        self.sd_model.current_lora_hash = str(names)
        current.unet = original.unet.with_lora(sum(names))
        patcher = original.clip.patcher.with_lora(sum(names))
        current.clip = SimpleNamespace(
            cond_stage_model=original.clip.cond_stage_model, patcher=patcher
        )

    def draw(self, loras: list[float] | None = None) -> str:
        """Generates a picture: whatever depends on all weights, with some LoRAs worked in."""
        with self.lock, torch.inference_mode():
            self.prepare()
            names = loras or []
            self.load_networks(names, names, names)
            current = self.sd_model.forge_objects
            self.load_models([current.unet, current.clip.patcher])
            return self.fingerprint()

    def prepare(self) -> None:
        self.reload()

    def fingerprint(self) -> str:
        """A digest of every tensor of the live model."""
        digest = hashlib.sha256()
        parts = self.parts
        for part in (parts.unet.model, parts.clip.cond_stage_model, parts.vae.first_stage_model):
            for name, p in part.named_parameters():
                digest.update(f"{name} {p.dtype} {p.requires_grad}".encode())
                digest.update(p.detach().numpy().tobytes())
        return digest.hexdigest()


class ReForge(Forge):
    """reForge: the model of A1111's shape beside the patchers, of Comfy's kind."""

    memory_name = "ldm_patched.modules.model_management"

    def _install(self, data_path: Path) -> None:
        super()._install(data_path)
        sys.modules["modules_forge"] = ModuleType("modules_forge")
        models = WEBUI.modules["sd_models"]
        del models.forge_model_reload
        models.model_data.sd_model = None
        models.reload_model_weights = self.reload_weights

    def reload_weights(self, info: Info) -> None:
        del info
        if self.sd_model is None:
            self._load()

    @torch.inference_mode()
    def _load(self) -> None:
        self.sd_model = self.engine()
        self.sd_model.parameterization, self.sd_model.ztsnr = "eps", False
        WEBUI.modules["sd_models"].model_data.sd_model = self.sd_model

    def prepare(self) -> None:
        self.reload_weights(self.info)

    def text_encoder(self, encoder: Any, unused: int) -> nn.Module:
        """All layers are there; the projection lies beside them, for the other side."""
        made = super().text_encoder(encoder, 0)
        projection = getattr(made.transformer, "text_projection", None)
        if projection is not None:
            made.text_projection = nn.Parameter(projection.weight.T.clone(), requires_grad=False)
            nn.init.zeros_(projection.weight)
        return made


@contextmanager
def running(make: Callable[[], Forge]) -> Iterator[Forge]:
    forge = make()
    try:
        yield forge
        assert not forge.lock.taken, "the webui can generate"
    finally:
        forge.uninstall()
