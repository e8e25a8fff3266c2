from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFile

from trainer.data.images import EXTENSIONS, is_picture, read_picture, read_size
from trainer.errors import BadInput

HEIGHT, WIDTH = 32, 48
LOSSLESS = [".png", ".tif", ".bmp", ".webp", ".pcx"]


def corners(height: int = HEIGHT, width: int = WIDTH) -> NDArray[np.uint8]:
    """Red, green, blue and yellow quarters: every rotation and mirroring looks different."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2] = 255, 0, 0
    pixels[: height // 2, width // 2 :] = 0, 255, 0
    pixels[height // 2 :, : width // 2] = 0, 0, 255
    pixels[height // 2 :, width // 2 :] = 255, 255, 0
    return pixels


def write(path: Path, image: Image.Image, **options: object) -> Path:
    if path.suffix.lower() == ".webp":
        options = {"lossless": True, "exact": True, **options}
    if path.suffix.lower() == ".ico":
        options = {"sizes": [image.size], **options}
    image.save(path, format=Image.registered_extensions()[path.suffix.lower()], **options)
    return path


def rgb_of(path: Path) -> NDArray[np.int64]:
    return np.asarray(read_picture(path).rgb).astype(np.int64)


def problem_of(path: Path) -> str:
    with pytest.raises(BadInput) as caught:
        read_picture(path)
    (problem,) = caught.value.problems
    assert problem.where == str(path)
    assert problem.cure
    return problem.what


@pytest.mark.parametrize("extension", [*EXTENSIONS, *(e.upper() for e in EXTENSIONS), ".Jpg"])
def test_every_format_in_any_letter_case(tmp_path: Path, extension: str) -> None:
    path = write(tmp_path / f"a{extension}", Image.fromarray(corners()))
    assert is_picture(path)
    assert read_size(path) == (HEIGHT, WIDTH)
    picture = read_picture(path)
    assert picture.size_px == (HEIGHT, WIDTH)
    assert picture.rgb.mode == "RGB"
    assert picture.alpha is None
    seen = np.asarray(picture.rgb).astype(int)[4:-4:8, 4:-4:8]
    assert np.abs(seen - corners()[4:-4:8, 4:-4:8]).max() <= 12  # JPEG is lossy


def test_other_names_are_no_pictures() -> None:
    assert not any(is_picture(Path(name)) for name in ("a.txt", "a.heic", "png", "a.jpg.npz"))


def stored(upright: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Pixels as a camera stores them.

    Source: EXIF 2.3, tag 0x0112, which says where the stored row 0 and column 0 are to be seen.
    """
    turned = upright.transpose(1, 0, 2)
    return {
        1: upright,  # top, left
        2: upright[:, ::-1],  # top, right
        3: upright[::-1, ::-1],  # bottom, right
        4: upright[::-1],  # bottom, left
        5: turned,  # left, top
        6: turned[::-1],  # right, top
        7: turned[::-1, ::-1],  # right, bottom
        8: turned[:, ::-1],  # left, bottom
    }[orientation]


