"""Regularisation: pictures of what must stay as it is, beside those that are learnt from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path

from ..errors import Problem
from ..paths import user_path
from ..settings.groups import DataSettings, PriorSettings
from .folder import FolderReport, inspect
from .views import View, views


def find(
    data: DataSettings, prior: PriorSettings, *, decode: bool = False, lines: bool = False
) -> FolderReport:
    """The regularisation pictures, cut as those that are learnt from, under captions of their own.

    Args:
        data: of the pictures that are learnt from.
        prior: names the folder.
        decode: read every picture whole instead of its header.
        lines: captions keep their lines.
    """
    where = "regularisation_images"
    name = prior.regularisation_images
    own = replace(data, images=name, trigger_word="", filename_as_tag=False)
    report = inspect(own, decode=decode, where=where, lines=lines)
    images = tuple(
        replace(image, caption=image.caption or prior.regularisation_caption, regularises=True)
        for image in report.images
    )
    obstacles = list(report.obstacles)
    learnt, kept = (_folder(text) for text in (data.images, name))
    if learnt == kept or learnt in kept.parents or kept in learnt.parents:
        what = f"{kept} and the pictures' folder {learnt} lie in one another"
        cure = "keep them apart, so that no picture is learnt and held at once"
        obstacles.append(Problem(where, what, cure))
    return replace(report, images=images, obstacles=tuple(obstacles))


def beside(learnt: Sequence[View], report: FolderReport, data: DataSettings) -> list[View]:
    """As many regularising views as there are views to learn, taken in turn.

    Source: sd-scripts' way with regularisation images.

    Raises:
        BadInput: with every picture that fits no frame.
    """
    found = views(report.images, replace(data, repeats=1))
    return list(islice(cycle(found), len(learnt)))


def unused(learnt: Sequence[View], report: FolderReport, kept: Sequence[View]) -> list[str]:
    """At most one line about pictures that no epoch uses."""
    used = len({view.image.path for view in kept})
    if used == len(report.images):
        return []
    return [
        f"{used} of {len(report.images)} regularisation pictures are used, as many samples as"
        f" there are to learn ({len(learnt)}); raise repeats to use more"
    ]


def _folder(text: str) -> Path:
    return user_path(text).resolve()
