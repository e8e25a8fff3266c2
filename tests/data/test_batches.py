from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d

from trainer.data.batches import BatchOrder, LatentDataset
from trainer.data.folder import scan
from trainer.data.views import View, load_pixels, views
from trainer.errors import BadInput
from trainer.settings.groups import DataSettings


def shrink(pixels: Tensor) -> Tensor:
    """Stands for a VAE: [n, 3, h, w] to [n, 3, h/8, w/8]."""
    return avg_pool2d(pixels, 8)


def recording(calls: list[tuple[int, ...]]) -> Callable[[Tensor], Tensor]:
    def encode(pixels: Tensor) -> Tensor:
        assert pixels.dtype == torch.float32
        calls.append(tuple(pixels.shape))
        return shrink(pixels)

    return encode


def folder_of(path: Path, sizes: list[tuple[int, int]]) -> Path:
    path.mkdir()
    draw = np.random.default_rng(0)
    for number, size in enumerate(sizes):
        pixels = draw.integers(0, 256, (*size, 3), np.uint8)
        Image.fromarray(pixels).save(path / f"{number}.png")
    return path


@pytest.fixture
def samples(tmp_path: Path) -> list[View]:
    sizes = [(64, 64), (64, 96), (96, 64), (64, 64), (130, 128), (64, 96), (64, 64)]
    data = DataSettings(
        images=str(folder_of(tmp_path / "images", sizes)),
        trigger_word="ohwx",
        image_size_px=(64, 64),
        bucket_step_px=32,
        min_length_px=32,
        sub_images=1,
        mirror=True,
        repeats=2,
    )
    return views(scan(data), data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])


