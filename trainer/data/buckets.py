"""Frames: the sizes that pictures are cut to, and which frame a picture takes.

Pictures of one batch share one size, so every picture goes into the frame whose aspect ratio is
nearest to its own.  *Normal* frames use most of the pixels that the image size allows; *smaller*
ones serve sub images and pictures that must not be enlarged.

Source of the rule: TrainTrain's manual, whose lists for 768,512 at steps of 256 and 128 and at a
minimum length of 256 it reproduces (tests/data/test_buckets.py).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from typing import NamedTuple

from ..errors import BadInput, Problem

Size = tuple[int, int]
"""Height and width in pixels."""

LATENT_CELL_PX = 8
"""Pixels along one side of a latent cell; frames are multiples of it."""

LEAST_KEPT = 0.25
"""A picture of which less than this share would be left after cropping fits no frame."""

MOST_ENLARGED = 8.0
"""One pixel would fill a whole latent cell: beyond this a picture fits no frame."""


class Frames(NamedTuple):
    """Both lists are sorted by height / width; of equal ratios the larger frame comes first."""

    normal: tuple[Size, ...]
    smaller: tuple[Size, ...]


class Misfit(NamedTuple):
    """Why a picture fits no frame, and what to do."""

    what: str
    cure: str


def frames(image_size_px: Size, step_px: int, min_length_px: int, max_ratio: float) -> Frames:
    """Frames for an image size.

    Normal frames: the image size, upright and lying; and on the grid of `step_px`, for every
    height the widest frame (and for every width the highest) that has no more pixels than the
    image size, more than half as many, and no ratio above `max_ratio`; and the largest square.
    Of equal shapes only the largest is normal.

    Smaller frames: all others on the grid with no more pixels than the image size, no side below
    `min_length_px` and no ratio above `max_ratio`.

    Args:
        image_size_px: (height, width); multiples of 8. It is a frame whatever `max_ratio` says.
        step_px: grid of the sides, a multiple of 8; 0 makes the image size the only frame.
        min_length_px: shortest side of the smaller frames. Normal frames do not depend on it.
        max_ratio: longest long side / short side, at least 1.

    Raises:
        BadInput: with every value that is out of range.
    """
    _check(image_size_px, step_px, min_length_px, max_ratio)
    if step_px == 0:
        return Frames((image_size_px,), ())
    budget_px = image_size_px[0] * image_size_px[1]
    grid = _grid(budget_px, step_px, max_ratio)
    longest = {size for size in grid if _is_longest(size, grid, step_px)}
    square_px = math.isqrt(budget_px) // step_px * step_px
    normal = {size for size in longest if 2 * size[0] * size[1] > budget_px}
    normal |= {image_size_px, image_size_px[::-1]}
    normal |= {(square_px, square_px)} if square_px else set()
    normal = _largest_of_each_shape(normal)
    smaller = {size for size in grid - normal if min(size) >= min_length_px}
    return Frames(_by_ratio(normal), _by_ratio(smaller))


def choose(
    size_px: Size, frames: Frames, *, sub_images: int = 0, disable_upscale: bool = False
) -> tuple[Size, ...]:
    """The frame of a picture, followed by those of its sub images.

    The main frame is the normal one of the nearest aspect ratio, distances being measured between
    logarithms: those grow alike with what is cropped of a wide and of a high picture.  Of equal
    distances the largest frame wins.  Sub images take the next-nearest of the smaller frames;
    there may be fewer of them than asked for.

    Args:
        size_px: (height, width) of a picture that `misfit` has nothing against.
        frames: what there is to choose from.
        sub_images: how many smaller frames to add.
        disable_upscale: only frames that the picture fills without being enlarged; a smaller
            frame where it fills no normal one.
    """
    normal, smaller = frames.normal, frames.smaller
    if disable_upscale:
        smaller = _filled(size_px, smaller)
        normal = _filled(size_px, normal) or smaller
    main = _nearest(size_px, normal, 1)[0]
    if sub_images == 0:
        return (main,)
    area_px = main[0] * main[1]
    below = [size for size in smaller if size[0] * size[1] < area_px]
    fitting = [size for size in below if kept_share(size_px, size) >= LEAST_KEPT]
    return (main, *_nearest(size_px, fitting, sub_images))


def misfit(size_px: Size, frames: Frames, *, disable_upscale: bool = False) -> Misfit | None:
    """Why a picture of this (height, width) can take no frame; None where it can."""
    height, width = size_px
    this = f"{height}x{width} px (height x width)"
    if disable_upscale and not _filled(size_px, frames.normal + frames.smaller):
        smallest = min(frames.normal + frames.smaller, key=lambda size: size[0] * size[1])
        what = f"{this} is too small for every frame, the smallest of which is {_text(smallest)}"
        cure = "use a larger picture, lower min_length_px, or allow enlarging (disable_upscale off)"
        return Misfit(what, cure)
    main = choose(size_px, frames, disable_upscale=disable_upscale)[0]
    if enlargement(size_px, main) > MOST_ENLARGED:
        times = f"{enlargement(size_px, main):.0f} times"
        what = f"{this} is too small: it would be enlarged {times} to fill {_text(main)}"
        return Misfit(what, "use a larger picture, or a smaller image_size_px")
    if kept_share(size_px, main) < LEAST_KEPT:
        left = f"{100 * kept_share(size_px, main):.0f} %"
        what = f"{this} is too elongated: its nearest frame, {_text(main)}, keeps only {left} of it"
        return Misfit(what, "crop the picture, raise max_ratio, or lower bucket_step_px")
    return None


def kept_share(size_px: Size, frame_px: Size) -> float:
    """Share of a picture, 0 to 1, that is left when it is cut to the shape of a frame."""
    return math.exp(-abs(_log_ratio(size_px) - _log_ratio(frame_px)))


def enlargement(size_px: Size, frame_px: Size) -> float:
    """Factor by which a picture is resized to cover a frame; above 1 it is enlarged."""
    return max(frame_px[0] / size_px[0], frame_px[1] / size_px[1])


def _check(image_size_px: Size, step_px: int, min_length_px: int, max_ratio: float) -> None:
    problems = []
    if min(image_size_px) < LATENT_CELL_PX or any(side % LATENT_CELL_PX for side in image_size_px):
        what = f"{image_size_px[0]},{image_size_px[1]} must be multiples of {LATENT_CELL_PX}"
        problems.append(Problem("image_size_px", what, "use for example 512,512 or 768,512"))
    if step_px < 0 or step_px % LATENT_CELL_PX:
        what = f"{step_px} must be a multiple of {LATENT_CELL_PX}"
        problems.append(Problem("bucket_step_px", what, "use 64, 128 or 256, or 0 for one frame"))
    if min_length_px < 1:
        problems.append(Problem("min_length_px", f"{min_length_px} must be positive", "use 256"))
    if not 1 <= max_ratio < math.inf:
        problems.append(Problem("max_ratio", f"{max_ratio} must be at least 1", "use 2"))
    if problems:
        raise BadInput(problems)


def _grid(budget_px: int, step_px: int, max_ratio: float) -> set[Size]:
    """All sizes on the grid within the budget of pixels and the ratio."""
    # a side is longest where the other is as much shorter as the ratio lets it be
    longest_px = int(math.sqrt(budget_px * max_ratio))
    sides = range(step_px, longest_px + 1, step_px)
    return {
        (height, width)
        for height in sides
        for width in range(step_px, budget_px // height + 1, step_px)
        if max(height, width) <= max_ratio * min(height, width)
    }


def _is_longest(size: Size, grid: set[Size], step_px: int) -> bool:
    """Whether the grid has nothing wider at this height, or nothing higher at this width."""
    height, width = size
    return (height, width + step_px) not in grid or (height + step_px, width) not in grid


def _largest_of_each_shape(sizes: Iterable[Size]) -> set[Size]:
    largest: dict[Size, Size] = {}
    for height, width in sorted(sizes):
        divisor = math.gcd(height, width)
        largest[height // divisor, width // divisor] = (height, width)
    return set(largest.values())


def _by_ratio(sizes: Iterable[Size]) -> tuple[Size, ...]:
    return tuple(sorted(sizes, key=lambda size: (size[0] / size[1], -size[0])))


def _filled(size_px: Size, sizes: Iterable[Size]) -> tuple[Size, ...]:
    return tuple(size for size in sizes if size[0] <= size_px[0] and size[1] <= size_px[1])


def _nearest(size_px: Size, sizes: Iterable[Size], count: int) -> list[Size]:
    own = _log_ratio(size_px)

    def rank(size: Size) -> tuple[float, int, Size]:
        # rounded, so that equal distances are equal in floating point too
        return round(abs(own - _log_ratio(size)), 9), -size[0] * size[1], size

    return sorted(sizes, key=rank)[:count]


@functools.lru_cache(maxsize=1 << 14)
def _log_ratio(size: Size) -> float:
    return math.log(size[0] / size[1])


def _text(size: Size) -> str:
    return f"{size[0]}x{size[1]}"
