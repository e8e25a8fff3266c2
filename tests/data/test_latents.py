"""Latents on disk: a second run encodes nothing, and what changed is encoded again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from trainer.data.batches import LatentDataset
from trainer.data.folder import TrainingImage
from trainer.data.latents import LatentsOnDisk, size_mb
from trainer.data.tensor_store import TensorStore, prune
from trainer.data.views import Shift, View
from trainer.errors import BadInput

COUNT = 300


class Counting:
    """An encoder that counts what it encodes."""

    def __init__(self) -> None:
        self.pictures = 0

    def __call__(self, pixels: Tensor) -> Tensor:
        self.pictures += len(pixels)
        return torch.nn.functional.avg_pool2d(pixels, 8)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[View]:
    folder = tmp_path_factory.mktemp("pictures")
    views = []
    for number in range(COUNT):
        path = folder / f"{number}.png"
        Image.new("RGB", (16, 16), (number % 256, number // 256, 7)).save(path)
        views.append(View(TrainingImage(path, "", (16, 16)), (16, 16), number % 2 == 1))
    return views


def encoded(views: list[View], folder: Path, encoder: str = "vae") -> tuple[LatentDataset, int]:
    """The dataset with a cache of small files, and how many pictures were encoded for it."""
    count = Counting()
    store = TensorStore(folder, file_mb=0.001)
    dataset = LatentDataset(views, count, latents=LatentsOnDisk(store, encoder))
    return dataset, count.pictures


def test_a_second_run_encodes_nothing_and_has_the_same_latents(samples, tmp_path) -> None:
    first, encoded_first = encoded(samples, tmp_path)
    second, encoded_second = encoded(samples, tmp_path)
    assert (encoded_first, encoded_second) == (COUNT, 0)
    wanted = LatentDataset(samples, Counting())
    for indices in ((0, 1, 2), (299, 7), (150,)):
        for dataset in (first, second):
            assert torch.equal(dataset.batch(indices).latents, wanted.batch(indices).latents)


def test_what_changed_is_encoded_again(samples, tmp_path) -> None:
    encoded(samples, tmp_path)
    path = samples[5].image.path
    Image.new("RGB", (16, 16), (1, 2, 3)).save(path)
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 1_000_000_000))
    assert encoded(samples, tmp_path)[1] == 1
    assert encoded([*samples, View(samples[0].image, (8, 16))], tmp_path)[1] == 1
    assert encoded([*samples, View(samples[0].image, (16, 16), True)], tmp_path)[1] == 1
    assert encoded(samples, tmp_path, "another vae")[1] == COUNT


def test_a_picture_that_is_moved_has_latents_of_its_own(tmp_path) -> None:
    path = tmp_path / "half.png"
    picture = Image.new("RGB", (64, 64))
    picture.paste((255, 255, 255), (0, 0, 64, 16))
    picture.save(path)
    image = TrainingImage(path, "", (64, 64))
    moved = [View(image, (64, 64), shift=Shift(down=down)) for down in (0.0, 0.25, 0.5)]
    on_disk, count = encoded(moved, tmp_path / "cache")
    assert count == len(moved)
    assert encoded(moved, tmp_path / "cache")[1] == 0
    in_memory = LatentDataset(moved, Counting())
    assert torch.equal(on_disk.batch([0, 1, 2]).latents, in_memory.batch([0, 1, 2]).latents)


def test_a_damaged_file_costs_only_what_it_held(samples, tmp_path) -> None:
    encoded(samples, tmp_path)
    files = sorted(tmp_path.iterdir())
    files[0].write_bytes(files[0].read_bytes()[:-1])
    dataset, again = encoded(samples, tmp_path)
    assert 0 < again < COUNT / 2
    assert torch.equal(
        dataset.batch([0]).latents, LatentDataset(samples[:1], Counting()).batch([0]).latents
    )


def test_size_is_that_of_distinct_views(samples) -> None:
    # 2 x 2 cells of 4 channels of 4 bytes each
    assert size_mb([*samples, *samples]) == pytest.approx(COUNT * 64 / 2**20)


def test_what_was_removed_meanwhile_is_encoded_again_when_it_is_needed(samples, tmp_path) -> None:
    path = tmp_path / "gone.png"
    Image.new("RGB", (16, 16), (1, 2, 3)).save(path)
    views = [*samples[:20], View(TrainingImage(path, "", (16, 16)), (16, 16), False)]
    dataset, _ = encoded(views, tmp_path / "cache")
    path.unlink()
    prune(tmp_path / "cache", 0, frozenset())
    wanted = LatentDataset(samples, Counting())
    for indices in ((0, 19), (3, 4, 5), (0, 19)):
        assert torch.equal(dataset.batch(indices).latents, wanted.batch(indices).latents)
    with pytest.raises(BadInput, match="gone.png"):
        dataset.batch((20,))
