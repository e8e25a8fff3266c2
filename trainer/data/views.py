"""Views: which part of which picture is trained at which size, and its pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..errors import BadInput, Problem
from ..settings.groups import PictureSettings
from .buckets import choose, enlargement, frames, misfit
from .folder import TrainingImage
from .images import Picture, read_picture

Size = tuple[int, int]

_REDUCING_GAP = 3.0
"""Shrinks by whole factors first down to this many times the size.  From 3 on the result cannot
be told from one without it.  Source: Pillow's documentation of `Image.resize`."""


class Framing(NamedTuple):
    """How a sample was cut from its picture; SDXL is told all of it.

    Source: Podell et al. 2023, "SDXL", section 2.2.
    """

    original_px: Size
    """(height, width) of the picture, before it was resized."""
    crop_top_left_px: Size
    """(top, left): pixels that were cut off the resized picture."""
    target_px: Size
    """(height, width) of the sample."""


class Shift(NamedTuple):
    """How a view is moved within its frame; what comes in from outside is reflected."""

    down: float = 0.0
    """In heights of the frame."""
    right: float = 0.0
    """In widths of the frame."""
    enlargement: float = 1.0


UNMOVED = Shift()


@dataclass(frozen=True)
class View:
    """One training sample: a picture in a frame, perhaps mirrored and moved."""

    image: TrainingImage
    frame_px: Size
    """(height, width)."""
    mirrored: bool = False
    shift: Shift = UNMOVED

    @property
    def framing(self) -> Framing:
        """The picture's own size, and what of it the frame shows."""
        size_px = self.image.size_px
        scale = enlargement(size_px, self.frame_px)
        top, left = (
            round((side * scale - frame) / 2)
            for side, frame in zip(size_px, self.frame_px, strict=True)
        )
        return Framing(size_px, (top, left), self.frame_px)


def views(images: Sequence[TrainingImage], data: PictureSettings) -> list[View]:
    """The training samples of an epoch, in the order of the images.

    Each image gives a view in its frame and one in each of `data.sub_images` smaller frames;
    `data.mirror` doubles these; all of that is repeated `data.repeats` times.

    Raises:
        BadInput: with every image that fits no frame, and bad settings of the frames.
    """
    sizes = frames(data.image_size_px, data.bucket_step_px, data.min_length_px, data.max_ratio)
    once: list[View] = []
    problems = []
    for image in images:
        unfit = misfit(image.size_px, sizes, disable_upscale=data.disable_upscale)
        if unfit is not None:
            problems.append(Problem(str(image.path), unfit.what, unfit.cure))
            continue
        chosen = choose(
            image.size_px, sizes, sub_images=data.sub_images, disable_upscale=data.disable_upscale
        )
        sides = (False, True) if data.mirror else (False,)
        once += [View(image, frame_px, mirrored) for frame_px in chosen for mirrored in sides]
    if problems:
        raise BadInput(problems)
    return once * data.repeats


def load_pixels(view: View) -> Tensor:
    """Pixels of a view: float32 [3, h, w] in -1..1, red green blue.

    The picture is resized so that it covers the frame, and its centre is taken.

    Raises:
        BadInput: the file cannot be decoded; names it.
    """
    return to_tensor(cut(read_picture(view.image.path).rgb, view))


def load_alpha(view: View) -> Tensor | None:
    """Opacity of a view: float32 [1, h, w] in 0..1, cut as its pixels; None where all is opaque.

    Raises:
        BadInput: the file cannot be decoded; names it.
    """
    alpha = read_picture(view.image.path).alpha
    return None if alpha is None else torch.from_numpy(cut(alpha, view))[None].float() / 255


def cut_all(picture: Picture, views: Sequence[View]) -> list[NDArray[np.uint8]]:
    """Pixels of several views of one decoded picture: uint8 [h, w, 3] each.

    A mirrored view is the exact mirror image of the one that is not, before both are moved.
    """
    unmirrored: dict[Size, NDArray[np.uint8]] = {}
    for view in views:
        if view.frame_px not in unmirrored:
            unmirrored[view.frame_px] = _cover(picture.rgb, view.frame_px)
    return [_moved(_mirror(unmirrored[view.frame_px], view.mirrored), view.shift) for view in views]


def cut(image: Image.Image, view: View) -> NDArray[np.uint8]:
    """A view of an upright image of mode RGB or L: uint8 [h, w, 3] or [h, w]."""
    return _moved(_mirror(_cover(image, view.frame_px), view.mirrored), view.shift)


def to_tensor(pixels: NDArray[np.uint8]) -> Tensor:
    """uint8 [..., h, w, 3] in 0..255 as float32 [..., 3, h, w] in -1..1."""
    return torch.from_numpy(pixels).movedim(-1, -3).contiguous().float() / 127.5 - 1


def source_box(size_px: Size, frame_px: Size) -> tuple[float, float, float, float]:
    """The centred part of a picture that fills a frame: left, top, right, bottom in its pixels."""
    scale = enlargement(size_px, frame_px)
    height, width = (
        min(side, frame / scale) for side, frame in zip(size_px, frame_px, strict=True)
    )
    top, left = (size_px[0] - height) / 2, (size_px[1] - width) / 2
    return left, top, left + width, top + height


def _cover(image: Image.Image, frame_px: Size) -> NDArray[np.uint8]:
    """Resized to cover the frame, and cropped: in one go, so that no size has to be rounded.

    Enlarged with Lanczos.  Shrunk with the Hamming window, which weighs the area that falls into
    each pixel: unlike a plain box it has no jumps at fractional factors, and it does not ring.
    """
    size_px = (image.height, image.width)
    enlarged = enlargement(size_px, frame_px) > 1
    resized = image.resize(
        (frame_px[1], frame_px[0]),
        Image.Resampling.LANCZOS if enlarged else Image.Resampling.HAMMING,
        box=source_box(size_px, frame_px),
        reducing_gap=None if enlarged else _REDUCING_GAP,
    )
    return np.array(resized, dtype=np.uint8)


def _mirror(pixels: NDArray[np.uint8], mirrored: bool) -> NDArray[np.uint8]:
    """Left and right exchanged if `mirrored`; rows are axis 0 and columns axis 1."""
    return np.ascontiguousarray(pixels[:, ::-1]) if mirrored else pixels


def _moved(pixels: NDArray[np.uint8], shift: Shift) -> NDArray[np.uint8]:
    """uint8 [h, w, ...] moved and enlarged around the frame's middle."""
    if shift == UNMOVED:
        return pixels
    height, width = pixels.shape[:2]
    around = ((height // 2,) * 2, (width // 2,) * 2, *((0, 0),) * (pixels.ndim - 2))
    wide = Image.fromarray(np.pad(pixels, around, mode="symmetric"))
    shown_h, shown_w = height / shift.enlargement, width / shift.enlargement
    # The frame looks at where its content comes from: up when the content moves down.
    top = wide.height / 2 - shift.down * height - shown_h / 2
    left = wide.width / 2 - shift.right * width - shown_w / 2
    box = (left, top, left + shown_w, top + shown_h)
    return np.array(wide.resize((width, height), Image.Resampling.BICUBIC, box=box), np.uint8)
