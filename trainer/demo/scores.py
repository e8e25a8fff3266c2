"""What a trained file does to the embedded checkpoint, read by the judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ..evaluate.draw import draw_pictures
from ..hosts.standalone import StandaloneHost
from ..networks import kohya
from ..networks.network import Network
from ..networks.targets import find_targets
from ..settings.groups import ModelSettings, NetworkSettings
from ..settings.schema import JobSettings
from . import judge
from .examples import Example, Wanted

STRENGTHS_SHOWN = (0.0, 0.5, 1.0)
FIRST_SEED = 1000


@dataclass(frozen=True)
class Scores:
    """Shares, 0 to 1."""

    effect: float
    """Held-out prompts whose picture shows shape, colour and background at strength 1."""
    effect_before: float
    """The same without the file."""
    collateral: float
    """Unrelated prompts drawn right before and wrong at strength 1."""
    effect_count: int
    unrelated_count: int


class Drawings:
    """Draws with the file that was written, so that the whole way to the file is shown."""

    def __init__(self, host: StandaloneHost, settings: JobSettings, file: Path) -> None:
        self.host = host
        self.settings = settings
        self.tensors, _ = kohya.load(file)

    def draw(self, wanted: Sequence[Wanted], strength: float) -> list[Image.Image]:
        """One picture for each prompt; the seeds depend on the place in the list alone."""
        prompts = [one.prompt for one in wanted]
        seeds = range(FIRST_SEED, FIRST_SEED + len(prompts))
        network = self.settings[NetworkSettings]
        with self.host.borrow(self.settings[ModelSettings]) as model:
            targets = find_targets(
                model.unet,
                [model.text_encoder],
                family=model.family.name,
                blocks=network.blocks,
                element=network.element,
            )
            attached = Network(targets, network.network, rank=network.rank, alpha=network.alpha)
            attached.load(self.tensors)
            with attached, attached.at(strength):
                return draw_pictures(model, prompts, list(seeds))

    def rows(self, wanted: Sequence[Wanted]) -> list[list[Image.Image]]:
        """A row of pictures for each of `STRENGTHS_SHOWN`."""
        return [self.draw(wanted, strength) for strength in STRENGTHS_SHOWN]


def compare(example: Example, drawings: Drawings) -> Scores:
    """Draws held-out and unrelated prompts with and without the file and judges them."""
    before, after = (
        _right(example.held_out, drawings.draw(example.held_out, strength))
        for strength in (0.0, 1.0)
    )
    kept_before, kept_after = (
        _right(example.unrelated, drawings.draw(example.unrelated, strength))
        for strength in (0.0, 1.0)
    )
    lost = sum(was and not still for was, still in zip(kept_before, kept_after, strict=True))
    return Scores(
        effect=sum(after) / len(after),
        effect_before=sum(before) / len(before),
        collateral=lost / len(kept_before),
        effect_count=len(after),
        unrelated_count=len(kept_before),
    )


def _right(wanted: Sequence[Wanted], pictures: Sequence[Image.Image]) -> list[bool]:
    return [
        judge.read(picture).shows(one.scene) for one, picture in zip(wanted, pictures, strict=True)
    ]
