"""What a run keeps of its pictures and captions once they are encoded, in memory or on disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from torch import nn

from ..data.latents import Latents, LatentsInMemory, LatentsOnDisk, size_mb
from ..data.tensor_store import TensorStore, prune
from ..data.views import View
from ..models.model import DiffusionModel
from ..models.stored_text import ConditioningsOnDisk, fingerprint
from ..models.text import CHUNK_TOKENS, ConditioningsInMemory, KnownConditionings
from ..paths import user_path
from ..settings.groups import CacheSettings


class Caches:
    """The caches of one run; those on disk are shared by all runs.

    Args:
        settings: how much may lie where.
        folder: of the caches on disk, if the settings name none.
        model: what encodes.
        notice: is told what a user should know.
    """

    def __init__(
        self,
        settings: CacheSettings,
        folder: Path,
        model: DiffusionModel,
        notice: Callable[[str], None],
    ) -> None:
        self._settings = settings
        named = settings.cache_folder.strip()
        self._folder = user_path(named) if named else folder
        self._model = model
        self._notice = notice
        self._stores: list[TensorStore] = []

    def latents(self, views: Sequence[View]) -> Latents:
        """Where the latents of these views are kept."""
        model = self._model
        if size_mb(views, model.unet.config.in_channels) <= self._settings.cache_memory_mb:
            return LatentsInMemory(device=model.device)
        weights = fingerprint((model.vae.encoder, model.vae.quant_conv))
        store = self._store(f"pictures-{weights}")
        return LatentsOnDisk(store, f"{weights}*{model.family.latent_scale}", model.device)

    def conditionings(self, prompts: Sequence[str], *, webui_syntax: bool) -> KnownConditionings:
        """Where the conditionings of these prompts are kept.

        In memory, however many, while a network is attached to the text encoders: what they say
        with it is of no use to other runs, and its weights are not in the encoders' fingerprint.
        """
        model = self._model
        width = model.unet.config.cross_attention_dim
        each_mb = (CHUNK_TOKENS + 2) * width * 4 / 2**20  # of the shortest prompt
        small = len(set(prompts)) * each_mb <= self._settings.cache_memory_mb
        if small or any(_hooked(encoder) for encoder in model.text_encoders):
            return ConditioningsInMemory()
        weights = fingerprint(model.text_encoders)
        ways = [(one.row, one.clip_skip) for one in model.prompts.encoders]
        style = model.style.identity() if webui_syntax else ""
        encoder = repr((weights, ways, style, model.compute_dtype))
        return ConditioningsOnDisk(self._store(f"captions-{weights}"), encoder, model.device)

    def prune(self) -> None:
        """Removes what was not used for the longest time, if the disk's limit is reached."""
        if self._stores:
            keep = frozenset(path for store in self._stores for path in store.used)
            prune(self._folder, self._settings.cache_disk_mb, keep)

    def _store(self, name: str) -> TensorStore:
        store = TensorStore(self._folder / name, self._notice)
        self._stores.append(store)
        return store


def _hooked(model: nn.Module) -> bool:
    """Whether something computes along with the model, as an attached network does."""
    return any(one._forward_hooks or "forward" in vars(one) for one in model.modules())
