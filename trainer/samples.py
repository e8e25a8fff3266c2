"""Pictures drawn while a network trains, with the assembled model: the host notices nothing."""

from __future__ import annotations

import io
import logging
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from PIL.PngImagePlugin import PngInfo

from .atomic import write_bytes
from .control import Request
from .evaluate.draw import draw_pictures
from .events import Sampled
from .paths import as_unicode
from .settings.groups import OutputSettings, SampleSettings, SizeSettings

if TYPE_CHECKING:
    from .networks.network import Network
    from .training.session import Session

log = logging.getLogger(__name__)

FOLDER = "samples"
OWN = "[0-9]" * 8 + "-[0-9][0-9]*.png"
"""What the files are called; others in the folder are a user's, who may have chosen it."""


class Sampler:
    """Draws every prompt at the steps that the settings name."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._settings = session.settings[SampleSettings]
        lines = self._settings.sample_prompts.splitlines()
        self._prompts = [line.strip() for line in lines if line.strip()]
        self.folder = session.host.log_dir / FOLDER / session.settings[OutputSettings].name

    def due(self, step: int, last: int) -> bool:
        """See `Watch.due`; at the first step there may be old pictures to remove."""
        return bool(self._prompts) and (step == 1 or self._draws_at(step, last))

    def _draws_at(self, step: int, last: int) -> bool:
        return step % self._settings.sample_every_steps == 0 or step == last

    def after_step(
        self, step: int, last: int, network: Network, helpers: Sequence[Network] = ()
    ) -> None:
        """Draws what is due; what fails is logged, and the training goes on.

        Args:
            step: the step just made, from 1; at the first, pictures of an earlier run are removed.
            last: the last step of the run.
            network: what is trained; it is drawn with at its full strength.
            helpers: networks that are attached for the training only.
        """
        try:
            if step == 1:
                for old in self.folder.glob(OWN):
                    old.unlink()
            if self._draws_at(step, last):
                self._draw(step, network, helpers)
        except (OSError, RuntimeError) as error:
            log.warning("no sample pictures at step %d: %s", step, error)

    def _said(self, prompt: str) -> PngInfo:
        """How the picture was drawn, as the webui's "PNG Info" reads it."""
        settings, info = self._settings, PngInfo()
        height, width = self._session.settings[SizeSettings].image_size_px
        parts = (
            f"Steps: {settings.sample_denoise_steps}",
            "Sampler: DDIM",
            f"CFG scale: {settings.sample_guidance:g}",
            f"Seed: {settings.sample_seed}",
            f"Size: {width}x{height}",
            f"Model: {Path(self._session.model.origin.name).stem}",
        )
        info.add_text("parameters", as_unicode(f"{prompt}\n{', '.join(parts)}"))
        return info

    def _draw(self, step: int, network: Network, helpers: Sequence[Network]) -> None:
        settings, session = self._settings, self._session
        with ExitStack() as stack:
            stack.enter_context(network.at(1.0))
            for helper in helpers:
                stack.enter_context(helper.at(0.0))
            for number, prompt in enumerate(self._prompts):
                if session.control.request is not Request.CONTINUE:
                    return
                (picture,) = draw_pictures(
                    session.model,
                    [prompt],
                    [settings.sample_seed],
                    size_px=session.settings[SizeSettings].image_size_px,
                    steps=settings.sample_denoise_steps,
                    guidance_scale=settings.sample_guidance,
                )
                path = self.folder / f"{step:08d}-{number:02d}.png"
                drawn = io.BytesIO()
                picture.save(drawn, "PNG", pnginfo=self._said(prompt))
                write_bytes(path, drawn.getvalue())
                session.sink(Sampled(path, step, prompt))
        session.spare_memory()
