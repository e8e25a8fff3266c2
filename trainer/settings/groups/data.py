"""Parameters of the pictures and their captions.

Three groups that build on each other, because not every method uses all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..fields import parameter


@dataclass(frozen=True, kw_only=True)
class SizeSettings:
    """The size that is trained at."""

    image_size_px: tuple[int, int] = parameter(
        (512, 512),
        minimum=64,
        maximum=8192,
        multiple_of=8,
        unit="px",
        help="Size that pictures are trained at: one number for a square, or height,width such as"
        " 768,512. 512 for SD1, 768 for SD2, 1024 for SDXL; multiples of 64 suit every model best."
        " Larger takes more memory and time.",
        aliases=("image_size", "resolution"),
        section="how",
    )


@dataclass(frozen=True, kw_only=True)
class PictureSettings(SizeSettings):
    """How pictures are cut, and what they are called."""

    trigger_word: str = parameter(
        "",
        help="Word that is put before every caption and calls the concept later. Take one that the"
        " model does not know yet, such as 'ohwx', so that nothing is overwritten.",
        aliases=("lora_trigger_word", "class_tokens"),
        section="what",
    )
    bucket_step_px: int = parameter(
        256,
        minimum=0,
        maximum=2048,
        multiple_of=8,
        unit="px",
        help="Pictures of other shapes go into frames whose sides are multiples of this. Smaller"
        " steps crop less of each picture but make more frames, and so more batches that are not"
        " full. 64 to 256; 0 crops every picture to the image size.",
        aliases=("image_buckets_step", "bucket_reso_steps"),
    )
    min_length_px: int = parameter(
        512,
        minimum=8,
        maximum=8192,
        unit="px",
        help="Shortest side of the smaller frames, which sub images and pictures that must not be"
        " enlarged go into. Lower it, for example to half the image size, when you use either.",
        aliases=("image_min_length", "min_bucket_reso"),
    )
    max_ratio: float = parameter(
        2.0,
        minimum=1,
        maximum=16,
        help="No frame is longer than this many times its width, or wider than this many times its"
        " height. 2 covers nearly all pictures; longer ones are cropped.",
        aliases=("image_max_ratio",),
    )
    sub_images: int = parameter(
        0,
        minimum=0,
        maximum=100,
        help="Train every picture also in this many smaller frames of a similar shape, so that the"
        " concept is learnt at several sizes. 0 to 3; needs a min_length_px below the image size.",
        aliases=("sub_image_num",),
    )
    mirror: bool = parameter(
        False,
        help="Train every picture also mirrored left to right. Good for few pictures; leave it off"
        " where sides matter, such as text, a parting or an asymmetric dress.",
        aliases=("image_mirroring", "flip_aug"),
    )
    disable_upscale: bool = parameter(
        False,
        help="Never enlarge a picture: small ones are trained in a smaller frame instead of being"
        " blown up, which would teach blur.",
        aliases=("image_disable_upscale", "bucket_no_upscale"),
    )
    repeats: int = parameter(
        1,
        minimum=1,
        maximum=10_000,
        help="How often each picture comes in one epoch. It only changes what counts as an epoch,"
        " as for saves every so many epochs; the number of steps stays.",
        aliases=("image_num_multiply", "num_repeats", "dataset_repeats"),
    )
    unreadable: str = parameter(
        "stop",
        choices=("stop", "skip"),
        help="What to do about a picture or caption that cannot be read. stop: say which and why"
        " before training starts. skip: leave it out and write its name into the log.",
    )


@dataclass(frozen=True, kw_only=True)
class DataSettings(PictureSettings):
    """The pictures that are learnt from."""

    images: str = parameter(
        title="Images folder",
        help="Folder with the pictures; subfolders count too. A caption is a .txt (or .caption)"
        " file of the same name beside the picture. 10 to 40 varied, sharp pictures do better than"
        " hundreds of similar ones.",
        cure="give the folder that holds the pictures",
        aliases=("lora_data_directory", "train_data_dir", "image_dir"),
        picks="folder",
    )
    filename_as_tag: bool = parameter(
        False,
        help="Use the pictures' file names as their captions, and read no caption files.",
        aliases=("image_use_filename_as_tag",),
    )
