"""Pairs of pictures: the same picture before and after a change, and which part of it counts."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from torch import Tensor
from torch.nn import functional

from ..errors import BadInput, Problem
from ..paths import is_file, user_path
from ..settings.checks import picture_lines
from ..settings.groups import DirectionSettings, MaskSettings, PairSettings, PictureSettings
from .buckets import LATENT_CELL_PX
from .captions import with_trigger
from .folder import TrainingImage
from .images import read_size
from .masks import cells_of_file, mean_of_cells
from .views import UNMOVED, Shift, View, load_alpha, load_pixels, views

FARTHEST, LARGEST = 1 / 8, 1.25
"""How far a pair is moved at most, in frames, and how much it is enlarged or made smaller."""
DIFFERENT = 0.1
"""Places of a pair that differ by this much (of the whole range) count as different."""


@dataclass(frozen=True)
class Pair:
    """A picture before and after the change."""

    original: TrainingImage
    target: TrainingImage
    drawn_mask: Path | None = None
    captions: tuple[str, ...] = ()
    """Under which it is learnt in turn; empty: under the original's own."""


@dataclass(frozen=True)
class PairView:
    """The same part of both pictures of a pair, in the same frame."""

    original: View
    target: View
    drawn_mask: Path | None = None

    @property
    def unmoved(self) -> PairView:
        """The pair as it is, under the same caption."""
        before, after = (replace(one, shift=UNMOVED) for one in (self.original, self.target))
        return PairView(before, after, self.drawn_mask)


def named_pairs(
    pair: PairSettings, pictures: PictureSettings, masks: MaskSettings, prompts: Sequence[str]
) -> list[Pair]:
    """The pairs that two fields name, each under all prompts in turn.

    Raises:
        BadInput: with every file that cannot be read and every pair that does not fit.
    """
    problems: list[Problem] = []
    captions = tuple(with_trigger(pictures.trigger_word, prompt) for prompt in prompts)
    originals, targets = (
        [_image(where, line, captions[0], problems) for line in picture_lines(text)]
        for where, text in (
            ("original_image", pair.original_image),
            ("target_image", pair.target_image),
        )
    )
    if problems:
        raise BadInput(problems)
    found = [
        Pair(a, b, captions=captions) for a, b in zip(originals, targets, strict=True) if a and b
    ]
    return _checked(found, masks)


def folder_pairs(
    images: Sequence[TrainingImage], suffix: str, folder: str, masks: MaskSettings
) -> list[Pair]:
    """The pairs of a folder: `name.ext` and `name{suffix}.ext`, under the former's caption.

    Raises:
        BadInput: with every picture that has no other half, and every pair that does not fit.
    """
    by_name = {(image.path.parent, image.path.stem): image for image in images}
    changed = {
        key: image
        for key, image in by_name.items()
        if key[1].endswith(suffix) and (key[0], key[1][: -len(suffix)]) in by_name
    }
    if not changed:
        what = f"{suffix!r} matches no pair in {folder}"
        example = images[0].path if images else Path("cat.png")
        cure = f"name the changed picture of {example.name} {example.stem}{suffix}{example.suffix}"
        raise BadInput([Problem("pair_suffix", what, cure)])
    pairs, problems = [], []
    for key, image in by_name.items():
        if key in changed:
            continue
        target = changed.get((key[0], key[1] + suffix))
        if target is not None:
            pairs.append(Pair(image, target))
        elif key[1].endswith(suffix):
            before = key[1][: -len(suffix)]
            what = f"is a changed picture, but the one before the change, {before}, is missing"
            problems.append(Problem(str(image.path), what, "add it, or take this one away"))
        else:
            what = f"has no changed picture {key[1]}{suffix} beside it"
            problems.append(Problem(str(image.path), what, "add it, or take this one away"))
    if problems:
        raise BadInput(problems)
    return _checked(pairs, masks)


def reverted(pairs: Sequence[Pair], direction: DirectionSettings) -> list[Pair]:
    """The pairs, the other way round if the settings say so; captions stay with the pair."""
    if not direction.revert:
        return list(pairs)
    return [
        Pair(
            TrainingImage(pair.target.path, pair.original.caption, pair.target.size_px),
            pair.original,
            pair.drawn_mask,
            pair.captions,
        )
        for pair in pairs
    ]


