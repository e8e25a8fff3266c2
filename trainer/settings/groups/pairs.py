"""Parameters of pairs of pictures and of learning their difference."""

from __future__ import annotations

from dataclasses import dataclass

from ..fields import parameter
from ..values import BadValueError


def _some_strength(strength: float) -> None:
    if strength == 0:
        raise BadValueError("0 trains nothing", "use 0.25")


@dataclass(frozen=True, kw_only=True)
class PairSettings:
    """The pair of pictures whose difference is learnt."""

    original_image: str = parameter(
        multiline=True,
        help="The picture before the change; several, one a line.",
        cure="give the path of the picture before the change",
        picks="picture",
    )
    target_image: str = parameter(
        multiline=True,
        help="The same picture with the change and nothing else changed; as many as there are"
        " originals, in the same order.",
        cure="give the path of the changed picture",
        picks="picture",
    )


@dataclass(frozen=True, kw_only=True)
class SuffixSettings:
    """Which pictures of the folder belong together."""

    pair_suffix: str = parameter(
        help="What the changed picture's file name has at its end: with _after, the pair of"
        " cat.png is cat_after.png. Captions are read beside the picture before the change.",
        cure="give the ending, for example _after",
        aliases=("diff_target_name",),
    )


@dataclass(frozen=True, kw_only=True)
class MaskWeightSettings:
    """How much the places of a masked picture count."""

    mask_floor: float = parameter(
        0.1,
        minimum=0,
        maximum=1,
        help="With a mask: how much the rest of the picture counts, 0 to 1. With 0 nothing holds"
        " it in place.",
        only_with=("picture_mask", "alpha", "files"),
    )
    normalise_mask: bool = parameter(
        True,
        help="With a mask: only its proportions count, so that a small mask teaches as much as a"
        " large one. Off: a picture counts as much as its mask is large, as in sd-scripts.",
        only_with=("picture_mask", "alpha", "files"),
    )


@dataclass(frozen=True, kw_only=True)
class PictureMaskSettings(MaskWeightSettings):
    """Which part of each picture is learnt."""

    picture_mask: str = parameter(
        "none",
        choices=("none", "alpha", "files"),
        help="Learn only a part of the pictures. alpha: where they are opaque. files: where the"
        " picture of the same name in mask_folder is white. A picture without one counts wholly.",
        aliases=("masked_loss",),
    )
    mask_folder: str = parameter(
        "",
        help="For files: the folder of black and white pictures, white where it counts, named and"
        " shaped like the pictures, in the same subfolders.",
        aliases=("conditioning_data_dir",),
        picks="folder",
        only_with=("picture_mask", "files"),
    )


@dataclass(frozen=True, kw_only=True)
class MaskSettings(MaskWeightSettings):
    """How the two pictures are laid upon each other, and which part of them counts."""

    placements: int = parameter(
        1,
        minimum=1,
        maximum=1000,
        help="How often each pair is learnt from: once as it is, and then moved and enlarged a"
        " little in ever other ways, both pictures alike. 8 to 16 keep a single pair from being"
        " learnt as a pattern at one place, so that the change carries over to other pictures.",
    )
    size_mismatch: str = parameter(
        "stop",
        choices=("stop", "fit"),
        help="When the pictures of a pair differ in size. stop: name them and their sizes. fit:"
        " cut both to the same frame, which is right only if they show the same section.",
    )
    mask: str = parameter(
        "none",
        choices=("none", "drawn", "alpha", "difference"),
        help="Train only a part of the picture. drawn: where mask_image is white. alpha: where the"
        " changed picture is opaque. difference: where the pictures of the pair differ.",
        aliases=("diff_use_diff_mask",),
        section="what",
    )
    mask_image: str = parameter(
        "",
        multiline=True,
        help="For mask drawn: a black and white picture of the pictures' shape, white where it"
        " counts; one for each pair, one a line, or one for all.",
        section="what",
        picks="picture",
        only_with=("mask", "drawn"),
    )


@dataclass(frozen=True, kw_only=True)
class CopierSettings:
    """The first of the two networks, which copies the picture before the change."""

    copier_file: str = parameter(
        "",
        help="A copier saved by an earlier training of the same picture, by its path or its name in"
        " the Lora folder: the first pass is then"
        " skipped. Empty: it is trained.",
        aliases=("diff_load_1st_pass",),
        picks="lora",
    )
    save_copier: bool = parameter(
        False,
        help="Also save the copier, as <name>-copier, to try other second passes without it.",
        aliases=("diff_save_1st_pass",),
    )
    copier_only: bool = parameter(
        False,
        help="Train and save only the copier (as the result), for use as copier_file later.",
        aliases=("diff_1st_pass_only",),
    )


@dataclass(frozen=True, kw_only=True)
class DirectionSettings:
    """How the direct training of the difference goes back and forth."""

    revert: bool = parameter(
        False,
        help="Exchange the pictures of a pair: learn the way back.",
        aliases=("diff_revert_original_target",),
    )
    direction_strength: float = parameter(
        0.25,
        minimum=0.01,
        maximum=4,
        check=_some_strength,
        help="Strength at which the network is trained; it acts at strength 1 later, so 0.25"
        " multiplies what it learns by 4. Smaller is faster and coarser.",
        section="how",
    )
    alternate_ratio: float = parameter(
        1.0,
        minimum=-4,
        maximum=4,
        help="Strength of every second step, which learns the way back, as a factor of"
        " -direction_strength. 1 makes negative strengths undo the change; 0 trains one way only;"
        " below 0 the second step holds everything else as it is.",
        aliases=("diff_alt_ratio",),
        section="how",
    )
