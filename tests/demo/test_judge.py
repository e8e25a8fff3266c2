"""The judge on drawn pictures, whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageFilter

from trainer.demo import judge
from trainer.demo.world import COLOURS, NOVEL_SHAPES, SHAPES, Scene, draw, random_scene


@pytest.mark.parametrize("size_px", [(64, 64), (64, 96), (96, 64), (128, 128)])
def test_reads_at_least_99_of_100_drawn_pictures(size_px):
    rng = np.random.default_rng(11)
    scenes = [random_scene(rng, SHAPES + NOVEL_SHAPES) for _ in range(300)]
    right = sum(judge.read(draw(s, *size_px, rng)).shows_all(s) for s in scenes)
    assert right >= 297


def test_reads_blurred_and_noisy_pictures_too():
    rng = np.random.default_rng(12)
    scenes = [random_scene(rng) for _ in range(300)]
    right = 0
    for scene in scenes:
        picture = draw(scene, 64, 64, rng).filter(ImageFilter.GaussianBlur(0.8))
        noisy = np.asarray(picture, float) + rng.normal(0, 6, (64, 64, 3))
        noisy_picture = Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))
        right += judge.read(noisy_picture).shows(scene)
    assert right >= 285


@pytest.mark.parametrize("colour", COLOURS)
def test_an_empty_picture_shows_no_shape(colour):
    reading = judge.read(Image.new("RGB", (64, 64), COLOURS[colour]))
    assert reading.background == colour
    assert reading.shape == reading.colour == judge.UNKNOWN


def test_noise_is_no_shape():
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert judge.read(Image.fromarray(pixels)).shape == judge.UNKNOWN


def test_an_odd_colour_is_unknown():
    picture = np.full((64, 64, 3), COLOURS["white"], np.uint8)
    picture[20:44, 20:44] = (0, 255, 200)
    reading = judge.read(Image.fromarray(picture))
    assert (reading.shape, reading.colour) == ("square", judge.UNKNOWN)


def test_stripes_are_measured_on_a_scale():
    """Between a plain and a striped picture, mixtures must lie in order."""
    plain, striped = (
        np.asarray(draw(Scene("square", "red", "white", striped=s)), float) for s in (False, True)
    )
    measured = [
        judge.read(Image.fromarray(((1 - t) * plain + t * striped).astype(np.uint8))).stripes
        for t in (0.0, 0.25, 0.5, 0.75, 1.0)
    ]
    assert measured == sorted(measured)
    assert measured[0] < 0 < measured[-1]
