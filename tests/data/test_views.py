from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from trainer.data.folder import TrainingImage
from trainer.data.images import read_picture
from trainer.data.views import (
    Shift,
    View,
    cut_all,
    load_alpha,
    load_pixels,
    source_box,
    to_tensor,
    views,
)
from trainer.errors import BadInput
from trainer.settings.groups import DataSettings

MANUAL = {"image_size_px": (768, 512), "bucket_step_px": 128, "min_length_px": 256}


def settings(**values: object) -> DataSettings:
    return DataSettings(images="unused", **{**MANUAL, **values})  # type: ignore[arg-type]


def image(size_px: tuple[int, int], name: str = "a.png") -> TrainingImage:
    return TrainingImage(Path(name), "a caption", size_px)


def saved(path: Path, pixels: NDArray[np.uint8]) -> TrainingImage:
    Image.fromarray(pixels).save(path)
    return TrainingImage(path, "", pixels.shape[:2])


def noise(height: int, width: int, channels: int = 3) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), np.uint8)


def test_three_sub_images_and_mirroring_make_eight_of_one() -> None:
    # TrainTrain's manual, "Image Resizing & Mirroring"
    found = views([image((960, 1280))], settings(sub_images=3, mirror=True))
    assert len(found) == len(set(found)) == 8
    expected = {(512, 640), (384, 640), (256, 384), (384, 512)}
    for mirrored in (False, True):
        assert {view.frame_px for view in found if view.mirrored is mirrored} == expected
    assert found[0] == View(image((960, 1280)), (512, 640), False)


def test_repeats_multiply() -> None:
    images = [image((512, 768), "a.png"), image((768, 512), "b.png")]
    once = views(images, settings(mirror=True))
    assert [view.image.path.name for view in once] == ["a.png", "a.png", "b.png", "b.png"]
    assert views(images, settings(mirror=True, repeats=3)) == once * 3


def test_disable_upscale() -> None:
    small = [image((500, 500))]
    assert [v.frame_px for v in views(small, settings())] == [(512, 512)]
    assert [v.frame_px for v in views(small, settings(disable_upscale=True))] == [(384, 384)]


def test_every_misfit_is_named() -> None:
    with pytest.raises(BadInput) as caught:
        views([image((8, 8), "a.png"), image((512, 512)), image((50, 900), "b.png")], settings())
    assert [problem.where for problem in caught.value.problems] == ["a.png", "b.png"]


@pytest.mark.parametrize(
    ("size_px", "frame_px", "box"),
    [
        # left, top, right, bottom
        ((512, 512), (512, 512), (0, 0, 512, 512)),
        ((1000, 600), (512, 512), (0, 200, 600, 800)),
        ((600, 1000), (512, 512), (200, 0, 800, 600)),
        ((300, 300), (384, 768), (0, 75, 300, 225)),
    ],
)
def test_source_box_is_the_largest_centred_part(
    size_px: tuple[int, int], frame_px: tuple[int, int], box: tuple[float, ...]
) -> None:
    assert source_box(size_px, frame_px) == pytest.approx(box)


def test_source_box_stays_inside_and_has_the_shape_of_the_frame() -> None:
    draw = np.random.default_rng(0)
    for height, width, rows, columns in draw.integers(1, 3000, (2000, 4)).tolist():
        left, top, right, bottom = source_box((height, width), (rows, columns))
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        assert (bottom - top) / (right - left) == pytest.approx(rows / columns)


def test_pixels_of_a_picture_of_the_right_size_are_its_own(tmp_path: Path) -> None:
    pixels = noise(64, 96)
    found = load_pixels(View(saved(tmp_path / "a.png", pixels), (64, 96)))
    assert found.shape == (3, 64, 96)
    assert found.dtype == torch.float32
    expected = torch.from_numpy(pixels).permute(2, 0, 1) / 127.5 - 1
    assert torch.equal(found, expected)


def test_range_is_minus_one_to_one() -> None:
    assert to_tensor(np.array([[[0, 255, 51]]], np.uint8)).flatten().tolist() == pytest.approx(
        [-1.0, 1.0, -0.6]
    )


def test_crop_is_centred(tmp_path: Path) -> None:
    pixels = noise(64, 96)
    found = load_pixels(View(saved(tmp_path / "a.png", pixels), (64, 64)))
    assert torch.equal(found, to_tensor(pixels[:, 16:80]))


def test_enlarging_is_lanczos(tmp_path: Path) -> None:
    pixels = noise(32, 32) // 4 + 96  # of low contrast, because overshoot would be clipped
    found = load_pixels(View(saved(tmp_path / "a.png", pixels), (64, 64)))
    # sinc(x) sinc(x/3) for |x| < 3, normalised, along each axis
    positions = (np.arange(64) + 0.5) / 2 - 0.5
    offsets = positions[:, None] - np.arange(32)
    weights = np.where(np.abs(offsets) < 3, np.sinc(offsets) * np.sinc(offsets / 3), 0)
    weights /= weights.sum(1, keepdims=True)
    expected = np.einsum("yh,hwc,xw->yxc", weights, pixels.astype(float), weights)
    assert np.abs((found.permute(1, 2, 0).numpy() + 1) * 127.5 - expected)[8:-8, 8:-8].max() < 2


