"""Drawing with a trained file on the embedded checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from ..evaluate.draw import draw_pictures
from ..evaluate.measures import Draw
from ..hosts.standalone import StandaloneHost
from ..networks import kohya
from ..networks.build import build_network
from ..networks.naming import BASE
from ..settings.groups import ModelSettings, NetworkSettings
from ..settings.schema import JobSettings


@contextmanager
def drawing(host: StandaloneHost, settings: JobSettings, file: Path) -> Iterator[Draw]:
    """Draws with the file that a job wrote, so that the whole way to the file is shown.

    The function that it gives draws at strength 0 what the bare checkpoint draws.
    """
    wanted = settings[NetworkSettings]
    with host.borrow(settings[ModelSettings]) as model:
        network = build_network(
            wanted,
            model.unet,
            model.text_encoders if BASE in wanted.blocks else [],
            family=model.family.name,
        )
        network.load(kohya.load(file)[0])

        def draw(
            prompts: Sequence[str], seeds: Sequence[int], strength: float
        ) -> list[Image.Image]:
            with network.at(strength):
                return draw_pictures(model, prompts, seeds)

        with network:
            yield draw
