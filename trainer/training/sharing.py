"""Encoding shared among the processes of a team: each does its part, and all get everything."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Sequence

from ..data.batches import by_picture
from ..data.latents import Latents
from ..data.views import View
from ..errors import BadInput
from .distributed import Team

SENT_AT_ONCE = 64
"""Batches of each process in one message."""


def share_pictures(
    team: Team,
    views: Sequence[View],
    latents: Latents,
    encode: Callable[[Sequence[View]], object],
    batch_size: int,
) -> None:
    """Fills `latents` with what any process of the team lacks; a single one has nothing to do.

    What cannot be encoded stays out: all find it missing, and the same wrong with it.  Batches are
    those of a single process, because the last digit of a latent depends on them.

    Args:
        latents: this process's own.
        encode: encodes views into them.
        batch_size: how many views it encodes at once.

    Raises:
        TeamBroken: another process has ended.
    """
    if team.size == 1:
        return
    distinct = list(dict.fromkeys(views))
    lacked = team.any_of([view not in latents for view in distinct])
    missing = [view for view, needed in zip(distinct, lacked, strict=True) if needed]
    places = {view: place for place, view in enumerate(missing)}
    batches = batches_of(missing, batch_size)
    own = {view for batch in batches[team.rank :: team.size] for view in batch}
    if own:
        with contextlib.suppress(BadInput):
            encode([view for view in missing if view in own])
    for first in range(0, len(batches), SENT_AT_ONCE * team.size):  # all send equally often
        part = batches[first + team.rank : first + SENT_AT_ONCE * team.size : team.size]
        ready = {}
        for view in (view for batch in part for view in batch if view in latents):
            with contextlib.suppress(KeyError):  # removed just now by another program
                ready[places[view]] = latents.get(view).cpu()
        for place, latent in team.gathered(ready).items():
            if missing[place] not in latents:
                latents.put([missing[place]], latent[None])


def batches_of(views: Sequence[View], size: int) -> list[list[View]]:
    """Distinct views as a `LatentDataset` encodes them: up to `size` of one frame together."""
    by_frame: dict[tuple[int, int], list[View]] = defaultdict(list)
    for picture in by_picture(views):
        for view in picture:
            by_frame[view.frame_px].append(view)
    return [
        alike[first : first + size]
        for alike in by_frame.values()
        for first in range(0, len(alike), size)
    ]
