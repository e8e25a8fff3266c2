"""Regularisation pictures: as many as there are to learn, under captions of their own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from trainer.data.batches import BatchOrder, LatentDataset
from trainer.data.variants import CaptionVariants
from trainer.errors import Problem
from trainer.settings.groups import CaptionSettings, PictureMaskSettings
from trainer.settings.schema import JobSettings, parse
from trainer.training.sources import Pictures, find_pictures
from trainer.training.training_data import PictureData


def folder(path: Path, count: int, caption: str = "") -> Path:
    path.mkdir(parents=True)
    for number in range(count):
        Image.new("RGB", (64, 64), (10 * number, 0, 0)).save(path / f"{number}.png")
        if caption:
            (path / f"{number}.txt").write_text(f"{caption} {number}")
    return path


def job(learnt: Path, kept: Path, **values: object) -> JobSettings:
    given = {"images": str(learnt), "regularisation_images": str(kept), "trigger_word": "ohwx"}
    frames = {"image_size_px": 64, "bucket_step_px": 0}
    return parse({"method": "lora", "checkpoint": "x", **frames, **given, **values})


def found(settings: JobSettings) -> tuple[Pictures, list[Problem], list[str]]:
    problems: list[Problem] = []
    warnings: list[str] = []
    return find_pictures(settings, False, problems, warnings), problems, warnings


@pytest.mark.parametrize(("kept", "repeats", "used"), [(2, 1, 3), (2, 3, 9), (5, 1, 3)])
def test_as_many_come_as_there_are_to_learn(tmp_path, kept, repeats, used) -> None:
    # sd-scripts repeats the regularisation images until they are as many as the others, times
    # their repeats, and takes no more of them
    settings = job(folder(tmp_path / "a", 3), folder(tmp_path / "b", kept), repeats=repeats)
    pictures, problems, warnings = found(settings)
    assert not problems
    beside = [view for view in pictures.views if view.image.regularises]
    assert len(beside) == used == len(pictures.views) - used
    names = [view.image.path.stem for view in beside]
    assert names[:3] == [str(number % kept) for number in range(3)]
    assert len(pictures.images) == 3, "what is learnt"
    assert ("raise repeats" in " ".join(warnings)) is (kept > used)


def test_captions_are_their_own_and_the_trigger_is_not_in_them(tmp_path) -> None:
    kept = folder(tmp_path / "b", 2, "a woman")
    (kept / "1.txt").unlink()
    settings = job(folder(tmp_path / "a", 2, "me"), kept, regularisation_caption="someone")
    pictures, _, _ = found(settings)
    captions = [view.image.caption for view in pictures.views]
    assert captions == ["ohwx, me 0", "ohwx, me 1", "a woman 0", "someone"]
    # and so they are trained, varied or not
    bare = [view.image.regularises for view in pictures.views]
    for wanted in (CaptionSettings(), CaptionSettings(shuffle_tags=True, keep_tokens=9)):
        variants = CaptionVariants(wanted, "ohwx")
        assert list(variants.at(captions, 0, 0, bare=bare)) == captions


def test_problems_name_the_regularisation_folder(tmp_path) -> None:
    learnt = folder(tmp_path / "a", 1)
    inside = folder(learnt / "b", 1)
    for kept in (tmp_path / "nothing", learnt, inside):
        _, problems, _ = found(job(learnt, kept))
        assert [problem.where for problem in problems] == ["regularisation_images"]


def test_a_batch_says_how_much_each_sample_counts(tmp_path) -> None:
    settings = job(folder(tmp_path / "a", 2), folder(tmp_path / "b", 2))
    dataset = LatentDataset(found(settings)[0].views, lambda pixels: pixels[:, :, ::8, ::8])

    def weights(prior_loss_weight: float) -> torch.Tensor | None:
        order = BatchOrder(dataset.frames_px, 4, 0)
        (indices,) = order.batches_of(0)
        data = PictureData(
            dataset,
            order,
            CaptionVariants(CaptionSettings()),
            (None,) * len(dataset),
            PictureMaskSettings(),
            prior_loss_weight,
        )
        taken = data.next().weights
        return None if taken is None else taken[torch.tensor(indices).argsort()]

    assert weights(1.0) is None
    assert weights(0.25).tolist() == [1, 1, 0.25, 0.25]
