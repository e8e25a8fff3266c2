"""Expected frames: TrainTrain's manual, "Input Images" and "Image Resizing & Mirroring"."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from trainer.data.buckets import choose, enlargement, frames, kept_share, misfit
from trainer.errors import BadInput

MANUAL_NORMAL = ((384, 768), (512, 768), (512, 640), (512, 512), (640, 512), (768, 512), (768, 384))
MANUAL_SMALLER = (
    (256, 512),
    (384, 640),
    (256, 384),
    (384, 512),
    (384, 384),
    (256, 256),
    (512, 384),
    (384, 256),
    (640, 384),
    (512, 256),
)
MANUAL = frames((768, 512), 128, 256, 2.0)


def test_manual_default_step_makes_three_frames() -> None:
    found = frames((768, 512), 256, 512, 2.0)
    assert found.normal == ((512, 768), (512, 512), (768, 512))
    assert found.smaller == ()


def test_manual_step_128_makes_seven_frames() -> None:
    found = frames((768, 512), 128, 512, 2.0)
    assert found.normal == MANUAL_NORMAL
    assert found.smaller == ()


def test_manual_min_length_256_adds_ten_smaller_frames() -> None:
    assert MANUAL.normal == MANUAL_NORMAL
    assert MANUAL.smaller == MANUAL_SMALLER


def test_lying_image_size_makes_the_same_frames() -> None:
    assert frames((512, 768), 128, 256, 2.0) == MANUAL


def test_square_default_is_one_frame() -> None:
    assert frames((512, 512), 256, 512, 2.0).normal == ((512, 512),)


def test_sdxl_frames_at_step_64_hold_the_published_ones() -> None:
    # Source: SDXL paper (arXiv 2307.01952), appendix I, the buckets of ratio 0.5 to 2
    published = [(704, 1408), (768, 1344), (832, 1216), (896, 1152), (960, 1088), (1024, 1024)]
    found = frames((1024, 1024), 64, 1024, 2.0).normal
    for height, width in published:
        assert (height, width) in found
        assert (width, height) in found


def test_step_0_is_one_frame() -> None:
    assert frames((768, 512), 0, 256, 2.0) == (((768, 512),), ())


def test_image_size_off_the_grid_is_a_frame() -> None:
    found = frames((640, 640), 256, 512, 2.0)
    assert (640, 640) in found.normal
    # of equal shapes only the largest is normal
    assert (512, 512) not in found.normal
    assert (512, 512) in found.smaller


def test_image_size_beyond_the_ratio_is_a_frame() -> None:
    assert {(1024, 256), (256, 1024)} <= set(frames((1024, 256), 64, 64, 2.0).normal)


@pytest.mark.parametrize("size", [(512, 512), (768, 512), (512, 960), (1024, 1024), (128, 64)])
@pytest.mark.parametrize("step", [24, 64, 256])
@pytest.mark.parametrize("ratio", [1.0, 1.5, 2.0, 4.0])
def test_bounds_hold(size: tuple[int, int], step: int, ratio: float) -> None:
    found = frames(size, step, 128, ratio)
    budget = size[0] * size[1]
    own = {size, size[::-1]}
    assert own <= set(found.normal)
    for height, width in set(found.normal + found.smaller) - own:
        assert height % step == width % step == 0
        assert height * width <= budget
        assert max(height, width) / min(height, width) <= ratio
    assert all(min(frame) >= 128 for frame in found.smaller)
    assert not set(found.normal) & set(found.smaller)
    ratios = [height / width for height, width in found.normal]
    assert ratios == sorted(set(ratios))


def test_every_bad_value_is_named() -> None:
    with pytest.raises(BadInput) as caught:
        frames((500, 512), 100, 0, 0.5)
    assert [problem.where for problem in caught.value.problems] == [
        "image_size_px",
        "bucket_step_px",
        "min_length_px",
        "max_ratio",
    ]


def test_manual_example_of_sub_images() -> None:
    # a 4:3 picture goes into (512, 640) and from there into these three
    main, *subs = choose((960, 1280), MANUAL, sub_images=3)
    assert main == (512, 640)
    assert set(subs) == {(384, 640), (256, 384), (384, 512)}


def test_sub_images_come_nearest_first() -> None:
    # ln(4/3 : 4/3) = 0; ln(3/2 : 4/3) = 0.118; ln(5/3 : 4/3) = 0.223; ln(4/3 : 1) = 0.288
    assert choose((960, 1280), MANUAL, sub_images=3)[1:] == ((384, 512), (256, 384), (384, 640))


def test_fewer_sub_images_than_asked_for() -> None:
    found = frames((512, 512), 256, 256, 2.0)
    assert found.smaller == ((256, 512), (256, 256), (512, 256))
    # nearest first, of equal distances in a fixed order
    assert choose((512, 512), found, sub_images=9)[1:] == ((256, 256), (256, 512), (512, 256))


@pytest.mark.parametrize(
    ("size", "frame"),
    [
        ((600, 600), (512, 512)),
        ((2000, 1000), (768, 384)),
        ((1000, 1500), (512, 768)),
        ((3000, 2001), (768, 512)),
        ((1, 1), (512, 512)),
        ((100, 1000), (384, 768)),
    ],
)
def test_nearest_ratio(size: tuple[int, int], frame: tuple[int, int]) -> None:
    assert choose(size, MANUAL) == (frame,)


def test_choice_is_least_cropping() -> None:
    draw = random.Random(0)
    for _ in range(500):
        size = (draw.randint(100, 3000), draw.randint(100, 3000))
        (chosen,) = choose(size, MANUAL)
        assert kept_share(size, chosen) >= max(kept_share(size, f) for f in MANUAL.normal) - 1e-9


def test_choice_is_symmetric_in_height_and_width() -> None:
    draw = random.Random(1)
    for _ in range(500):
        height, width = draw.randint(100, 3000), draw.randint(100, 3000)
        (chosen,) = choose((height, width), MANUAL)
        if height != width:
            assert choose((width, height), MANUAL) == (chosen[::-1],)


def test_kept_share_is_the_share_of_the_area() -> None:
    # 400 x 1000 cut to a square keeps 400 x 400 of it
    assert math.isclose(kept_share((400, 1000), (512, 512)), 0.4)
    assert math.isclose(kept_share((1000, 400), (512, 512)), 0.4)
    assert math.isclose(kept_share((300, 200), (768, 512)), 1.0)


def test_disable_upscale_never_enlarges() -> None:
    draw = random.Random(2)
    for _ in range(500):
        size = (draw.randint(100, 1200), draw.randint(100, 1200))
        if misfit(size, MANUAL, disable_upscale=True) is None:
            for frame in choose(size, MANUAL, sub_images=3, disable_upscale=True):
                assert enlargement(size, frame) <= 1


def test_disable_upscale_takes_a_smaller_frame() -> None:
    assert choose((500, 500), MANUAL) == ((512, 512),)
    assert choose((500, 500), MANUAL, disable_upscale=True) == ((384, 384),)
    # a normal frame that is filled comes before a smaller one of nearer ratio
    assert choose((400, 800), MANUAL, disable_upscale=True) == ((384, 768),)


def test_disable_upscale_without_any_frame_to_fill() -> None:
    unfit = misfit((400, 400), frames((512, 512), 256, 512, 2.0), disable_upscale=True)
    assert unfit is not None
    assert "400x400" in unfit.what and "512x512" in unfit.what
    assert "min_length_px" in unfit.cure


@pytest.mark.parametrize(
    ("size", "word"),
    [
        ((63, 63), "too small"),
        ((64, 64), None),
        ((4000, 499), "too elongated"),
        ((1000, 400), None),
    ],
)
def test_misfit(size: tuple[int, int], word: str | None) -> None:
    # in one frame of 512 x 512: enlarged 8 times at 64, a quarter kept at 4:1
    unfit = misfit(size, frames((512, 512), 256, 512, 2.0))
    assert (unfit is None) if word is None else (unfit is not None and word in unfit.what)


def test_sub_images_are_smaller_than_their_frame() -> None:
    for size, off in itertools.product([(700, 700), (400, 800), (2000, 900)], [False, True]):
        main, *subs = choose(size, MANUAL, sub_images=5, disable_upscale=off)
        assert subs
        assert all(sub[0] * sub[1] < main[0] * main[1] for sub in subs)
        assert len(set(subs)) == len(subs)
