"""The embedded checkpoint as a file: where it lies, and how a webui gets it.

`python -m trainer.demo.checkpoint FOLDER` puts it into a webui's `models/Stable-diffusion`.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from ..models.tokenizer import write_vocabulary

FOLDER = Path(__file__).parent / "world"
CHECKPOINT = FOLDER / "world.safetensors"
YAML = CHECKPOINT.with_suffix(".yaml")
TEXT_CONFIG = FOLDER / "text_encoder.json"
TEXT_FOLDER_MARK = "@TEXT_ENCODER@"
"""Stands in the committed yaml for the folder that the webui reads the text encoder's
configuration and vocabulary from; it must be an absolute path there."""


def install_world(folder: Path) -> Path:
    """Puts the checkpoint where a webui finds it: file, yaml, and what the yaml refers to.

    Args:
        folder: a checkpoint folder, such as `models/Stable-diffusion`; made when missing.

    Returns:
        The checkpoint's path there.

    Raises:
        MissingDependency: open_clip_torch, which holds the vocabulary, is not installed.
    """
    text_folder = (folder / "world_text_encoder").resolve()
    write_vocabulary(text_folder)
    config = json.loads(TEXT_CONFIG.read_text("utf-8"))
    (text_folder / "config.json").write_text(json.dumps(config, indent=1), "utf-8")
    installed = folder / CHECKPOINT.name
    shutil.copyfile(CHECKPOINT, installed)
    yaml = YAML.read_text("utf-8").replace(TEXT_FOLDER_MARK, text_folder.as_posix())
    installed.with_suffix(".yaml").write_text(yaml, "utf-8")
    return installed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="a webui's models/Stable-diffusion")
    print(f"Installed {install_world(parser.parse_args().folder)}; its pictures are 64 to 128 px")


if __name__ == "__main__":
    main()
