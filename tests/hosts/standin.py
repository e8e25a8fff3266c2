"""A stand-in for AUTOMATIC1111's webui: the same surface as far as Trainyard touches it.

What it claims about the real one is checked by the tests marked `webui`.
"""

from __future__ import annotations

import hashlib
import re
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn


class FairLock:
    """First come, first served; not re-entrant; `_pending_threads` are those that wait."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._taken = False
        self._pending_threads: deque[object] = deque()

    def acquire(self, blocking: bool = True) -> bool:
        with self._changed:
            if not blocking and (self._taken or self._pending_threads):
                return False
            ticket = object()
            self._pending_threads.append(ticket)
            self._changed.wait_for(
                lambda: not self._taken and self._pending_threads[0] is ticket, timeout=60
            )
            self._pending_threads.popleft()
            self._taken = True
            return True

    def release(self) -> None:
        with self._changed:
            self._taken = False
            self._changed.notify_all()

    @property
    def taken(self) -> bool:
        return self._taken

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


@dataclass(eq=False)
class Info:
    """The webui's entry for a checkpoint file."""

    filename: str
    sha256: str = "0" * 64
    hash: str = "01234567"

    @property
    def name(self) -> str:
        return Path(self.filename).name

    @property
    def title(self) -> str:
        return f"{self.name} [{self.sha256[:10]}]"

    @property
    def ids(self) -> list[str]:
        return [self.name, Path(self.filename).stem, self.title]


@dataclass
class AppliedLora:
    """A LoRA as the webui's extension holds it: adds a number to every weight."""

    file: Path
    addition: float
    mtime: float = 0.0
    network_on_disk: Any = field(init=False)

    def __post_init__(self) -> None:
        self.mtime = self.file.stat().st_mtime
        self.network_on_disk = SimpleNamespace(filename=str(self.file))


def leaf(tensors: Mapping[str, torch.Tensor]) -> nn.Module:
    """A layer with these tensors; mostly of a class that the webui works LoRAs into."""
    weight, bias = tensors.get("weight"), tensors.get("bias")
    layer: nn.Module
    if weight is None:
        layer = nn.Module()
    elif weight.ndim == 4:
        layer = nn.Conv2d(1, 1, 1, bias=bias is not None)
    elif weight.ndim == 2:
        layer = nn.Linear(1, 1, bias=bias is not None)
    else:
        layer = nn.LayerNorm(1)
    for name, tensor in tensors.items():
        setattr(layer, name, nn.Parameter(tensor.clone()))
    return layer


_WRAPPED = re.compile(r"(cond_stage_model|conditioner\.embedders\.\d|token_embedding)\.")
"""Where the webui puts modules of its own between."""


def live_model(tensors: Mapping[str, torch.Tensor]) -> nn.Module:
    """A model in the webui's form: its own modules around text encoder and token table."""
    root = nn.Module()
    layers: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        owner, _, kind = _WRAPPED.sub(r"\1.wrapped.", name).rpartition(".")
        if not owner:
            continue  # a mark, for which the webui's model has no place
        layers.setdefault(owner, {})[kind] = tensor
    for owner, held in layers.items():
        module = root
        *parents, last = owner.split(".")
        for part in parents:
            if not hasattr(module, part):
                module.add_module(part, nn.Module())
            module = getattr(module, part)
        layer = leaf(held)
        if "weight" in held:
            layer.network_layer_name = owner.replace(".", "_")
        for name, child in getattr(module, last, nn.Module()).named_children():
            layer.add_module(name, child)
        module.add_module(last, layer)
    root.lowvram = False
    root.parameterization = "eps"
    return root


