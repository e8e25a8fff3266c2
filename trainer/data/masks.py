"""Masks: how much each part of a picture counts, cut and mirrored as the picture itself."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import BadInput, Problem
from ..paths import is_folder, user_path
from ..settings.groups import PictureMaskSettings
from .buckets import LATENT_CELL_PX
from .folder import TrainingImage
from .images import is_picture, read_picture, read_size
from .parallel import map_in_order
from .transfer import to_device
from .views import View, cut, load_alpha

SAME_RATIO = 0.01
"""How far a mask's aspect ratio may be from its picture's, as a share; rounding makes a little."""
_NAMED_AT_MOST = 5


def with_masks(
    images: Sequence[TrainingImage], folder: str, masks: str, warnings: list[str]
) -> list[TrainingImage]:
    """The images with their masks: the pictures of the same names in another folder.

    Args:
        folder: of the images.
        masks: of the masks, which lie in the same subfolders.
        warnings: pictures without a mask are named here.

    Raises:
        BadInput: the folder has none, or with every mask that does not fit its picture.
    """
    base, other = user_path(folder), user_path(masks)
    if not is_folder(other):
        what = f"the folder {other} does not exist"
        raise BadInput([Problem("mask_folder", what, "check its spelling")])
    if other.resolve() == base.resolve() or base.resolve() in other.resolve().parents:
        what = f"{other} lies in the pictures' folder, so that the masks would be learnt too"
        raise BadInput([Problem("mask_folder", what, "move it out of there")])
    by_name = {
        path.relative_to(other).with_suffix(""): path
        for path in sorted(other.rglob("*"))
        if is_picture(path)
    }
    found = [
        replace(image, mask=by_name.get(image.path.relative_to(base).with_suffix("")))
        for image in images
    ]
    without = [image.path.name for image in found if image.mask is None]
    if len(without) == len(found):
        what = f"{other} holds no picture of the same name as one in {base}"
        raise BadInput([Problem("mask_folder", what, "name the masks like the pictures")])
    problems = [problem for image in found for problem in _misfits(image)]
    if problems:
        raise BadInput(problems)
    if without:
        more = f" and {len(without) - _NAMED_AT_MOST} more" if len(without) > _NAMED_AT_MOST else ""
        names = ", ".join(without[:_NAMED_AT_MOST]) + more
        warnings.append(f"without a mask, so that the whole picture counts: {names}")
    return found


def _misfits(image: TrainingImage) -> Iterator[Problem]:
    if image.mask is None:
        return
    try:
        height, width = read_size(image.mask)
    except BadInput as error:
        yield from error.problems
        return
    apart = math.log(height / width) - math.log(image.size_px[0] / image.size_px[1])
    if abs(apart) > SAME_RATIO:
        own = f"{image.size_px[0]}x{image.size_px[1]}"
        what = f"has the shape {height}x{width} px, and {image.path.name} {own} px"
        yield Problem(str(image.mask), what, "save it in the picture's shape")


def load_masks(views: Sequence[View], settings: PictureMaskSettings) -> tuple[Tensor | None, ...]:
    """How much each latent cell of every view counts before the floor: uint8 [1, h/8, w/8].

    0 is not at all and 255 wholly; None where all of a view counts, as with regularising ones.

    Raises:
        BadInput: with every file that cannot be decoded and every mask that selects nothing.
    """
    if settings.picture_mask == "none":
        return (None,) * len(views)
    distinct = list(dict.fromkeys(views))

    def load(view: View) -> Tensor | tuple[Problem, ...] | None:
        try:
            cells = None if view.image.regularises else _cells_of(view, settings.picture_mask)
        except BadInput as error:
            return error.problems
        if cells is None or bool(cells.any()):
            return cells
        name = str(view.image.mask or view.image.path)
        what = f"its mask selects nothing of the frame {view.frame_px[0]}x{view.frame_px[1]}"
        return (Problem(name, what, "choose another mask, or take the picture away"),)

    by_view: dict[View, Tensor | None] = {}
    problems: list[Problem] = []
    for view, found in zip(distinct, map_in_order(load, distinct), strict=True):
        if isinstance(found, tuple):
            problems += found
        else:
            by_view[view] = found
    if problems:
        raise BadInput(problems)
    return tuple(by_view[view] for view in views)


def _cells_of(view: View, kind: str) -> Tensor | None:
    if kind == "files":
        cells = None if view.image.mask is None else cells_of_file(view.image.mask, view)
    else:
        opaque = load_alpha(view)
        cells = None if opaque is None else mean_of_cells(opaque)
    return None if cells is None else (cells * 255).round().to(torch.uint8)


def batch_of_masks(
    masks: Sequence[Tensor | None], like: Tensor, settings: PictureMaskSettings
) -> Tensor | None:
    """The masks of one batch, float32 [n, 1, h, w] from the floor to 1; None: all is alike.

    Args:
        like: the latents [n, c, h, w], whose places and device the masks get.
    """
    if all(mask is None for mask in masks):
        return None
    whole = torch.full((1, *like.shape[2:]), 255, dtype=torch.uint8)
    cells = torch.stack([whole if mask is None else mask for mask in masks])
    share = to_device(cells, like.device).float() / 255
    return settings.mask_floor + (1 - settings.mask_floor) * share


def cells_of_file(mask: Path, view: View) -> Tensor:
    """A black and white picture, cut like the view of another: float32 [1, h/8, w/8] in 0..1."""
    own = replace(view, image=TrainingImage(mask, "", read_size(mask)))
    grey = cut(read_picture(mask).rgb.convert("L"), own)
    return mean_of_cells(torch.from_numpy(grey)[None].float() / 255)


def mean_of_cells(mask: Tensor) -> Tensor:
    """[1, h, w] to [1, h/8, w/8] by the mean of each latent cell."""
    return functional.avg_pool2d(mask[None], LATENT_CELL_PX)[0]
