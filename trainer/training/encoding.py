"""Encoding what is trained on, once: pictures into latents, captions into conditionings."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..data.batches import BatchOrder, LatentDataset, filling
from ..data.masks import load_masks
from ..data.pairs import masked
from ..data.views import View
from ..events import PhaseProgress, PhaseStarted
from ..models.prompts import split, truncated
from ..models.text import (
    CHUNK_TOKENS,
    Conditioning,
    ConditioningCache,
    EncodesAhead,
    KnownConditionings,
)
from ..settings.groups import (
    CaptionSettings,
    MaskSettings,
    PictureMaskSettings,
    PictureSettings,
    PriorSettings,
    PromptSettings,
    TrainingSettings,
)
from ..settings.methods import METHODS
from .distributed import current_team
from .sharing import share_pictures
from .training_data import PairData, PictureData

if TYPE_CHECKING:
    from .session import Session

VAE_BATCH_SIZE = 4
CAPTIONS_AT_ONCE = 256
"""Captions between two looks at whether the user has stopped the job."""
CAPTIONS_AHEAD = 64
"""So many varied captions, of the batches that come next, are encoded together."""


def encode_images(session: Session) -> PictureData:
    """Encodes every picture of the plan once.

    Raises:
        BadInput: a picture cannot be decoded, unless such are skipped.
        Stopped: the user ended the job meanwhile.
    """
    training = session.settings[TrainingSettings]
    unreadable = session.settings[PictureSettings].unreadable
    dataset = _encoded(session, session.plan.views, unreadable)
    order = BatchOrder(dataset.frames_px, training.batch_size, session.seed)
    masks = session.settings.get(PictureMaskSettings)
    most = session.settings.get(CaptionSettings).max_prompt_tokens
    tokens = session.model.prompts.tokens

    @functools.lru_cache(maxsize=1 << 14)
    def cut(caption: str) -> str:
        short = len(caption.encode()) <= most  # a token is one byte at least
        return caption if short else truncated(caption, tokens, most)

    return PictureData(
        dataset,
        order,
        session.captions,
        load_masks(dataset.views, masks),
        masks,
        session.settings.get(PriorSettings).prior_loss_weight,
        cut,
    )


def encode_pairs(session: Session) -> PairData:
    """Encodes both pictures of every pair of the plan once, and cuts their masks.

    Raises:
        BadInput: a picture cannot be decoded, or a mask selects nothing.
        Stopped: the user ended the job meanwhile.
    """
    wanted = session.settings[MaskSettings]
    pairs, masks = zip(*(masked(pair, wanted) for pair in session.plan.pairs), strict=True)
    views = [pair.original for pair in pairs] + [pair.target for pair in pairs]
    if METHODS[session.settings.method].uses(PromptSettings):
        views = [_with_caption(view, session.cut(view.image.caption)) for view in views]
    dataset = _encoded(session, views, "stop")
    return PairData(dataset, pair_order(session, dataset), masks)


def pair_order(session: Session, dataset: LatentDataset) -> BatchOrder:
    """The order of the pairs, in batches of the size that this pass of the session has.

    Args:
        dataset: all pictures before the change, then all after it.
    """
    frames_px = dataset.frames_px[: len(dataset) // 2]
    batch_size = session.settings[TrainingSettings].batch_size
    return BatchOrder(filling(frames_px, batch_size), batch_size, session.seed)


def _with_caption(view: View, caption: str) -> View:
    return replace(view, image=replace(view.image, caption=caption))


def _encoded(session: Session, views: Sequence[View], unreadable: str) -> LatentDataset:
    """The latents of views; in a team each process encodes a part of them."""
    session.sink(PhaseStarted("Encoding pictures", len(set(views))))
    latents = session.caches.latents(views)

    def encode(some: Sequence[View]) -> LatentDataset:
        return LatentDataset(
            some,
            session.model.encode_pixels,
            encode_batch_size=VAE_BATCH_SIZE,
            latents=latents,
            unreadable=unreadable,
            progress=_progress(session),
        )

    share_pictures(current_team(), views, latents, encode, VAE_BATCH_SIZE)
    return encode(views)


def _progress(session: Session) -> Callable[[int, int], None]:
    """Tells how many pictures are encoded, and stops where the user wants it."""

    def encoded(done: int, total: int) -> None:
        del total
        session.check_stopped()
        session.sink(PhaseProgress(done))

    return encoded


def prompt_encoder(
    session: Session, prompts: Sequence[str], *, webui_syntax: bool = False
) -> Callable[[Sequence[str]], Conditioning]:
    """Encodes captions: from a cache filled now, or live when the text encoder is trained."""
    if not session.trains_text_encoder:
        return frozen_encoder(session, prompts, webui_syntax=webui_syntax)
    encode = session.model.encode_weighted if webui_syntax else session.model.encode_prompts
    return lambda wanted: encode(list(wanted))


def caption_encoder(
    session: Session, data: PictureData, beside: Sequence[str] = ()
) -> Callable[[Sequence[str]], Conditioning]:
    """Encodes the captions of pictures, and prompts beside them.

    From a cache where captions stay the same; where they vary, those of many batches at once;
    live when the text encoder is trained.
    """
    emphasis = session.settings.get(CaptionSettings).caption_emphasis
    if session.trains_text_encoder:
        return prompt_encoder(session, (), webui_syntax=emphasis)
    if not data.variants.varies:
        return frozen_encoder(session, (*data.captions, *beside), webui_syntax=emphasis)
    batches = max(1, CAPTIONS_AHEAD // session.settings[TrainingSettings].batch_size)
    return EncodesAhead(
        lambda: _conditioning_cache(session, webui_syntax=emphasis),
        lambda: data.upcoming(batches),
        always=beside,
        encoded=session.spare_memory,
    )


def frozen_encoder(
    session: Session, prompts: Sequence[str], *, webui_syntax: bool = False
) -> ConditioningCache:
    """Encodes captions with the model as it is now, each once."""
    known = session.caches.conditionings(prompts, webui_syntax=webui_syntax)
    cache = _conditioning_cache(session, known, webui_syntax=webui_syntax)
    session.sink(PhaseStarted("Encoding captions", len(prompts)))
    for first in range(0, len(prompts), CAPTIONS_AT_ONCE):
        session.check_stopped()
        cache.prepare(prompts[first : first + CAPTIONS_AT_ONCE])
        session.sink(PhaseProgress(min(first + CAPTIONS_AT_ONCE, len(prompts))))
    return cache


def _conditioning_cache(
    session: Session, known: KnownConditionings | None = None, *, webui_syntax: bool
) -> ConditioningCache:
    tokens = session.model.prompts.tokens

    def windows(prompt: str) -> int:
        if webui_syntax:
            return len(split(prompt, tokens))
        return max(1, math.ceil(len(tokens(prompt)) / CHUNK_TOKENS))

    model = session.model
    encode = model.encode_weighted if webui_syntax else model.encode_prompts
    return ConditioningCache(encode, windows=windows, known=known)