def test_shrinking_averages_areas(tmp_path: Path) -> None:
    smooth = np.asarray(Image.fromarray(noise(8, 8)).resize((512, 512), Image.Resampling.BICUBIC))
    found = load_pixels(View(saved(tmp_path / "a.png", smooth), (64, 64)))
    means = smooth.reshape(64, 8, 64, 8, 3).mean((1, 3))
    assert np.abs((found.permute(1, 2, 0).numpy() + 1) * 127.5 - means).max() < 3


def test_shrinking_does_not_alias(tmp_path: Path) -> None:
    # a chessboard of single pixels is grey from afar
    board = np.repeat((np.indices((600, 600)).sum(0) % 2 * 255).astype(np.uint8)[..., None], 3, 2)
    for frame in (96, 128, 200):
        found = load_pixels(View(saved(tmp_path / "a.png", board), (frame, frame)))
        assert found[:, 4:-4, 4:-4].abs().max() < 0.05


def test_mirrored_view_is_the_exact_mirror_image(tmp_path: Path) -> None:
    picture = saved(tmp_path / "a.png", noise(70, 101))
    for frame in ((64, 64), (64, 96), (128, 128)):
        plain, mirrored = load_pixels(View(picture, frame)), load_pixels(View(picture, frame, True))
        assert torch.equal(mirrored, plain.flip(-1))
        assert not torch.equal(mirrored, plain)


def test_cut_all_agrees_with_one_by_one(tmp_path: Path) -> None:
    picture = saved(tmp_path / "a.png", noise(100, 130))
    wanted = [View(picture, frame, m) for frame in ((64, 64), (64, 96)) for m in (True, False)]
    found = cut_all(read_picture(picture.path), wanted)
    for view, pixels in zip(wanted, found, strict=True):
        assert torch.equal(to_tensor(pixels), load_pixels(view))


def test_a_shift_moves_by_fractions_of_the_frame_and_reflects_what_is_missing(
    tmp_path: Path,
) -> None:
    pixels = noise(64, 96)
    picture = saved(tmp_path / "a.png", pixels)
    found = load_pixels(View(picture, (64, 96), shift=Shift(down=0.125, right=-0.25)))
    # 8 rows down: row 8 is row 0, and the rows above it run backwards; 24 columns to the left
    rows = [*range(7, -1, -1), *range(56)]
    columns = [*range(24, 96), *range(95, 71, -1)]
    assert torch.equal(found, to_tensor(pixels[rows][:, columns]))


def test_an_enlarged_view_shows_the_middle_larger(tmp_path: Path) -> None:
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[24:40, 24:40] = 255  # a quarter of the frame
    picture = saved(tmp_path / "a.png", pixels)
    views = [View(picture, (64, 64), shift=Shift(0, 0, factor)) for factor in (0.75, 1.0, 2.0)]
    lit = [float((load_pixels(view) > 0).float().mean()) for view in views]
    # at three quarters the reflected border stays black, because the square does not reach the edge
    assert lit == pytest.approx([0.75**2 / 16, 1 / 16, 1 / 4], abs=0.003)


def test_alpha_is_cut_like_the_pixels(tmp_path: Path) -> None:
    pixels = noise(64, 96, 4)
    view = View(saved(tmp_path / "a.png", pixels), (64, 64), mirrored=True)
    alpha = load_alpha(view)
    assert alpha is not None
    assert torch.equal(alpha, torch.from_numpy(pixels[:, 16:80, 3][:, ::-1].copy())[None] / 255)
    assert load_alpha(View(saved(tmp_path / "b.png", pixels[..., :3]), (64, 64))) is None


def test_greyscale_has_three_equal_channels(tmp_path: Path) -> None:
    picture = saved(tmp_path / "a.png", noise(64, 64)[..., 0])
    found = load_pixels(View(picture, (64, 64)))
    assert torch.equal(found[0], found[1]) and torch.equal(found[1], found[2])


@pytest.mark.parametrize("mirrored", [False, True])
def test_framing_tells_what_was_cut_off_the_resized_picture(mirrored):
    # 1000 x 500 covers 256 x 256 at 512 x 256: 128 rows are cut off above, and 128 below
    found = View(image((1000, 500)), (256, 256), mirrored).framing
    assert found == ((1000, 500), (128, 0), (256, 256))
    # height before width: a wide one is cut on its left
    assert View(image((500, 1000)), (256, 256), mirrored).framing.crop_top_left_px == (0, 128)
    # enlarged from 64 x 96 to 128 x 192
    assert View(image((64, 96)), (128, 128), mirrored).framing.crop_top_left_px == (0, 32)