class Webui:
    """The webui's modules, and what a test may do with them."""

    def __init__(self) -> None:
        self.modules = {
            name: ModuleType(f"modules.{name}")
            for name in (
                *("paths_internal", "processing", "sd_models", "sd_vae", "shared"),
                *("devices", "lowvram", "call_queue", "sd_hijack"),
            )
        }
        package = ModuleType("modules")
        package.__path__ = []
        sys.modules["modules"] = package
        for name, module in self.modules.items():
            setattr(package, name, module)
            sys.modules[f"modules.{name}"] = module
        self.networks = ModuleType("networks")
        sys.modules["networks"] = self.networks

    def start(self, data_path: Path, checkpoints: Mapping[str, Path]) -> None:
        """A fresh webui with these checkpoints, the first one loaded."""
        m = self.modules
        self.lock = FairLock()
        self.infos = {name: Info(str(path)) for name, path in checkpoints.items()}
        first = next(iter(self.infos.values()))
        self.reloads = 0
        self.at_gc: list[Callable[[], None]] = []
        m["paths_internal"].data_path = str(data_path)
        m["paths_internal"].models_path = str(data_path / "models")
        m["shared"].opts = SimpleNamespace(
            sd_model_checkpoint=first.name, CLIP_stop_at_last_layers=1, data={}
        )
        m["shared"].cmd_opts = SimpleNamespace(lora_dir=str(data_path / "models/Lora"))
        m["devices"].device = torch.device("cpu")
        m["devices"].torch_gc = lambda: [call() for call in self.at_gc]
        m["lowvram"].is_enabled = lambda model: model.lowvram
        self.sent_to_cpu = 0
        m["lowvram"].send_everything_to_cpu = self._send_to_cpu
        m["call_queue"].queue_lock = self.lock
        self.embeddings: dict[int, list[tuple[list[int], Any]]] = {}
        database = SimpleNamespace(ids_lookup=self.embeddings)
        m["sd_hijack"].model_hijack = SimpleNamespace(embedding_db=database)
        m["processing"].StableDiffusionProcessing = type(
            "Picture", (), {"cached_c": [None, None], "cached_uc": [None, None]}
        )
        m["processing"].StableDiffusionProcessingTxt2Img = type(
            "FromText", (), {"cached_hr_c": [None] * 3, "cached_hr_uc": [None] * 3}
        )
        m["sd_vae"].vae_dict = {}
        m["sd_vae"].get_base_vae = lambda model: None
        models = m["sd_models"]
        models.checkpoints_list = {info.name: info for info in self.infos.values()}
        models.checkpoint_aliases = {i: info for info in self.infos.values() for i in info.ids}
        models.model_data = SimpleNamespace(sd_model=None)
        models.reload_model_weights = self.reload
        self.networks.loaded_networks = []
        self.applied_to: set[str] = set()
        self.networks.network_apply_weights = self.apply
        self.networks.listed = 0
        self.networks.list_available_networks = self._list
        self.load(first)

    @property
    def model(self) -> Any:
        return self.modules["sd_models"].model_data.sd_model

    def load(self, info: Info) -> None:
        """Fills the live model, in place where there is one: so does the webui on a CPU."""
        tensors = load_file(info.filename)
        if self.model is None:
            self.modules["sd_models"].model_data.sd_model = live_model(tensors)
        else:
            with torch.no_grad():
                for name, parameter in self.model.named_parameters():
                    parameter.copy_(tensors[name.replace(".wrapped", "")])
            for module in self.model.modules():
                module.__dict__.pop("backup", None)
                module.__dict__.pop("network_current_names", None)
        self.model.sd_checkpoint_info = info
        self.modules["shared"].opts.sd_model_checkpoint = info.name

    def reload(self, info: Info) -> None:
        if self.model.sd_checkpoint_info.filename != info.filename:
            self.reloads += 1
            self.load(info)

    def apply(self, layer: nn.Module) -> None:
        """Works the listed LoRAs into one layer, or out of it, as the webui's extension does."""
        wanted = tuple(one.addition for one in self.networks.loaded_networks)
        if getattr(layer, "network_current_names", ()) == wanted:
            return
        self.applied_to.add(layer.network_layer_name)
        held: dict[str, torch.Tensor] = getattr(layer, "backup", None) or {
            name: p.detach().clone() for name, p in layer.named_parameters()
        }
        layer.backup = held
        for name, parameter in layer.named_parameters():
            parameter.copy_(held[name] + sum(wanted))
        layer.network_current_names = wanted

    def draw(self, loras: list[AppliedLora] | None = None) -> str:
        """Generates a picture: whatever depends on all weights, with some LoRAs worked in."""
        with self.lock, torch.no_grad():
            self.networks.loaded_networks[:] = loras or []
            for module in self.model.modules():
                if hasattr(module, "network_layer_name"):
                    self.apply(module)
            return self.fingerprint()

    def fingerprint(self) -> str:
        """A digest of every tensor of the live model, of its modes and hooks."""
        digest = hashlib.sha256()
        for name, p in self.model.named_parameters():
            digest.update(f"{name} {p.dtype} {p.requires_grad} {p.grad is None}".encode())
            digest.update(p.detach().flatten().view(torch.uint8).numpy().tobytes())
        for module in self.model.modules():
            digest.update(f"{module.training} {len(module._forward_hooks)}".encode())
        return digest.hexdigest()

    def _send_to_cpu(self) -> None:
        self.sent_to_cpu += 1

    def _list(self) -> None:
        self.networks.listed += 1


WEBUI = Webui()
"""One for all tests: the host's modules keep what they imported; `start` makes it fresh."""