def test_latents_are_those_of_each_view(samples: list[View]) -> None:
    dataset = LatentDataset(samples, shrink, encode_batch_size=3)
    assert len(dataset) == len(samples) == 7 * 2 * 2 * 2
    assert dataset.views == tuple(samples)
    assert dataset.frames_px == tuple(view.frame_px for view in samples)
    assert set(dataset.captions) == {"ohwx"}
    for index, view in enumerate(samples):
        batch = dataset.batch([index])
        assert torch.allclose(batch.latents[0], shrink(load_pixels(view)[None])[0], atol=1e-6)
        assert batch.latents.shape[2:] == (view.frame_px[0] // 8, view.frame_px[1] // 8)


def test_each_distinct_view_is_encoded_once(samples: list[View]) -> None:
    calls: list[tuple[int, ...]] = []
    LatentDataset(samples, recording(calls), encode_batch_size=3)
    frames = Counter(view.frame_px for view in set(samples))
    encoded: Counter[tuple[int, int]] = Counter()
    for count, channels, height, width in calls:
        assert channels == 3 and 1 <= count <= 3
        encoded[height, width] += count
    assert encoded == frames
    # no more calls than full batches and one rest for each frame
    assert len(calls) == sum(-(-count // 3) for count in frames.values())


def test_encoding_is_deterministic(samples: list[View]) -> None:
    first: list[tuple[int, ...]] = []
    second: list[tuple[int, ...]] = []
    one = LatentDataset(samples, recording(first))
    two = LatentDataset(samples, recording(second))
    assert first == second
    assert all(torch.equal(one.batch([i]).latents, two.batch([i]).latents) for i in range(len(one)))


def test_progress_ends_at_the_total(samples: list[View]) -> None:
    seen: list[tuple[int, int]] = []
    LatentDataset(samples, shrink, progress=lambda done, total: seen.append((done, total)))
    assert {total for _, total in seen} == {28}
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (28, 28)


def test_progress_may_stop_the_work(samples: list[View]) -> None:
    calls: list[tuple[int, ...]] = []

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        LatentDataset(samples, recording(calls), progress=stop)
    assert len(calls) == 1


def test_latents_are_float32_without_gradient(samples: list[View]) -> None:
    weight = torch.ones((), requires_grad=True)
    dataset = LatentDataset(samples, lambda pixels: (shrink(pixels) * weight).bfloat16())
    assert dataset.batch([0]).latents.dtype == torch.float32
    assert not dataset.batch([0]).latents.requires_grad


def test_inference_tensors_can_be_trained_on(samples: list[View]) -> None:
    def encode(pixels: Tensor) -> Tensor:
        with torch.inference_mode():
            return shrink(pixels)

    latents = LatentDataset(samples, encode).batch([0]).latents
    weight = torch.ones((), requires_grad=True)
    (latents * weight).sum().backward()
    assert torch.allclose(weight.grad, latents.sum())


def test_nan_of_the_vae_is_named(samples: list[View]) -> None:
    with pytest.raises(BadInput) as caught:
        LatentDataset(samples, lambda pixels: shrink(pixels) * float("nan"))
    (problem,) = caught.value.problems
    assert problem.where == "vae_precision"
    assert "0.png" in problem.what


def test_overflow_of_the_vaes_precision_is_named(samples: list[View]) -> None:
    with pytest.raises(BadInput, match="NaN or infinity"):
        LatentDataset(samples, lambda pixels: shrink(pixels).half() * 1e6)


def test_all_damaged_pictures_are_named_before_training(samples: list[View]) -> None:
    bad = [samples[0].image.path.with_name(name) for name in ("1.png", "4.png", "6.png")]
    for path in bad:
        truncate(path)
    with pytest.raises(BadInput) as caught:
        LatentDataset(samples, shrink)
    assert [problem.where for problem in caught.value.problems] == [str(path) for path in bad]


def test_skip_leaves_damaged_pictures_out(
    samples: list[View], caplog: pytest.LogCaptureFixture
) -> None:
    bad = samples[0].image.path.with_name("4.png")
    truncate(bad)
    with caplog.at_level(logging.WARNING):
        dataset = LatentDataset(samples, shrink, unreadable="skip")
    assert dataset.views == tuple(view for view in samples if view.image.path != bad)
    assert len(dataset) == len(samples) - 8
    assert [str(bad) in record.getMessage() for record in caplog.records] == [True]
    last = len(dataset) - 1
    expected = shrink(load_pixels(dataset.views[last])[None])
    assert torch.allclose(dataset.batch([last]).latents, expected, atol=1e-6)


def test_skip_with_nothing_left(samples: list[View]) -> None:
    for path in {view.image.path for view in samples}:
        truncate(path)
    with pytest.raises(BadInput) as caught:
        LatentDataset(samples, shrink, unreadable="skip")
    assert len(caught.value.problems) == 7


def test_batch_keeps_indices_and_captions_together(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "images", [(64, 64)] * 3)
    for number in range(3):
        (folder / f"{number}.txt").write_text(f"number {number}")
    data = DataSettings(images=str(folder), image_size_px=(64, 64), min_length_px=64)
    batch = LatentDataset(views(scan(data), data), shrink).batch([2, 0])
    assert batch.indices == (2, 0)
    assert batch.captions == ("number 2", "number 0")
    assert batch.latents.shape == (2, 3, 8, 8)
    assert batch.framings == (((64, 64), (0, 0), (64, 64)),) * 2


FRAMES = [(64, 64)] * 7 + [(64, 96)] * 4 + [(96, 64)] + [(64, 64)] * 3


def epoch(order: BatchOrder) -> list[tuple[int, ...]]:
    return list(islice(order, order.batches_per_epoch))


@pytest.mark.parametrize("batch_size", [1, 2, 3, 4, 100])
def test_every_sample_once_an_epoch_and_frames_never_mixed(batch_size: int) -> None:
    order = BatchOrder(FRAMES, batch_size, seed=5)
    for number in range(1, 6):
        batches = epoch(order)
        assert sorted(index for batch in batches for index in batch) == list(range(len(FRAMES)))
        assert all(len({FRAMES[index] for index in batch}) == 1 for batch in batches)
        assert all(1 <= len(batch) <= batch_size for batch in batches)
        # 10 + 4 + 1 samples
        assert len(batches) == -(-10 // batch_size) + -(-4 // batch_size) + 1
        assert order.epoch == number


def test_same_seed_same_order() -> None:
    one, two = BatchOrder(FRAMES, 2, seed=7), BatchOrder(FRAMES, 2, seed=7)
    assert list(islice(one, 100)) == list(islice(two, 100))


def test_seeds_and_epochs_differ() -> None:
    order = BatchOrder(FRAMES, 2, seed=7)
    first, second = epoch(order), epoch(order)
    assert first != second
    assert epoch(BatchOrder(FRAMES, 2, seed=8)) != first
    assert first == order.batches_of(0) and second == order.batches_of(1)


def test_order_never_changes() -> None:
    # pinned, so that a training saved by one version goes on alike in the next
    assert BatchOrder(FRAMES, 4, 7).batches_of(3) == [
        (10, 9, 7, 8),
        (11,),
        (0, 13, 4, 1),
        (5, 2, 12, 3),
        (14, 6),
    ]


def test_shuffling_is_fair() -> None:
    # each of 6 samples comes first in 1/6 of 3000 epochs: 500, standard deviation 20
    order = BatchOrder([(64, 64)] * 6, 1, seed=0)
    first = Counter(order.batches_of(number)[0][0] for number in range(3000))
    assert all(400 < first[index] < 600 for index in range(6))


@pytest.mark.parametrize("steps", [0, 1, 7, 8, 9, 16, 29])
def test_restore_goes_on_where_it_was(steps: int) -> None:
    order = BatchOrder(FRAMES, 2, seed=3)
    for _ in range(steps):
        next(order)
    state = json.loads(json.dumps(order.state()))
    expected = list(islice(order, 30))
    resumed = BatchOrder(FRAMES, 2, seed=3)
    resumed.restore(state)
    assert list(islice(resumed, 30)) == expected
    assert resumed.epoch == order.epoch


def test_restore_of_another_run_is_refused() -> None:
    state = BatchOrder(FRAMES, 2, seed=3).state()
    with pytest.raises(BadInput) as caught:
        BatchOrder(FRAMES[:-1], 4, seed=4).restore(state)
    assert [problem.where for problem in caught.value.problems] == ["seed", "batch_size", "images"]


def test_no_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        BatchOrder([], 2, seed=0)


def test_ten_thousand_samples_are_cheap() -> None:
    order = BatchOrder([(512, 64 * (i % 8 + 4)) for i in range(10_000)], 4, seed=0)
    assert sum(len(batch) for batch in epoch(order)) == 10_000


def test_what_comes_next_is_told_beyond_the_epoch() -> None:
    order = BatchOrder([(8, 8)] * 5 + [(8, 16)] * 2, 2, seed=4)
    for _ in range(3):
        next(order)
    place = order.place
    ahead = order.upcoming(11)
    assert order.place == place
    for told in ahead:
        batch = next(order)
        assert told == (order.place, batch)
    assert order.epoch == 3
