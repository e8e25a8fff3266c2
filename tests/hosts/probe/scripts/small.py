"""For tests alone: lets Forge and reForge load checkpoints that are smaller than any they know.

They tell a checkpoint by its widths and take the rest from files of their own; here both are those
of what lies beside a tiny checkpoint, which A1111's webui reads by itself.
"""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import yaml
from modules import paths_internal

CHECKPOINTS = Path(paths_internal.models_path, "Stable-diffusion")
FILES = Path(paths_internal.data_path, "small")
"""Copies of their files, with the tiny checkpoints' sizes."""
KINDS = {"world": "SD15", "sd2": "SD20", "sdxl": "SDXL"}
"""Tiny checkpoint -> what both of them call the checkpoints of its family."""


class Tiny:
    """A tiny checkpoint's sizes, and a folder for the files that tell them."""

    def __init__(self, name: str) -> None:
        parts = yaml.safe_load((CHECKPOINTS / f"{name}.yaml").read_text("utf-8"))
        parts = parts["model"]["params"]
        self.unet = parts.get("unet_config", parts.get("network_config"))["params"]
        self.vae = parts["first_stage_config"]["params"]["ddconfig"]
        texts = sorted(CHECKPOINTS.glob(f"{name}_text_encoder/config*.json"))
        self.texts = [json.loads(file.read_text("utf-8")) for file in texts]
        self.folder = FILES / name

    def teach(self, kind: type, when_chosen: Callable[[], None]) -> None:
        """Makes a family known by these sizes; `when_chosen`: such a checkpoint is being loaded."""
        widths = {name: self.unet[name] for name in ("context_dim", "model_channels")}
        if "adm_in_channels" in self.unet:
            widths["adm_in_channels"] = self.unet["adm_in_channels"]
            _, middle, last = self.unet["transformer_depth"]  # two blocks of each
            widths["transformer_depth"] = [0, 0, middle, middle, last, last]
        kind.unet_config = {**kind.unet_config, **widths}
        heads = {name: self.unet.get(name, -1) for name in ("num_heads", "num_head_channels")}
        kind.unet_extra_config = {**kind.unet_extra_config, **heads}
        make = kind.__init__

        def made(self: object, *args: object, **more: object) -> None:
            when_chosen()
            make(self, *args, **more)

        kind.__init__ = made


def forge(tiny: Tiny, kind: type) -> None:
    from backend import loader
    from backend.text_processing import classic_engine
    from backend.text_processing.textual_inversion import EmbeddingDatabase

    repository = Path("huggingface", kind.huggingface_repo)
    copy = tiny.folder / repository
    shutil.copytree(Path(loader.__file__).parent / repository, copy, dirs_exist_ok=True)
    for part, text in zip(("text_encoder", "text_encoder_2"), tiny.texts, strict=False):
        if kind.__name__ == "SD20":  # the layer that is never computed is left out there
            text = {**text, "num_hidden_layers": text["num_hidden_layers"] - 1}
        (copy / part / "config.json").write_text(json.dumps(text), "utf-8")
    config = json.loads((copy / "vae/config.json").read_text("utf-8"))
    config["block_out_channels"] = [tiny.vae["ch"] * factor for factor in tiny.vae["ch_mult"]]
    (copy / "vae/config.json").write_text(json.dumps(config), "utf-8")

    def chosen() -> None:
        loader.dir_path = str(tiny.folder)
        width = tiny.unet["context_dim"]
        classic_engine.EmbeddingDatabase = lambda words, _: EmbeddingDatabase(words, width)

    tiny.teach(kind, chosen)


def forge_projection() -> None:
    """Lets a text encoder's projection be narrower than the encoder."""
    from backend import loader

    class Encoder(loader.IntegratedCLIP):
        def __init__(self, kind: type, config: object, add_text_projection: bool = False) -> None:
            super().__init__(kind, config, add_text_projection)
            sizes = config.hidden_size, config.projection_dim
            self.transformer.text_projection = torch.nn.Linear(*sizes, bias=False)

    loader.IntegratedCLIP = Encoder


def reforge(tiny: Tiny, kind: type) -> None:
    from ldm_patched.ldm.models.autoencoder import AutoencoderKL
    from ldm_patched.modules import sd, sd1_clip, sdxl_clip
    from ldm_patched.modules.text_encoders import sd2_clip

    theirs = Path(paths_internal.script_path, "ldm_patched/modules/sd1_tokenizer")
    shutil.copytree(theirs, tiny.folder / "sd1_tokenizer", dirs_exist_ok=True)
    first = "sd2_clip_config.json" if kind.__name__ == "SD20" else "sd1_clip_config.json"
    for file, text in zip((first, "clip_config_bigg.json"), tiny.texts, strict=False):
        (tiny.folder / file).write_text(json.dumps(text), "utf-8")

    def chosen() -> None:
        for module in (sd1_clip, sdxl_clip, sd2_clip):  # they look for files beside themselves
            module.__file__ = str(tiny.folder / Path(module.__file__).name)
        sd.AutoencoderKL = lambda ddconfig, **more: AutoencoderKL(
            ddconfig={**ddconfig, **tiny.vae}, **more
        )

    tiny.teach(kind, chosen)


def reforge_projection() -> None:
    """Lets a text encoder's projection be narrower than the encoder."""
    from ldm_patched.modules import sdxl_clip

    class Encoder(sdxl_clip.SDXLClipG):
        def __init__(self, *args: object, **more: object) -> None:
            super().__init__(*args, **more)
            config = self.transformer.config
            shape = torch.zeros(config.hidden_size, config.projection_dim)
            self.text_projection = torch.nn.Parameter(shape, requires_grad=False)

    sdxl_clip.SDXLClipG = Encoder


def learn() -> None:
    if "backend.loader" in sys.modules:
        from huggingface_guess import model_list as known

        one, projection = forge, forge_projection
    elif "ldm_patched.modules.sd" in sys.modules:
        from ldm_patched.modules import supported_models as known

        one, projection = reforge, reforge_projection
    else:
        return
    if hasattr(known, "taught"):  # the webui runs its scripts again
        return
    known.taught = True
    projection()
    for name, kind in KINDS.items():
        if (CHECKPOINTS / f"{name}.yaml").is_file():
            one(Tiny(name), getattr(known, kind))


learn()
