"""AUTOMATIC1111's webui, 1.7 to 1.10, and Forge: training on the checkpoint that it has loaded.

Importing this file imports neither torch nor diffusers, so that the webui starts as fast as before.

Source: facts/hosts.md of this project, read from the webui's modules.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modules import paths_internal, sd_models, sd_vae, shared

from ..control import Control
from ..errors import BadInput, Problem
from ..paths import is_file, unquoted, user_path
from ..settings.groups import CacheSettings, ModelSettings
from ..settings.methods import METHODS
from ..settings.schema import JobSettings
from ..settings.values import proposal
from .gate import INTERLEAVE, Manners

if TYPE_CHECKING:
    from ..models.detect import Detection
    from ..models.model import DiffusionModel
    from .loan import Lender

log = logging.getLogger(__name__)

FINISH_FIRST, STOP_AND_SAVE = "finish the training first", "stop and save"
CHECKPOINT_CHANGES = (FINISH_FIRST, STOP_AND_SAVE)
"""What a training does when the user chooses another checkpoint in the middle."""
LISTING_S, GLANCE_S = 3.0, 0.25
"""How long a checkpoint that is not listed is waited for, and how long the list has to rest."""
PROMPT_CACHES = ("cached_c", "cached_uc", "cached_hr_c", "cached_hr_uc")
"""Where the webui's classes for a picture keep the prompts of the last one."""


class WebuiHost:
    """See `Host`."""

    @property
    def data_dir(self) -> Path:
        """Where the queue, the user's own presets and the logs lie."""
        return Path(paths_internal.data_path) / "trainyard"

    @property
    def output_dir(self) -> Path:
        """See `Host.output_dir`: the webui's Lora folder, or the subfolder that is set."""
        return lora_dir() / subfolder(str(option("subfolder", "")))

    @property
    def log_dir(self) -> Path:
        """See `Host.log_dir`: also saved states, sample pictures and caches lie there."""
        given = str(option("log_folder", "")).strip()
        return user_path(given) if given else self.data_dir / "logs"

    def checkpoints(self) -> list[str]:
        """See `Host.checkpoints`."""
        return [info.name for info in checkpoint_infos()]

    def vaes(self) -> list[str]:
        """See `Host.vaes`."""
        return list(vae_files())

    def loras(self) -> list[str]:
        """See `Host.loras`."""
        return [str(path) for path in sorted(lora_dir().rglob("*.safetensors"))]

    def loaded_checkpoint(self) -> str:
        """See `Host.loaded_checkpoint`."""
        live = sd_models.model_data.sd_model
        if hasattr(live, "sd_checkpoint_info"):  # Forge begins with a placeholder without it
            return str(live.sd_checkpoint_info.name)
        chosen = sd_models.checkpoint_aliases.get(shared.opts.sd_model_checkpoint)
        return "" if chosen is None else str(chosen.name)

    def check_model(self, settings: ModelSettings) -> Detection:
        """See `Host.check_model`."""
        from .loan import inspect

        return inspect(lender(), find_checkpoint(settings.checkpoint), find_vae(settings.vae))

    @contextmanager
    def borrow(
        self, settings: ModelSettings, control: Control | None = None
    ) -> Iterator[DiffusionModel]:
        """See `Host.borrow`; the webui's queue lock is held except where `control` gives way."""
        from .loan import Loan

        loan = Loan(
            lender(),
            settings,
            find_checkpoint(settings.checkpoint),
            find_vae(settings.vae),
            control or Control(),
            manners,
            stop_at_change=option("checkpoint_change", FINISH_FIRST) == STOP_AND_SAVE,
        )
        with loan.held():
            yield loan.model

    def published(self, path: Path) -> None:
        """See `Host.published`: the Lora extension looks at its folder anew."""
        forget_prompts()
        networks: Any = sys.modules.get("networks")
        if hasattr(networks, "list_available_networks"):
            networks.list_available_networks()
            if hasattr(networks, "load_lora_state_dict"):  # Forge keeps files by their names
                networks.load_lora_state_dict.cache_clear()
        else:
            log.info("%s is saved; the webui's Lora extension is off", path)