def pair_views(
    pairs: Sequence[Pair], pictures: PictureSettings, placements: int = 1
) -> list[PairView]:
    """The training samples of an epoch; frames follow from the picture before the change.

    Args:
        placements: how often each comes: as it is, and then moved and enlarged in ever other
            ways, both pictures of the pair alike; at least as often as it has captions.

    Raises:
        BadInput: with every picture that fits no frame, and bad settings of the frames.
    """
    views(list(dict.fromkeys(pair.original for pair in pairs)), pictures)  # names all misfits
    once = replace(pictures, repeats=1)
    found = []
    for pair in pairs:  # of which several may begin with the same picture
        captions = pair.captions or (pair.original.caption,)
        shifts = _shifts(max(placements, len(captions)))
        for view, (number, shift) in product(views([pair.original], once), enumerate(shifts)):
            image = replace(pair.original, caption=captions[number % len(captions)])
            before = replace(view, image=image, shift=shift)
            target = replace(before, image=pair.target)
            found.append(PairView(before, target, pair.drawn_mask))
    return found * pictures.repeats


def _shifts(count: int) -> list[Shift]:
    """The first leaves all as it is; the others are the same in every training."""
    draw = random.Random(0)
    found = [UNMOVED]
    while len(found) < count:
        down, right, size = (draw.uniform(-1, 1) for _ in range(3))
        found.append(Shift(down * FARTHEST, right * FARTHEST, LARGEST**size))
    return found


def masked(view: PairView, settings: MaskSettings) -> tuple[PairView, Tensor | None]:
    """A pair, and how much each of its latent cells counts.

    Where moving it takes all that counts out of the frame, the pair as it is stands in.

    Returns:
        The pair, and float32 [1, h/8, w/8] from the floor to 1, or None where all counts alike.

    Raises:
        BadInput: a file cannot be decoded, or the mask selects nothing.
    """
    cells = _masked_cells(view, settings)
    if cells is None:
        return view, None
    if float(cells.max()) > 0:
        return view, settings.mask_floor + (1 - settings.mask_floor) * cells
    if view.original.shift != UNMOVED:
        return masked(view.unmoved, settings)
    cure = "choose another mask"
    raise BadInput([Problem(str(view.target.image.path), "its mask selects nothing", cure)])


def _masked_cells(view: PairView, settings: MaskSettings) -> Tensor | None:
    """Float32 [1, h/8, w/8], how much of each latent cell the mask selects; None without one."""
    if settings.mask == "none":
        return None
    if settings.mask == "drawn":
        assert view.drawn_mask is not None  # the plan has checked that there is one
        return cells_of_file(view.drawn_mask, view.original)
    if settings.mask == "alpha":
        opaque = load_alpha(view.target)
        opaque = load_alpha(view.original) if opaque is None else opaque
        if opaque is None:
            what = "has no transparent part, and neither has the picture before the change"
            cure = "save it as PNG with alpha, or choose another mask"
            raise BadInput([Problem(str(view.target.image.path), what, cure)])
        return mean_of_cells(opaque)
    apart = (load_pixels(view.original) - load_pixels(view.target)).abs().amax(0, keepdim=True)
    different = (apart / 2 > DIFFERENT).float()
    # A cell that holds one different pixel counts, and so do its neighbours.
    cells = functional.max_pool2d(different[None], LATENT_CELL_PX)
    return functional.max_pool2d(cells, 3, stride=1, padding=1)[0]


def _image(where: str, line: str, caption: str, problems: list[Problem]) -> TrainingImage | None:
    path = user_path(line)
    if not is_file(path):
        problems.append(Problem(where, f"there is no picture {path}", "check the path"))
        return None
    try:
        return TrainingImage(path, caption, read_size(path))
    except BadInput as error:
        problems += error.problems
        return None


def _checked(pairs: list[Pair], masks: MaskSettings) -> list[Pair]:
    """The pairs with their masks, if everything fits."""
    problems = [*_mismatches(pairs, masks)]
    files = [user_path(line) for line in picture_lines(masks.mask_image)]
    if files and len(files) not in (1, len(pairs)):
        what = f"names {len(files)} masks for {len(pairs)} pairs"
        problems.append(Problem("mask_image", what, "give one for each, or one for all"))
    problems += [
        Problem("mask_image", f"there is no picture {file}", "check the path")
        for file in files
        if not is_file(file)
    ]
    if problems:
        raise BadInput(problems)
    if not files:
        return pairs
    return [
        replace(pair, drawn_mask=files[number % len(files)]) for number, pair in enumerate(pairs)
    ]


def _mismatches(pairs: Sequence[Pair], masks: MaskSettings) -> Iterator[Problem]:
    for pair in pairs:
        before, after = pair.original.size_px, pair.target.size_px
        if before != after and masks.size_mismatch == "stop":
            what = (
                f"is {after[0]}x{after[1]} px (height x width), but {pair.original.path.name},"
                f" the picture before the change, is {before[0]}x{before[1]} px"
            )
            cure = "save both in the same size, or set size_mismatch to fit"
            yield Problem(str(pair.target.path), what, cure)
