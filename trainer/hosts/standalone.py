"""The host without a webui: checkpoints from a folder, results into another."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from ..control import Control
from ..errors import BadInput, Problem
from ..models.checkpoint import EXTENSIONS, legacy_hash, metadata, read_tensors
from ..models.detect import Detection, detect
from ..models.hashes import HashCache
from ..models.model import DiffusionModel, Origin
from ..models.prediction import ZERO_SNR_MARK, marked_prediction
from ..paths import is_there, user_path
from ..settings.groups import ModelSettings
from .assembling import assembled, let_go, read_vae, trainable

log = logging.getLogger(__name__)

HASHES = "hashes.json"
"""Beside the logs: the checkpoints' digests, which take a while to compute."""


class StandaloneHost:
    """Reads checkpoints from `models_dir` (or from a path) and writes to `output_dir`."""

    def __init__(self, models_dir: Path, output_dir: Path, device: str | None = None) -> None:
        """Raises: BadInput: torch knows no such device, or it is not in this machine."""
        self.models_dir = models_dir
        self._output_dir = output_dir
        own = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = _checked(device) if device else torch.device(own)

    @property
    def output_dir(self) -> Path:
        return self._output_dir

    @property
    def log_dir(self) -> Path:
        return self._output_dir / "logs"

    def checkpoints(self) -> list[str]:
        """See `Host.checkpoints`; relative to `models_dir`."""
        return [path.relative_to(self.models_dir).as_posix() for path in self._files()]

    def vaes(self) -> list[str]:
        """See `Host.vaes`: a VAE is a file among the checkpoints."""
        return [name for name in self.checkpoints() if "vae" in name.lower()]

    def loras(self) -> list[str]:
        """See `Host.loras`."""
        found = sorted(self._output_dir.rglob("*.safetensors"))
        # states and encoded pictures lie below the logs
        return [str(path) for path in found if not path.is_relative_to(self.log_dir)]

    def loaded_checkpoint(self) -> str:
        """See `Host.loaded_checkpoint`: nothing is loaded before a job begins."""
        return ""

    def published(self, path: Path) -> None:
        """See `Host.published`."""

    def _files(self) -> list[Path]:
        """Every checkpoint file below `models_dir`, sorted."""
        return sorted(
            path
            for path in self.models_dir.rglob("*")
            if path.suffix.lower() in EXTENSIONS and path.is_file()
        )

    def check_model(self, settings: ModelSettings) -> Detection:
        """See `Host.check_model`."""
        tensors = read_tensors(self._find("checkpoint", settings.checkpoint), "checkpoint")
        found = detect(tensors)
        trainable(settings.checkpoint, found)
        if settings.vae:
            read_vae(self._find("vae", settings.vae))
        return found

    @contextmanager
    def borrow(
        self, settings: ModelSettings, control: Control | None = None
    ) -> Iterator[DiffusionModel]:
        """See `Host.borrow`; here the model is loaded and dropped."""
        try:
            yield self._assembled(settings)
        except BaseException as error:
            let_go(error)
            raise
        finally:
            gc.collect()  # networks, optimizer and hooks hold each other in rings

    def _assembled(self, settings: ModelSettings) -> DiffusionModel:
        path = self._find("checkpoint", settings.checkpoint)
        tensors = read_tensors(path, "checkpoint")
        return assembled(
            settings,
            tensors,
            trainable(settings.checkpoint, detect(tensors)),
            self.device,
            said=marked_prediction(tensors, metadata(path)),
            zero_snr=ZERO_SNR_MARK in tensors,
            clip_skip=1,
            vae=read_vae(self._find("vae", settings.vae)) if settings.vae else None,
            origin=Origin(
                path.name,
                HashCache(self.log_dir / HASHES).sha256(path),
                legacy_hash(path),
                Path(settings.vae).name,
            ),
            shared=False,
        )

    def _find(self, where: str, name: str) -> Path:
        """A file by path, by name inside `models_dir`, or by name without extension.

        Raises:
            BadInput: nothing is found; the nearest names are proposed.
        """
        given = user_path(name)
        if given.is_absolute() or is_there(given):
            return given
        known = self._files() if self.models_dir.is_dir() else []
        for path in known:
            relative = path.relative_to(self.models_dir)
            if given in (relative, relative.with_suffix(""), Path(path.name), Path(path.stem)):
                return path
        listed = ", ".join(path.stem for path in known[:8]) or "none"
        raise BadInput(
            [
                Problem(
                    where,
                    f"there is no {name!r} in {self.models_dir}",
                    f"found there: {listed}; or give a path, or another folder with --models",
                )
            ]
        )


def _checked(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        told = str(error).partition("\n")[0]
        cure = "leave it out, or use cpu"
        raise BadInput([Problem("--device", f"{name!r} cannot be used: {told}", cure)]) from None
    return device