def lender() -> Lender:
    """The webui as a lender: A1111's own, or one of those that took it apart."""
    if hasattr(sd_models, "forge_model_reload"):
        from .forge_lender import ForgeLender

        return ForgeLender()
    if "modules_forge" in sys.modules:
        from .forge_lender import ReForgeLender

        return ReForgeLender()
    from .a1111_lender import WebuiLender

    return WebuiLender()


def forget_prompts() -> None:
    """Makes the webui encode the next picture's prompt, even if it was the last one's.

    It knows an encoded prompt again by the names of its LoRAs, but their text encoder weights
    may be new.
    """
    from modules import processing

    for kind in (
        processing.StableDiffusionProcessing,
        processing.StableDiffusionProcessingTxt2Img,
    ):
        for name in PROMPT_CACHES:
            cache = getattr(kind, name, [])
            cache[:] = [None] * len(cache)


def lora_dir() -> Path:
    """Where the webui looks for LoRA files."""
    given = getattr(shared.cmd_opts, "lora_dir", None)
    return Path(given) if given else Path(paths_internal.models_path) / "Lora"


def subfolder(name: str) -> Path:
    """A relative folder that stays inside the one it is put below.

    Raises:
        BadInput: it would lead out.
    """
    folder = Path(unquoted(name))
    if folder.anchor or ".." in folder.parts:  # on Windows "/x" is not absolute, and leads out
        what = f"{name!r} leads out of the Lora folder"
        raise BadInput([Problem("Settings > Trainyard", what, "give a folder name only")])
    return folder


def checkpoint_infos() -> list[Any]:
    """The webui's entries for its checkpoints as they are now; another thread may change them."""
    return list(sd_models.checkpoints_list.values())


def find_checkpoint(name: str) -> Any:
    """The webui's entry for a checkpoint, by any of the names that the webui knows.

    While the webui reads its folders anew, as at every Refresh, its list is empty and then grows.

    Raises:
        BadInput: the webui lists no such checkpoint; the nearest name is proposed.
    """
    name = unquoted(name)
    wanted, listed, end = Path(name), 0, time.monotonic() + LISTING_S
    while True:
        infos = checkpoint_infos()
        for info in infos:
            names = {*info.ids, info.filename, info.name, str(Path(info.name).with_suffix(""))}
            if name in names or (wanted.is_absolute() and wanted == Path(info.filename)):
                return info
        if (infos and len(infos) == listed) or time.monotonic() > end:
            break
        listed = len(infos)
        time.sleep(GLANCE_S)
    known = [info.name for info in infos]
    near = proposal(name, tuple(known))
    cure = f"did you mean {near}?" if near else f"known: {', '.join(known[:8]) or 'none'}"
    raise BadInput([Problem("checkpoint", f"the webui has no checkpoint {name!r}", cure)])


def vae_files() -> dict[str, str]:
    """Name -> path of every VAE file; Forge lists them with its other additional modules."""
    forge = sys.modules.get("modules_forge.main_entry")
    return {**getattr(forge, "module_list", {}), **sd_vae.vae_dict}


def find_vae(name: str) -> Path | None:
    """A VAE file by the webui's name for it or by path; None for an empty name.

    Raises:
        BadInput: there is no such file.
    """
    if not name:
        return None
    known_files, name = vae_files(), unquoted(name)
    path = Path(known_files.get(name, name))
    if is_file(path):
        return path
    known = ", ".join(list(known_files)[:8]) or "none"
    raise BadInput([Problem("vae", f"the webui has no VAE {name!r}", f"known: {known}")])


def manners() -> Manners:
    """What the user has set about sharing the machine."""
    idle_s = float(str(option("idle_s", Manners.idle_s)))
    return Manners(str(option("sharing", INTERLEAVE)), idle_s)


def within_limits(settings: JobSettings) -> JobSettings:
    """The job with its cache where the webui's Settings say, and no larger than they allow."""
    if not METHODS[settings.method].uses(CacheSettings):
        return settings
    cache = settings[CacheSettings]
    most_mb = int(float(str(option("cache_disk_mb", cache.cache_disk_mb))))
    return settings.replace(
        cache_folder=cache.cache_folder or str(option("cache_folder", "")),
        cache_disk_mb=max(1, min(cache.cache_disk_mb, most_mb)),
    )


def option(name: str, default: object) -> object:
    """One of our settings in the webui's Settings; a number that was emptied there is None."""
    value = getattr(shared.opts, f"trainyard_{name}", None)
    return default if value is None else value
