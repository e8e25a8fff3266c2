"""Masks of single pictures: cut, mirrored and resized as their picture, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from trainer.data.folder import TrainingImage
from trainer.data.masks import batch_of_masks, load_masks, with_masks
from trainer.data.views import View
from trainer.errors import BadInput
from trainer.settings.groups import PictureMaskSettings

ALPHA = PictureMaskSettings(picture_mask="alpha", mask_floor=0.2)
FILES = PictureMaskSettings(picture_mask="files", mask_folder="masks")


def half_mask(height: int, width: int) -> np.ndarray:
    """White in the upper eighth of the left half."""
    mask = np.zeros((height, width), np.uint8)
    mask[: height // 8, : width // 2] = 255
    return mask


def picture(folder: Path, name: str, height: int = 128, width: int = 64) -> TrainingImage:
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((height, width, 4), np.uint8)
    pixels[..., 3] = half_mask(height, width)
    Image.fromarray(pixels).save(folder / name)
    return TrainingImage(folder / name, "", (height, width))


def mask_file(folder: Path, name: str, height: int, width: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(half_mask(height, width)).save(folder / name)
    return folder / name


@pytest.mark.parametrize("kind", ["alpha", "files"])
def test_a_mask_is_cut_resized_and_mirrored_with_its_view(tmp_path: Path, kind: str) -> None:
    image = picture(tmp_path / "a", "0.png")
    if kind == "files":  # twice as large as its picture
        mask_file(tmp_path / "m", "0.png", 256, 128)
        (image,) = with_masks([image], str(tmp_path / "a"), str(tmp_path / "m"), [])
    settings = ALPHA if kind == "alpha" else FILES
    plain, mirrored = load_masks([View(image, (64, 32)), View(image, (64, 32), True)], settings)
    wanted = torch.zeros(8, 4)
    wanted[:1, :2] = 255
    close = {"atol": 4, "rtol": 0}  # resizing lets a little cross the edge
    torch.testing.assert_close(plain[0].float(), wanted, **close)
    torch.testing.assert_close(mirrored[0].float(), wanted.flip(1), **close)  # not up and down


def test_a_mask_that_shows_nothing_of_its_frame_is_refused(tmp_path: Path) -> None:
    image = picture(tmp_path, "0.png")
    with pytest.raises(BadInput, match="selects nothing of the frame 32x32"):
        load_masks([View(image, (64, 32)), View(image, (32, 32))], ALPHA)


def test_floor_and_pictures_without_a_mask(tmp_path: Path) -> None:
    image = picture(tmp_path, "0.png")
    Image.new("RGB", (64, 128)).save(tmp_path / "1.png")
    whole = TrainingImage(tmp_path / "1.png", "", (128, 64))
    kept = TrainingImage(image.path, "", (128, 64), regularises=True)
    masks = load_masks([View(one, (64, 32)) for one in (image, whole, kept)], ALPHA)
    assert masks[1] is None
    assert masks[2] is None, "what must stay is not masked"
    latents = torch.zeros(3, 4, 8, 4)
    found = batch_of_masks(masks, latents, ALPHA)
    assert found.shape == (3, 1, 8, 4)
    assert float(found[0].min()) == pytest.approx(0.2)
    assert float(found[0].max()) == pytest.approx(1.0, abs=0.02)
    assert bool((found[1:] == 1).all())
    assert batch_of_masks(masks[1:], latents[1:], ALPHA) is None
    none = load_masks([View(image, (64, 32))], PictureMaskSettings())
    assert none == (None,)


def test_masks_are_found_by_name_and_bad_ones_named(tmp_path: Path) -> None:
    base, masks = tmp_path / "a", tmp_path / "m"
    images = [picture(base / "sub", "0.png"), picture(base, "1.png"), picture(base, "2.png")]
    mask_file(masks / "sub", "0.bmp", 128, 64)
    mask_file(masks, "1.png", 129, 64)
    warnings: list[str] = []
    found = with_masks(images, str(base), str(masks), warnings)
    assert [None if one.mask is None else one.mask.name for one in found] == [
        "0.bmp",
        "1.png",
        None,
    ]
    assert warnings == ["without a mask, so that the whole picture counts: 2.png"]
    mask_file(masks, "2.png", 64, 128)
    with pytest.raises(BadInput, match="has the shape 64x128 px, and 2.png 128x64"):
        with_masks(images, str(base), str(masks), [])
    for wrong, why in (
        (tmp_path / "none", "does not exist"),
        (base, "masks would be learnt"),
        (base / "sub", "masks would be learnt"),
        (tmp_path / "empty", "no picture of the same name"),
    ):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(BadInput, match=why):
            with_masks(images, str(base), str(wrong), [])
