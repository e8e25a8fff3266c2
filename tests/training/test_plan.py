from __future__ import annotations

from pathlib import Path

import pytest
import torch

from trainer.errors import BadInput
from trainer.models.detect import Detection
from trainer.models.families import SD1, SD2, SDXL
from trainer.networks import kohya
from trainer.settings.groups import ModelSettings
from trainer.settings.schema import parse
from trainer.training.plan import free_name, make_plan


class Host:
    """A host whose every checkpoint is fine."""

    def __init__(self, folder: Path) -> None:
        self.output_dir = folder / "out"
        self.log_dir = folder / "logs"

    def check_model(self, settings: ModelSettings) -> Detection:
        family = {"xl": SDXL, "v2": SD2}.get(settings.checkpoint, SD1)
        return Detection(family, family.title)


@pytest.fixture
def plan(tmp_path, pictures):
    def make(**changes: object):
        job = {
            "method": "lora",
            "checkpoint": "x",
            "images": str(pictures),
            "name": "n",
            "image_size_px": [64, 96],
            "bucket_step_px": 32,
            "min_length_px": 32,
            "steps": 10,
            "batch_size": 2,
        }
        return make_plan(parse({**job, **changes}), Host(tmp_path))

    return make


def test_frames_and_epochs_follow_from_the_pictures(plan):
    found = plan()
    assert found.model_title == "Stable Diffusion 1"
    assert found.warnings == ()
    assert found.estimated_mb is not None
    assert 1000 < found.estimated_mb < 8000  # SD1's weights alone are 3750 MB in fp32
    assert found.frames == {(64, 64): 3, (64, 96): 1}
    assert found.steps_per_epoch == 3  # two batches of 64 x 64 px, one of 64 x 96 px
    assert found.epochs == 4


def test_a_log_folder_that_cannot_be_is_told_before_the_training(plan, tmp_path):
    (tmp_path / "logs").write_text("in the way", "utf-8")
    with pytest.raises(BadInput, match="log folder: .*logs cannot be written to"):
        plan()


SDXL_BLOCKS = ("BASE", *(f"IN{i:02}" for i in range(9)), "M00", *(f"OUT{i:02}" for i in range(9)))
"""The webui's 20 names for SDXL."""


def test_a_family_has_its_own_blocks(plan):
    assert len(SDXL_BLOCKS) == 20
    assert plan(checkpoint="xl", image_size_px=64).blocks == SDXL_BLOCKS
    assert len(plan(checkpoint="v2").blocks) == 26


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        ({"checkpoint": "xl", "clip_skip": 2}, "clip_skip is passed over"),
        ({"checkpoint": "v2", "clip_skip": 2}, "clip_skip is passed over"),
        ({"checkpoint": "xl", "blocks": "IN04,IN09,OUT11"}, "no blocks IN09, OUT11"),
        ({"checkpoint": "xl"}, "was made for 1024 px"),
        ({"checkpoint": "xl", "vae_precision": "fp16"}, "give NaN in fp16"),
    ],
)
def test_what_means_nothing_for_a_family_is_said(plan, changes, warning):
    assert any(warning in one for one in plan(**changes).warnings)


def test_what_suits_a_family_is_not_warned_of(plan):
    assert plan(clip_skip=2, blocks="IN09", vae_precision="fp16").warnings == ()
    small = plan(checkpoint="v2", image_size_px=512)  # there is an SD2 for 512 px
    assert not any("was made for" in warning for warning in small.warnings)


def test_repeats_and_accumulation_change_the_epoch(plan):
    found = plan(repeats=3, gradient_accumulation_steps=2)
    assert sum(found.frames.values()) == 12
    assert found.steps_per_epoch == (5 + 2) / 2


def test_copies_are_named_as_sd_scripts_names_them(plan):
    by_steps = plan(save_every_steps=4).save_points
    assert {s: p.name for s, p in by_steps.items()} == {
        4: "n-step00000004.safetensors",
        8: "n-step00000008.safetensors",
    }
    by_epochs = plan(save_every_epochs=1).save_points
    assert {s: p.name for s, p in by_epochs.items()} == {
        3: "n-000001.safetensors",
        6: "n-000002.safetensors",
        9: "n-000003.safetensors",
    }


def test_an_epoch_that_ends_between_two_steps_is_saved_at_the_next(plan):
    points = plan(save_every_epochs=1, gradient_accumulation_steps=2).save_points
    assert list(points) == [2, 3, 5, 6, 8, 9]  # an epoch is one and a half steps


def test_no_copy_at_the_last_step(plan):
    assert 10 not in plan(save_every_steps=5).save_points


@pytest.mark.parametrize("epochs", [4, 100])
def test_an_interval_that_never_fires_proposes_one_that_does(plan, epochs):
    with pytest.raises(BadInput, match="save_every_epochs: .* never fires.*3.3 epochs.*at most 3"):
        plan(save_every_epochs=epochs)
    assert plan(save_every_epochs=3).save_points


def test_free_name_counts_on(tmp_path):
    assert free_name("n", tmp_path) == "n-2"
    (tmp_path / "n-2.safetensors").touch()
    assert free_name("n", tmp_path) == "n-3"
    assert free_name("n-2", tmp_path) == "n-3"
    assert free_name("n", tmp_path, ".png") == "n-2"


def test_a_taken_name_is_refused_and_kept(plan, tmp_path):
    file = plan().output_file
    file.write_bytes(b"old")
    with pytest.raises(BadInput, match="n-2"):
        plan()
    assert plan(overwrite=True).output_file == file
    assert file.read_bytes() == b"old"


def test_a_lora_that_cannot_go_on_is_told_at_its_field(plan, tmp_path):
    with pytest.raises(BadInput) as refused:
        plan(resume_from="nowhere")
    (problem,) = refused.value.problems
    assert problem.where == "resume_from"
    assert problem.what.startswith("nowhere cannot be read: No such file")


def test_a_lora_that_goes_on_may_be_named_by_its_name(plan, tmp_path):
    weights = {f"lora_unet_x.lora_{part}.weight": torch.ones(2, 2) for part in ("up", "down")}
    kohya.save(tmp_path / "out" / "zib1.safetensors", weights, {})
    assert plan(resume_from="zib1").steps == plan(resume_from="zib1.safetensors").steps == 10


def test_an_unfinished_training_of_the_name_is_told_with_its_step(plan, tmp_path):
    states = tmp_path / "logs" / "states"
    for name, step in (("n", 9), ("n", 40), ("n-2", 3)):
        (states / name).mkdir(parents=True, exist_ok=True)
        (states / name / f"state-0-{step:08d}.safetensors").touch()
    with pytest.raises(BadInput, match=r"unfinished; it was saved at step 40 - .*--resume.*n-3"):
        plan()
    assert plan(overwrite=True)
    assert plan(name="m")
