from __future__ import annotations

import numpy as np
import pytest

from trainer.demo.world import (
    COLOURS,
    NOVEL_SHAPES,
    SHAPES,
    SIZES,
    Scene,
    centred_placement,
    coverage,
    draw,
    outline,
    random_caption,
    random_placement,
    random_scene,
    sentence,
    tags,
)


@pytest.mark.parametrize("shape", SHAPES + NOVEL_SHAPES)
def test_outlines_fill_the_unit_box(shape):
    points = outline(shape)
    assert np.allclose(points.min(0), -points.max(0))
    assert np.abs(points).max() == pytest.approx(1)


def test_unknown_shape_is_named():
    with pytest.raises(ValueError, match="dodecahedron"):
        outline("dodecahedron")


def test_area_of_a_square_is_its_diameter_squared():
    place = centred_placement("normal", 64, 96)
    covered = coverage(Scene("square", "red", "white"), place, 64, 96)
    assert covered.shape == (64, 96)
    assert covered.mean() == pytest.approx(place.diameter**2 * 64 / 96, rel=0.06)


def test_area_of_a_holed_circle():
    """pi r^2 less the hole of 0.3 r."""
    place = centred_placement("large", 128, 128)
    radius = place.diameter / 2
    covered = coverage(Scene("circle", "red", "white", holed=True), place, 128, 128)
    assert covered.mean() == pytest.approx(np.pi * radius**2 * (1 - 0.3**2), rel=0.03)


def test_stripes_take_two_fifths_of_a_square():
    place = centred_placement("large", 128, 128)
    whole = coverage(Scene("square", "red", "white"), place, 128, 128).sum()
    striped = coverage(Scene("square", "red", "white", striped=True), place, 128, 128).sum()
    assert striped / whole == pytest.approx(3 / 5, abs=0.03)


def test_colours_are_exact_without_a_source_of_chance():
    pixels = np.asarray(draw(Scene("circle", "orange", "purple")))
    assert tuple(pixels[0, 0]) == COLOURS["purple"]
    assert tuple(pixels[32, 32]) == COLOURS["orange"]


@pytest.mark.parametrize("size_px", [(64, 64), (64, 96), (128, 128)])
def test_shapes_stay_inside_the_picture(size_px):
    rng = np.random.default_rng(0)
    for size in SIZES:
        for _ in range(50):
            place = random_placement(rng, size, *size_px)
            for centre, side in ((place.centre_y, size_px[0]), (place.centre_x, size_px[1])):
                assert place.diameter / 2 <= centre <= side / min(size_px) - place.diameter / 2


def test_captions_tell_the_scene():
    scene = Scene("star", "red", "blue", striped=True, holed=True, size="small")
    assert sentence(scene) == "a small striped holed red star on a blue background"
    assert tags(scene) == "red star, blue background, striped, holed, small"
    assert sentence(Scene("star", "red", "blue"), "zibble") == "a red zibble on a blue background"


def test_a_tenth_of_the_captions_is_empty():
    rng = np.random.default_rng(0)
    captions = [random_caption(random_scene(rng), rng) for _ in range(3000)]
    assert captions.count("") / 3000 == pytest.approx(0.1, abs=0.02)
    assert sum("," in caption for caption in captions) / 3000 == pytest.approx(0.3, abs=0.03)


def test_same_seed_same_picture():
    first, second = (
        np.asarray(draw(Scene("heart", "red", "white"), rng=np.random.default_rng(3)))
        for _ in range(2)
    )
    assert np.array_equal(first, second)
