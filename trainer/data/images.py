"""Reading one picture: any of the formats, upright, as 8-bit RGB, and its alpha.

A file is recognised by its content, never by its name, and only by the decoders named here (Pillow
knows formats that start external programs).
"""

from __future__ import annotations

import contextlib
import struct
import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFile, TiffImagePlugin, UnidentifiedImageError

from ..errors import BadInput, Problem

Size = tuple[int, int]

EXTENSIONS = (".jpg", ".jpeg", ".png", ".gif", ".tif", ".tiff", ".bmp", ".webp", ".pcx", ".ico")
"""In lower case; any letter case is read."""

EXTENSIONS_TEXT = "jpg jpeg png gif tif tiff bmp webp pcx ico"

MOST_PIXELS = 200_000_000
"""Of one picture; decoded it takes three bytes for each, and more on its way."""

_DECODERS = ("JPEG", "PNG", "GIF", "TIFF", "BMP", "WEBP", "PCX", "ICO")

_DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    EOFError,
    AssertionError,
    RuntimeError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
"""What Pillow's decoders raise at damaged files."""

_ORIENTATION_TAG = 274
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes a picture upright, by its EXIF orientation.  Source: EXIF 2.3, tag 0x0112."""

_PNG_TAIL_BYTES = 1 << 16


@dataclass(frozen=True)
class Picture:
    """A decoded picture, upright."""

    rgb: Image.Image
    """Mode RGB; where the file has alpha, composited on white."""
    alpha: Image.Image | None
    """Mode L, 255 = opaque; None where every pixel is opaque."""

    @property
    def size_px(self) -> Size:
        """(height, width)."""
        return self.rgb.height, self.rgb.width


def is_picture(path: Path) -> bool:
    """Whether the name ends like one of the formats, in any letter case."""
    return path.suffix.lower() in EXTENSIONS


def read_size(path: Path) -> Size:
    """(height, width) of a picture when upright, from the file's header alone.

    A picture that is damaged after its header is not found out here; `read_picture` does that.

    Raises:
        BadInput: one problem that names the file, the reason and the cure.
    """
    with _named_failures(path), Image.open(path, formats=_DECODERS) as image:
        _check_pixels(image)
        width, height = image.size
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            # some versions of Pillow give the size of the upright picture here, others not
            tags: Any = image.tag_v2
            width, height = int(tags[256]), int(tags[257])
        elif image.format == "PNG" and _has_late_orientation(path):
            image.load()
        if _orientation(image) >= 5:
            width, height = height, width
    return height, width


def read_picture(path: Path) -> Picture:
    """Decodes a whole picture; of an animation, its first frame.

    Raises:
        BadInput: one problem that names the file, the reason and the cure; also where the file
            ends too early.
    """
    with _named_failures(path), _whole_files_only(), Image.open(path, formats=_DECODERS) as image:
        _check_pixels(image)
        image.load()
        # Pillow turns TIFF by itself (and does not say so in every version)
        turn = None if image.format == "TIFF" else _UPRIGHT.get(_orientation(image))
        rgb, alpha = _split(image)
        if turn is not None:
            rgb = rgb.transpose(turn)
            alpha = None if alpha is None else alpha.transpose(turn)
    return Picture(rgb, alpha)


def _check_pixels(image: Image.Image) -> None:
    """Refuses a picture that would fill the memory, whatever limit the host process has set.

    Raises:
        DecompressionBombError: it does.
    """
    pixels = image.width * image.height
    if pixels > MOST_PIXELS:
        raise Image.DecompressionBombError(f"{pixels:,} of at most {MOST_PIXELS:,}")


def _orientation(image: Image.Image) -> int:
    """EXIF (or XMP) orientation, 1 to 8; 1 where there is none that can be read."""
    try:
        # the base class's, because that of PNG decodes the whole picture first
        value = Image.Image.getexif(image).get(_ORIENTATION_TAG, 1)
    except _DAMAGED:
        return 1  # the pixels may be good all the same
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _has_late_orientation(path: Path) -> bool:
    """Whether a PNG seems to say how it is turned only behind its pixels."""
    with path.open("rb") as file:
        file.seek(0, 2)
        file.seek(max(0, file.tell() - _PNG_TAIL_BYTES))
        tail = file.read()
    return b"eXIf" in tail or b"tiff:Orientation" in tail


def _split(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """RGB on white, and alpha, of any of Pillow's modes."""
    if image.mode.startswith("I") or image.mode == "F":
        return _split_deep(image)
    if image.mode == "1":
        image = image.convert("L")
    if image.mode == "La":
        image = image.convert("LA")
    if image.mode in ("RGBA", "RGBa", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return _on_white(rgba.convert("RGB"), rgba.getchannel("A"))
    return image.convert("RGB"), None


def _split_deep(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """The same for greyscale pictures of more than 8 bits."""
    # Pillow before 10.3 opens a 16-bit PNG in mode I
    if not image.mode.startswith("I;16") and image.format != "PNG":
        bits = "floating-point" if image.mode == "F" else "32-bit"
        raise ValueError(f"its {bits} pixels have no defined black and white")
    values = np.asarray(image).astype(np.int64)
    grey = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    clear = image.info.get("transparency")
    if not isinstance(clear, int):
        return grey.convert("RGB"), None
    alpha = Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8))
    return _on_white(grey.convert("RGB"), alpha)


def _on_white(rgb: Image.Image, alpha: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    if alpha.getextrema() == (255, 255):
        return rgb, None
    white = Image.new("RGB", rgb.size, (255, 255, 255))
    return Image.composite(rgb, white, alpha), alpha


@contextlib.contextmanager
def _named_failures(path: Path) -> Iterator[None]:
    """Turns a decoder's errors into one that names the file."""
    try:
        yield
    except _DAMAGED as error:
        raise BadInput([_problem(path, error)]) from error


def _problem(path: Path, error: Exception) -> Problem:
    where = str(path)
    if isinstance(error, PermissionError):
        return Problem(where, "may not be read", "give yourself the right to read the file")
    if isinstance(error, FileNotFoundError):
        return Problem(where, "does not exist any more", "put it back, or start again without it")
    if isinstance(error, Image.DecompressionBombError):
        return Problem(where, f"has too many pixels ({error})", "scale the picture down")
    if isinstance(error, UnidentifiedImageError):
        if path.exists() and path.stat().st_size == 0:
            return Problem(where, "is empty (0 bytes)", "replace or delete the file")
        what = "is damaged, or not a picture of a format that can be read"
        return Problem(where, what, f"replace it, or convert it to one of {EXTENSIONS_TEXT}")
    cure = "replace the file, or open it in an image editor and save it as an 8-bit RGB PNG"
    return Problem(where, f"cannot be decoded: {error}", cure)


_strict = threading.Lock()
_strict_depth = 0
_flag_before = False


@contextlib.contextmanager
def _whole_files_only() -> Iterator[None]:
    """Makes Pillow refuse a file that ends too early, whatever the host process has set.

    Extensions of a webui are known to set Pillow's process-wide flag, after which the missing
    part would be read as grey.  The flag is given back when the last decoding thread leaves.
    """
    global _strict_depth, _flag_before
    with _strict:
        if _strict_depth == 0:
            _flag_before = ImageFile.LOAD_TRUNCATED_IMAGES
            ImageFile.LOAD_TRUNCATED_IMAGES = False
        _strict_depth += 1
    try:
        yield
    finally:
        with _strict:
            _strict_depth -= 1
            if _strict_depth == 0:
                ImageFile.LOAD_TRUNCATED_IMAGES = _flag_before
