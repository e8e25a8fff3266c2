"""What lies beside a finished LoRA: the webui's card, and a picture drawn with it."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import torch
from PIL import Image

from . import __version__
from .atomic import write_bytes
from .errors import BadInput
from .evaluate.draw import draw_pictures
from .models.prompts import escaped
from .networks.opening import open_network
from .networks.targets import every_target
from .settings.files import read_object, write_object
from .settings.groups import CaptionSettings, OutputSettings, PromptSettings, SizeSettings
from .settings.methods import METHODS
from .training.session import Session

log = logging.getLogger(__name__)

SD_VERSIONS = {"sd1": "SD1", "sd2": "SD2", "sdxl": "SDXL"}
"""A family's name on the webui's cards, which its list can be filtered by."""
PREVIEW_STEPS, PREVIEW_GUIDANCE = 20, 7.0


def finish(session: Session, file: Path) -> None:
    """Writes card and preview of a result; what fails is logged, the LoRA itself is complete."""
    try:
        write_card(session, file)
        if session.settings[OutputSettings].save_preview:
            drawn = io.BytesIO()
            draw_preview(session, file).save(drawn, "PNG")
            write_bytes(file.with_suffix(".png"), drawn.getvalue())
    except (BadInput, OSError, RuntimeError) as error:
        log.warning("the card or picture of %s was not written: %s", file.name, error)


def write_card(session: Session, file: Path) -> None:
    """Writes the card that the webui shows and reads; what a user wrote on it stays.

    Raises:
        BadInput: it cannot be written, or the one that is there is no card.
    """
    path = file.with_suffix(".json")
    values = session.settings.values
    method = METHODS[session.settings.method].title
    ours: dict[str, object] = {
        "description": str(values["description"]),
        "sd version": SD_VERSIONS.get(session.model.family.name, "Unknown"),
        "activation text": str(values.get("trigger_word", "")),
        "preferred weight": 1.0,
        "notes": f"{method} by Trainyard {__version__}: {session.plan.steps} steps on"
        f" {session.model.origin.name}, seed {session.seed}",
    }
    before = read_object(path) if path.is_file() else {}
    write_object(path, {**ours, **before, **{k: v for k, v in ours.items() if v}})


def preview_prompt(session: Session) -> str:
    """The first caption or prompt that was trained, as the webui's prompt."""
    if not session.plan.images:
        return session.prompts(session.settings[PromptSettings].original_prompt)[0]
    caption = session.captions.readings(session.plan.images[0].caption)[0]
    if session.settings.get(CaptionSettings).caption_emphasis:
        return caption
    return escaped(caption, session.model.style)


@torch.no_grad()
def draw_preview(session: Session, file: Path) -> Image.Image:
    """A picture that the saved file draws, at the size of the training and with its seed.

    Raises:
        BadInput: the file cannot be read back.
    """
    model = session.model
    targets = every_target(model.unet, model.text_encoders, model.family.name)
    network = open_network(file, targets).to(model.device)
    size_px = session.settings[SizeSettings].image_size_px
    with network:
        return draw_pictures(
            model,
            [preview_prompt(session)],
            [session.seed],
            size_px=size_px,
            steps=PREVIEW_STEPS,
            guidance_scale=PREVIEW_GUIDANCE,
        )[0]
