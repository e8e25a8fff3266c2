"""Finding the pictures of a folder, with their captions and everything that is wrong with them."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import BadInput, Problem
from ..paths import is_folder, is_there, user_path
from ..settings.groups import DataSettings
from .buckets import Frames, choose, enlargement, frames, kept_share, misfit
from .captions import caption_file, read_caption, with_trigger
from .images import EXTENSIONS_TEXT, is_picture, read_picture, read_size
from .parallel import map_in_order

logger = logging.getLogger(__name__)

Size = tuple[int, int]
NaturalKey = tuple[tuple[str | int, ...], str]

_OTHER_PICTURES = (".heic", ".heif", ".avif", ".jxl", ".jp2", ".psd", ".svg", ".tga", ".dng")
"""Pictures that are not read: passing over them is worth a word."""

_NAMED_AT_MOST = 5


@dataclass(frozen=True)
class TrainingImage:
    """A picture that can be trained on."""

    path: Path
    caption: str
    """One line, or several of which one is to be drawn; the trigger word is in front."""
    size_px: Size
    """(height, width) when upright."""
    regularises: bool = False
    """It shows what must stay as it is, not what is learnt."""
    mask: Path | None = None
    """A black and white picture of the same shape, white where it counts."""


@dataclass(frozen=True)
class FolderReport:
    """Everything that was found in a folder."""

    images: tuple[TrainingImage, ...]
    """Those without a problem, in natural order of their paths."""
    obstacles: tuple[Problem, ...]
    """Of the settings or the folder; nothing can be trained before they are gone."""
    problems: tuple[Problem, ...]
    """Of single files, which could be left out."""
    warnings: tuple[str, ...]


def scan(data: DataSettings, *, decode: bool = False) -> list[TrainingImage]:
    """The pictures of `data.images` and its subfolders, in natural order of their paths.

    Names that begin with a dot are passed over.  Warnings go to the log; so do, by name, the
    pictures that cannot be used when `data.unreadable` is "skip".

    Args:
        data: which folder, and how pictures are used.
        decode: decode every picture completely.  Otherwise only headers are read, and a picture
            that is damaged further on is found when its latents are encoded.

    Raises:
        BadInput: with all problems of the folder, those of files only if they are not skipped or
            if no picture is left.
    """
    report = inspect(data, decode=decode)
    for warning in report.warnings:
        logger.warning("%s", warning)
    skipped = data.unreadable == "skip" and bool(report.images)
    if report.obstacles or (report.problems and not skipped):
        raise BadInput(report.obstacles + report.problems)
    for problem in report.problems:
        logger.warning("Left out: %s", problem)
    return list(report.images)


def inspect(
    data: DataSettings, *, decode: bool = False, where: str = "images", lines: bool = False
) -> FolderReport:
    """What `scan` finds, as a report instead of an exception and lines in a log.

    Args:
        where: the parameter that named the folder.
        lines: captions keep their lines, one of which is to be drawn each time.
    """
    obstacles: list[Problem] = []
    sizes = _frames(data, obstacles)
    files = _files(data.images, obstacles, where)
    pictures = [path for path in files if is_picture(path)]
    base_names = _by_base_name(files)

    def look(path: Path) -> TrainingImage | tuple[Problem, ...]:
        return _look(path, base_names[path.with_suffix("")], data, sizes, decode, lines)

    images: list[TrainingImage] = []
    problems: list[Problem] = []
    for found in map_in_order(look, pictures):
        if isinstance(found, TrainingImage):
            images.append(found)
        else:
            problems += found
    warnings = [*_passed_over(files), *_shared_base_names(pictures)]
    if sizes is not None:
        warnings += _poor_fits(images, data, sizes)
    return FolderReport(tuple(images), tuple(obstacles), tuple(problems), tuple(warnings))


def natural_key(path: Path) -> tuple[NaturalKey, ...]:
    """Sorts 2.png before 10.png, letter case aside; the same on every system."""
    return tuple(
        (tuple(int(run) if run.isdecimal() else run for run in _runs(part.casefold())), part)
        for part in path.parts
    )


def _runs(text: str) -> list[str]:
    """Text and digits in turn, beginning with text, so that like is compared with like."""
    return re.split(r"(\d+)", text)


def _frames(data: DataSettings, obstacles: list[Problem]) -> Frames | None:
    """The frames of the settings; None, with the reason in `obstacles`, if there are none."""
    try:
        found = frames(data.image_size_px, data.bucket_step_px, data.min_length_px, data.max_ratio)
    except BadInput as error:
        obstacles += error.problems
        return None
    if data.sub_images and not found.smaller:
        what = f"asks for {data.sub_images} smaller frames of each picture, but there are none"
        below = f"set min_length_px (now {data.min_length_px}) below the image size"
        obstacles.append(Problem("sub_images", what, f"{below}, or sub_images to 0"))
    return found


def _files(text: str, obstacles: list[Problem], where: str) -> list[Path]:
    """All visible files below a folder in natural order; empty, with a reason, without pictures."""
    folder = user_path(text)
    if not text.strip(' "'):
        cure = "name the folder that holds the pictures"
        obstacles.append(Problem(where, "names no folder", cure))
        return []
    if not is_folder(folder):
        missing = not is_there(folder)
        what = f"the folder {folder} does not exist" if missing else f"{folder} is not a folder"
        cure = "check its spelling" if missing else f"name the folder it is in: {folder.parent}"
        obstacles.append(Problem(where, what, cure))
        return []
    files = sorted(_walk(folder, obstacles), key=lambda path: natural_key(path.relative_to(folder)))
    if any(is_picture(path) for path in files):
        return files
    but = "".join(f"; {text}" for text in _passed_over(files))
    what = f"the folder {folder} holds no picture{but}"
    cure = f"put pictures there; the formats read are {EXTENSIONS_TEXT}"
    obstacles.append(Problem(where, what, cure))
    return []


def _walk(folder: Path, obstacles: list[Problem]) -> Iterator[Path]:
    """Files below a folder in any order; linked folders are followed, each once."""

    def note(error: OSError) -> None:
        what = f"the folder cannot be read: {error.strerror or error}"
        obstacles.append(Problem(str(error.filename), what, "check its access rights"))

    seen = set()
    for here, folders, names in os.walk(folder, onerror=note, followlinks=True):
        real = Path(here).resolve()
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(here, name) for name in names if not name.startswith("."))


def _by_base_name(files: Sequence[Path]) -> dict[Path, dict[str, Path]]:
    """For every path without extension the files that share it, by extension in lower case."""
    found: dict[Path, dict[str, Path]] = defaultdict(dict)
    for path in files:
        found[path.with_suffix("")].setdefault(path.suffix.lower(), path)
    return found


def _look(
    path: Path,
    siblings: Mapping[str, Path],
    data: DataSettings,
    sizes: Frames | None,
    decode: bool,
    lines: bool,
) -> TrainingImage | tuple[Problem, ...]:
    """One picture, or everything that is wrong with it."""
    problems: list[Problem] = []
    caption = path.stem if data.filename_as_tag else ""
    text = None if data.filename_as_tag else caption_file(siblings)
    try:
        caption = caption if text is None else read_caption(text, lines=lines)
    except BadInput as error:
        problems += error.problems
    try:
        size_px = read_picture(path).size_px if decode else read_size(path)
    except BadInput as error:
        return (*problems, *error.problems)
    if sizes is not None:
        unfit = misfit(size_px, sizes, disable_upscale=data.disable_upscale)
        problems += [] if unfit is None else [Problem(str(path), unfit.what, unfit.cure)]
    if problems:
        return tuple(problems)
    return TrainingImage(path, with_trigger(data.trigger_word, caption), size_px)


def _passed_over(files: Sequence[Path]) -> list[str]:
    """At most one line about pictures of formats that are not read."""
    others = Counter(path.suffix.lower() for path in files)
    found = ", ".join(f"{others[end]} {end[1:]}" for end in _OTHER_PICTURES if others[end])
    return [f"files of formats that are not read: {found}"] if found else []


def _shared_base_names(pictures: Sequence[Path]) -> Iterator[str]:
    sharing: dict[Path, list[Path]] = defaultdict(list)
    for path in pictures:
        sharing[path.with_suffix("")].append(path)
    for paths in sharing.values():
        if len(paths) > 1:
            names = " and ".join(path.name for path in paths)
            yield f"{names} in {paths[0].parent} share one caption file; rename all but one"


def _poor_fits(images: Sequence[TrainingImage], data: DataSettings, sizes: Frames) -> Iterator[str]:
    """What training will do to pictures that its user may not expect."""
    enlarged, cropped, lacking = [], [], []
    for image in images:
        main, *subs = choose(
            image.size_px, sizes, sub_images=data.sub_images, disable_upscale=data.disable_upscale
        )
        enlarged += [image] if enlargement(image.size_px, main) > 2 else []
        cropped += [image] if kept_share(image.size_px, main) < 0.5 else []
        lacking += [image] if len(subs) < data.sub_images else []
    if enlarged:
        yield f"enlarged more than twice, which teaches blur: {_names(enlarged)}"
    if cropped:
        yield f"cropped by more than half; captions may tell of what is cut off: {_names(cropped)}"
    if lacking:
        yield f"fewer smaller frames than the {data.sub_images} of sub_images: {_names(lacking)}"


def _names(images: Sequence[TrainingImage]) -> str:
    """The first few by name, and how many there are."""
    names = [f"{image.path} ({image.size_px[0]}x{image.size_px[1]})" for image in images]
    more = f" and {len(names) - _NAMED_AT_MOST} more" if len(names) > _NAMED_AT_MOST else ""
    return ", ".join(names[:_NAMED_AT_MOST]) + more
