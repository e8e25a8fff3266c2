"""For tests alone: lets Forge and reForge load a checkpoint that is smaller than any they know.

They tell a checkpoint by its widths and take the rest from files of their own; here both are those
of the yaml beside the embedded checkpoint, which A1111's webui reads by itself.
"""

import json
import shutil
import sys
from pathlib import Path

import yaml
from modules import paths_internal

CONFIG = Path(paths_internal.models_path, "Stable-diffusion/world.yaml")
FILES = Path(paths_internal.data_path, "small")
"""Copies of their files, with the embedded checkpoint's sizes."""


def forge(unet: dict, vae: dict, text: Path) -> None:
    from backend import loader
    from backend.text_processing import classic_engine
    from huggingface_guess.model_list import SD15

    if known(SD15, unet):
        return
    folder = FILES / "huggingface" / SD15.huggingface_repo
    theirs = Path(loader.dir_path, "huggingface", SD15.huggingface_repo)
    shutil.copytree(theirs, folder, dirs_exist_ok=True)
    shutil.copy(text, folder / "text_encoder/config.json")
    config = json.loads((folder / "vae/config.json").read_text("utf-8"))
    config["block_out_channels"] = [vae["ch"] * factor for factor in vae["ch_mult"]]
    (folder / "vae/config.json").write_text(json.dumps(config), "utf-8")
    loader.dir_path = str(FILES)
    database = classic_engine.EmbeddingDatabase
    classic_engine.EmbeddingDatabase = lambda made, _: database(made, unet["context_dim"])


def reforge(unet: dict, vae: dict, text: Path) -> None:
    from ldm_patched.modules import sd, sd1_clip
    from ldm_patched.modules.supported_models import SD15

    if known(SD15, unet):
        return
    theirs = Path(sd1_clip.__file__).parent
    shutil.copytree(theirs / "sd1_tokenizer", FILES / "sd1_tokenizer", dirs_exist_ok=True)
    shutil.copy(text, FILES / "sd1_clip_config.json")
    sd1_clip.__file__ = str(FILES / "sd1_clip.py")  # it looks for its files beside itself
    make = sd.AutoencoderKL
    sd.AutoencoderKL = lambda ddconfig, **more: make(ddconfig={**ddconfig, **vae}, **more)


def known(kind: type, unet: dict) -> bool:
    """Makes the widths known; True if they were, because the webui runs its scripts again."""
    widths = {name: unet[name] for name in ("context_dim", "model_channels")}
    if widths.items() <= kind.unet_config.items():
        return True
    kind.unet_config = {**kind.unet_config, **widths}
    return False


def learn() -> None:
    parts = yaml.safe_load(CONFIG.read_text("utf-8"))["model"]["params"]
    unet = parts["unet_config"]["params"]
    vae = parts["first_stage_config"]["params"]["ddconfig"]
    text = Path(parts["cond_stage_config"]["params"]["version"], "config.json")
    if "backend.loader" in sys.modules:
        forge(unet, vae, text)
    elif "ldm_patched.modules.sd" in sys.modules:
        reforge(unet, vae, text)


learn()
