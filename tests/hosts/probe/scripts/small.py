"""For tests alone: lets Forge load a checkpoint that is smaller than any it knows.

Forge tells a checkpoint by its widths and takes the rest from folders of its own; here both are
those of the yaml beside the embedded checkpoint, which A1111's webui reads by itself.
"""

import json
import shutil
from pathlib import Path

import yaml
from modules import paths_internal

try:
    from backend import loader
    from backend.text_processing import classic_engine
    from huggingface_guess import model_list
except ImportError:
    loader = None

CONFIG = Path(paths_internal.models_path, "Stable-diffusion/world.yaml")


def learn() -> None:
    parts = yaml.safe_load(CONFIG.read_text("utf-8"))["model"]["params"]
    unet = parts["unet_config"]["params"]
    vae = parts["first_stage_config"]["params"]["ddconfig"]
    text = Path(parts["cond_stage_config"]["params"]["version"], "config.json")
    kind = model_list.SD15
    known = {name: unet[name] for name in ("context_dim", "model_channels")}
    kind.unet_config = {**kind.unet_config, **known}
    folder = Path(paths_internal.data_path, "small/huggingface", kind.huggingface_repo)
    theirs = Path(loader.dir_path, "huggingface", kind.huggingface_repo)
    shutil.copytree(theirs, folder, dirs_exist_ok=True)
    shutil.copy(text, folder / "text_encoder/config.json")
    config = json.loads((folder / "vae/config.json").read_text("utf-8"))
    config["block_out_channels"] = [vae["ch"] * factor for factor in vae["ch_mult"]]
    (folder / "vae/config.json").write_text(json.dumps(config), "utf-8")
    loader.dir_path = str(folder.parents[2])
    database, width = classic_engine.EmbeddingDatabase, unet["context_dim"]
    classic_engine.EmbeddingDatabase = lambda tokenizer, _: database(tokenizer, width)


if loader is not None:
    learn()
