"""The host without a webui: checkpoints from a folder, results into another."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from ..control import Control
from ..errors import BadInput, Problem
from ..models.checkpoint import EXTENSIONS, legacy_hash, metadata, read_tensors
from ..models.detect import Detection, detect
from ..models.families import CONV_IN
from ..models.hashes import HashCache
from ..models.layout import lay_out
from ..models.ldm_names import VAE_PREFIX
from ..models.model import (
    DTYPES,
    DiffusionModel,
    Origin,
    assemble_model,
    compute_dtype,
    kept_in,
)
from ..models.prediction import (
    ZERO_SNR_MARK,
    chosen_prediction,
    chosen_zero_snr,
    marked_prediction,
)
from ..paths import is_there, user_path
from ..settings.groups import ModelSettings

log = logging.getLogger(__name__)

Tensors = dict[str, torch.Tensor]
HASHES = "hashes.json"
"""Beside the logs: the checkpoints' digests, which take a while to compute."""


class StandaloneHost:
    """Reads checkpoints from `models_dir` (or from a path) and writes to `output_dir`."""

    def __init__(self, models_dir: Path, output_dir: Path, device: str | None = None) -> None:
        self.models_dir = models_dir
        self._output_dir = output_dir
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))

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
        return [str(path) for path in sorted(self._output_dir.rglob("*.safetensors"))]

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
        if found.family is None:
            raise _refused(settings.checkpoint, found.title, found.reason)
        if settings.vae:
            self._read_vae(settings.vae)
        return found

    @contextmanager
    def borrow(
        self, settings: ModelSettings, control: Control | None = None
    ) -> Iterator[DiffusionModel]:
        """See `Host.borrow`; here the model is loaded and dropped."""
        path = self._find("checkpoint", settings.checkpoint)
        tensors = read_tensors(path, "checkpoint")
        found = detect(tensors)
        if found.family is None:
            raise _refused(settings.checkpoint, found.title, found.reason)
        vae = self._read_vae(settings.vae) if settings.vae else tensors
        dtype = compute_dtype(settings.base_precision, tensors[CONV_IN].dtype, self.device)
        predicted = chosen_prediction(settings, marked_prediction(tensors, metadata(path)))
        model = assemble_model(
            _without_vae(tensors),
            found.family,
            device=self.device,
            dtype=dtype,
            storage=kept_in(settings.base_precision, tensors[CONV_IN].dtype, self.device),
            vae_dtype=DTYPES[settings.vae_precision],
            clip_skip=settings.clip_skip or 1,
            prediction_type=predicted,
            zero_snr=chosen_zero_snr(settings, predicted, ZERO_SNR_MARK in tensors),
            vae_tensors=_vae_part(vae),
            origin=Origin(
                path.name,
                HashCache(self.log_dir / HASHES).sha256(path),
                legacy_hash(path),
                Path(settings.vae).name,
            ),
        )
        lay_out(model.unet)
        yield model

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

    def _read_vae(self, name: str) -> Tensors:
        tensors = read_tensors(self._find("vae", name), "vae")
        if not _vae_part(tensors):
            raise BadInput(
                [Problem("vae", f"{name} holds no VAE but {detect(tensors).title}", "choose a VAE")]
            )
        return tensors


def _vae_part(tensors: Tensors) -> Tensors:
    """The tensors of the VAE, named as in a bare VAE file."""
    if "encoder.conv_in.weight" in tensors:
        return tensors
    return {n[len(VAE_PREFIX) :]: t for n, t in tensors.items() if n.startswith(VAE_PREFIX)}


def _without_vae(tensors: Tensors) -> Tensors:
    """The tensors of UNet and text encoder."""
    return {n: t for n, t in tensors.items() if not n.startswith((VAE_PREFIX, "model_ema."))}


def _refused(name: str, title: str, reason: str) -> BadInput:
    return BadInput(
        [
            Problem(
                "checkpoint",
                f"{name} is {title}, which cannot be trained on: {reason}",
                "choose a Stable Diffusion 1, 2 or XL checkpoint",
            )
        ]
    )
