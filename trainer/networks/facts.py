"""What a file's metadata needs to know of the run and of its pictures."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from .kinds import NetworkFacts


@dataclass(frozen=True)
class FolderFacts:
    """One folder of training images."""

    name: str
    """The folder's own name, without its parents."""
    images: int
    repeats: int
    tags: Mapping[str, int] = field(default_factory=dict)
    """In how many images each tag occurs."""


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What only the run itself knows; sizes are (height, width), times are Unix times."""

    family: str
    """sd1, sd2 or sdxl."""
    predicts_velocity: bool = False
    zero_terminal_snr: bool = False
    fp8_base: bool = False
    """Whether the base model's weights were kept in fp8."""
    clip_skip: int | None = None
    """None for families whose text encoders' layers are fixed."""
    network: NetworkFacts
    """As `Network.facts` states it."""
    text_encoder_trained: bool
    checkpoint_file: str
    """File name, without folder."""
    checkpoint_sha256: str = ""
    checkpoint_short_hash: str = ""
    """The old hash of 8 digits, of 64 KiB at 1 MiB."""
    vae_file: str = ""
    vae_sha256: str = ""
    vae_short_hash: str = ""
    resolution_px: tuple[int, int]
    mixed_precision: str = "no"
    """Autocast's dtype: no, fp16 or bf16."""
    seed: int
    """The one used, also where the settings let it be drawn."""
    folders: Sequence[FolderFacts] = ()
    buckets: Mapping[tuple[int, int], int] = field(default_factory=dict)
    """How many training images, repeats included, lie in each frame."""
    regularising: int = 0
    """Samples of an epoch that show what must stay as it is."""
    mean_ratio_error: float = 0.0
    """Mean difference between an image's width / height and its frame's."""
    steps: int
    """Steps done."""
    epoch: int = 0
    """Epochs begun, counted from 1."""
    epochs: int = 0
    """Epochs that the whole run takes."""
    batches_per_epoch: int = 0
    started_at_s: float
    finished_at_s: float
    session_id: int = field(default_factory=lambda: secrets.randbits(32))
    """Common to all files of one run."""


def folder_facts(name: str, captions: Iterable[str], repeats: int) -> FolderFacts:
    """Count a folder's images and tags: captions split at commas, lower case, once per image."""
    tags: dict[str, int] = {}
    images = 0
    for caption in captions:
        images += 1
        found = (tag.strip().lower() for tag in caption.split(","))
        for tag in dict.fromkeys(tag for tag in found if tag):
            tags[tag] = tags.get(tag, 0) + 1
    return FolderFacts(name, images, repeats, tags)