@pytest.mark.parametrize("extension", [".jpg", ".png", ".webp", ".tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path: Path, extension: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    image = Image.fromarray(np.ascontiguousarray(stored(corners(), orientation)))
    path = write(tmp_path / f"a{extension}", image, exif=exif)
    assert read_size(path) == (HEIGHT, WIDTH)
    assert np.abs(rgb_of(path) - corners())[4:-4:8, 4:-4:8].max() <= 12


def test_exif_behind_the_pixels_of_a_png(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    image = Image.fromarray(np.ascontiguousarray(stored(corners(), 6)))
    data = write(tmp_path / "a.png", image, exif=exif).read_bytes()
    start = data.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(data[start : start + 4], "big")
    late = tmp_path / "late.png"
    late.write_bytes(data[:start] + data[end:-12] + data[start:end] + data[-12:])
    assert read_size(late) == (HEIGHT, WIDTH)
    assert (rgb_of(late) == corners()).all()


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_is_ignored(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.png", Image.fromarray(corners()), exif=b"Exif\0\0II*\0\xff\xff\xff\xff"
    )
    assert read_size(path) == (HEIGHT, WIDTH)
    assert (rgb_of(path) == corners()).all()


@pytest.mark.parametrize("extension", [*LOSSLESS, ".gif", ".jpg"])
def test_greyscale(tmp_path: Path, extension: str) -> None:
    grey = np.tile(np.arange(0, WIDTH * 5, 5, dtype=np.uint8), (HEIGHT, 1))
    path = write(tmp_path / f"a{extension}", Image.fromarray(grey))
    seen = rgb_of(path)
    assert seen.shape == (HEIGHT, WIDTH, 3)
    assert np.abs(seen - grey[..., None]).max() <= 3


def test_black_and_white(tmp_path: Path) -> None:
    bits = np.indices((HEIGHT, WIDTH)).sum(0) % 2 == 0
    for extension in (".png", ".tif", ".bmp", ".pcx", ".gif"):
        path = write(tmp_path / f"a{extension}", Image.fromarray(bits))
        assert (rgb_of(path) == bits[..., None] * 255).all()


def test_palette_without_transparency(tmp_path: Path) -> None:
    image = Image.fromarray(corners()).convert("P", palette=Image.Palette.ADAPTIVE, colors=4)
    for extension in (".png", ".gif", ".bmp", ".tif", ".pcx"):
        path = write(tmp_path / f"a{extension}", image)
        assert np.abs(rgb_of(path) - corners()).max() <= 4


@pytest.mark.parametrize("extension", [".png", ".gif"])
def test_palette_with_transparency_is_white(tmp_path: Path, extension: str) -> None:
    image = Image.new("P", (WIDTH, HEIGHT), 0)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.paste(1, (0, 0, 10, HEIGHT))
    path = write(tmp_path / f"a{extension}", image, transparency=0)
    picture = read_picture(path)
    assert picture.rgb.getpixel((0, 0)) == (200, 100, 50)
    assert picture.rgb.getpixel((20, 0)) == (255, 255, 255)
    assert picture.alpha is not None
    assert picture.alpha.getpixel((0, 0)) == 255
    assert picture.alpha.getpixel((20, 0)) == 0


@pytest.mark.parametrize("extension", [".png", ".webp", ".tif", ".ico"])
def test_alpha_is_composited_on_white_and_kept(tmp_path: Path, extension: str) -> None:
    alpha = np.tile(np.arange(0, WIDTH * 5, 5, dtype=np.uint8), (HEIGHT, 1))
    rgba = np.dstack([corners(), alpha])
    picture = read_picture(write(tmp_path / f"a{extension}", Image.fromarray(rgba)))
    share = alpha[..., None] / 255
    expected = corners() * share + 255 * (1 - share)
    assert np.abs(np.asarray(picture.rgb) - expected).max() <= 1
    assert picture.alpha is not None
    assert (np.asarray(picture.alpha) == alpha).all()


def test_opaque_alpha_is_no_alpha(tmp_path: Path) -> None:
    image = Image.fromarray(corners()).convert("RGBA")
    picture = read_picture(write(tmp_path / "a.png", image))
    assert picture.alpha is None
    assert (np.asarray(picture.rgb) == corners()).all()


def test_greyscale_with_alpha(tmp_path: Path) -> None:
    path = write(tmp_path / "a.png", Image.new("LA", (WIDTH, HEIGHT), (100, 51)))
    # 100 * 0.2 + 255 * 0.8
    assert np.abs(rgb_of(path) - 224).max() <= 1


def test_alpha_is_turned_with_its_picture(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    rgba = np.dstack([corners(), corners()[..., 0]])
    image = Image.fromarray(np.ascontiguousarray(stored(rgba, 6)))
    picture = read_picture(write(tmp_path / "a.png", image, exif=exif))
    assert picture.alpha is not None
    assert (np.asarray(picture.alpha) == corners()[..., 0]).all()


@pytest.mark.parametrize("extension", [".png", ".tif"])
def test_16_bit_greyscale(tmp_path: Path, extension: str) -> None:
    values = np.linspace(0, 65535, HEIGHT * WIDTH).astype(np.uint16).reshape(HEIGHT, WIDTH)
    path = write(tmp_path / f"a{extension}", Image.fromarray(values))
    # 65535 is white: v / 65535 * 255
    assert np.abs(rgb_of(path) - values[..., None] / 257).max() <= 0.5


def test_32_bit_pictures_are_refused(tmp_path: Path) -> None:
    floats = write(tmp_path / "f.tif", Image.fromarray(np.ones((8, 8), np.float32)))
    assert "floating-point" in problem_of(floats)
    whole = write(tmp_path / "i.tif", Image.fromarray(np.ones((8, 8), np.int32)))
    assert "32-bit" in problem_of(whole)


@pytest.mark.parametrize("extension", [".jpg", ".tif"])
def test_cmyk(tmp_path: Path, extension: str) -> None:
    # no cyan, full magenta and yellow: red
    image = Image.new("CMYK", (WIDTH, HEIGHT), (0, 255, 255, 0))
    path = write(tmp_path / f"a{extension}", image)
    assert np.abs(rgb_of(path) - np.array([255, 0, 0])).max() <= 12


@pytest.mark.parametrize("extension", [".gif", ".webp", ".png", ".tif"])
def test_first_frame_of_an_animation(tmp_path: Path, extension: str) -> None:
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    first, *others = (Image.new("RGB", (WIDTH, HEIGHT), colour) for colour in colours)
    path = write(tmp_path / f"a{extension}", first, save_all=True, append_images=others)
    assert read_size(path) == (HEIGHT, WIDTH)
    assert np.abs(rgb_of(path) - np.array([255, 0, 0])).max() <= 1


def noise(path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    return write(path, Image.fromarray(pixels))


@pytest.mark.parametrize("host_flag", [False, True])
@pytest.mark.parametrize("extension", EXTENSIONS)
def test_truncated_file(
    tmp_path: Path, extension: str, host_flag: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = noise(tmp_path / f"a{extension}")
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", host_flag)
    assert problem_of(path)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is host_flag


@pytest.mark.parametrize("extension", [".jpg", ".png", ".bmp"])
def test_size_needs_the_header_only(tmp_path: Path, extension: str) -> None:
    path = noise(tmp_path / f"a{extension}")
    path.write_bytes(path.read_bytes()[:1000])
    assert read_size(path) == (64, 64)


def test_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.touch()
    assert "0 bytes" in problem_of(path)


def test_no_picture(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_text("this is a text that calls itself a picture" * 20)
    assert "not a picture" in problem_of(path)
    with pytest.raises(BadInput, match=r"a\.jpg"):
        read_size(path)


def test_vanished_file(tmp_path: Path) -> None:
    assert "does not exist" in problem_of(tmp_path / "a.jpg")


def test_content_decides_not_the_name(tmp_path: Path) -> None:
    path = write(tmp_path / "a.png", Image.fromarray(corners()))
    assert (rgb_of(path.rename(tmp_path / "a.jpg")) == corners()).all()


def test_programs_are_never_started(tmp_path: Path) -> None:
    # Pillow hands PostScript to Ghostscript
    path = tmp_path / "a.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n")
    assert "not a picture" in problem_of(path)


def test_decompression_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = noise(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert "too many pixels" in problem_of(path)


def png16(path: Path, colour_type: int, samples: NDArray[np.uint16], extra: bytes = b"") -> Path:
    """A 16-bit PNG written by hand.  Source: PNG specification (ISO 15948), 11.2 and 9.2."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    height, width = samples.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    head = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + (chunk(b"tRNS", extra) if extra else b"")
    path.write_bytes(head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))
    return path


def test_16_bit_colour_with_alpha(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).integers(0, 65535, (8, 8, 4)).astype(np.uint16)
    colour = rgb_of(png16(tmp_path / "rgb.png", 2, samples[..., :3]))
    assert np.abs(colour - samples[..., :3] / 257).max() <= 1
    share = samples[..., 3:] / 65535
    on_white = samples[..., :3] / 257 * share + 255 * (1 - share)
    assert np.abs(rgb_of(png16(tmp_path / "rgba.png", 6, samples)) - on_white).max() <= 2


def test_16_bit_greyscale_with_a_clear_value(tmp_path: Path) -> None:
    samples = np.array([[0, 1000, 30000], [1000, 65535, 1001]], np.uint16)
    picture = read_picture(png16(tmp_path / "a.png", 0, samples, struct.pack(">H", 1000)))
    assert picture.alpha is not None
    assert np.asarray(picture.alpha).tolist() == [[255, 0, 255], [0, 255, 255]]
    # 30000 / 257 = 116.7; 1001 / 257 = 3.9
    assert np.asarray(picture.rgb)[..., 0].tolist() == [[0, 255, 117], [255, 255, 4]]
