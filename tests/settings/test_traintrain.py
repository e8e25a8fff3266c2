"""Import of TrainTrain's presets; names, defaults and spellings from facts/traintrain.md."""

from __future__ import annotations

import pytest

from trainer.errors import BadInput
from trainer.settings.groups import BLOCKS
from trainer.settings.schema import parse
from trainer.settings.traintrain import import_traintrain, is_traintrain

DEFAULTS: dict[str, object] = {
    "network_type": "lierla",
    "network_rank": "16",
    "network_alpha": "8",
    "lora_data_directory": "",
    "diff_target_name": "",
    "lora_trigger_word": "",
    "image_size(height, width)": "512",
    "train_iterations": "1000",
    "train_batch_size": "2",
    "train_learning_rate": "1e-4",
    "train_optimizer": "adamw",
    "train_optimizer_settings": "",
    "train_lr_scheduler": "cosine",
    "train_lr_scheduler_settings": "",
    "save_lora_name": "LoRA",
    "use_gradient_checkpointing": False,
    "network_blocks(BASE = TextEncoder)": [*reversed(BLOCKS)],
    "network_resume": "",
    "network_strength": "1",
    "network_conv_rank": "0",
    "network_conv_alpha": "0",
    "network_element": "Full",
    "network_train_text_encoder": True,
    "image_buckets_step": "256",
    "image_num_multiply": "1",
    "image_min_length": "512",
    "image_max_ratio": "2",
    "sub_image_num": "0",
    "image_mirroring": False,
    "image_use_filename_as_tag": False,
    "image_disable_upscale": False,
    "train_fixed_timsteps_in_batch": False,
    "train_textencoder_learning_rate": "",
    "train_seed": "-1",
    "train_min_timesteps": "0",
    "train_max_timesteps": "1000",
    "train_loss_function": "MSE",
    "train_lr_step_rules": "",
    "train_lr_warmup_steps": "0",
    "train_lr_scheduler_num_cycles": "1",
    "train_lr_scheduler_power": "1.0",
    "train_snr_gamma": "5",
    "save_per_steps": "0",
    "diff_alt_ratio": "1.0",
    "diff_revert_original_target": False,
    "diff_use_diff_mask": False,
    "train_model_precision": "fp16",
    "train_lora_precision": "fp32",
    "train_VAE_precision": "fp32",
    "save_precision": "fp16",
    "diff_load_1st_pass": "",
    "diff_save_1st_pass": False,
    "diff_1st_pass_only": False,
    "logging_save_csv": "",
    "logging_verbose": False,
    "save_as_json": True,
    "save_overwrite": False,
    "model_v_pred": False,
    "use_2nd_pass_settings": False,
    "2nd pass": {"network_rank": "4"},
    "mode": "LoRA",
    "model": "",
    "vae": "None",
    "original prompt": "",
    "target prompt": "",
}


def lost(**changes: object) -> dict[str, str]:
    return {p.where: str(p) for p in import_traintrain({**DEFAULTS, **changes}).lost}


def test_a_preset_of_defaults_is_taken_over_whole() -> None:
    imported = import_traintrain(DEFAULTS)
    assert imported.lost == ()
    ours = {**imported.values, "checkpoint": "model", "images": "pictures"}
    job = parse(ours)
    # The defaults are the same on both sides, but for these.
    differing = {"name": "LoRA", "base_precision": "fp16"}
    assert job == parse({"method": "lora", "checkpoint": "model", "images": "pictures"} | differing)
    assert "checkpoint" not in imported.values
    assert "images" not in imported.values
    assert "vae" not in imported.values


@pytest.mark.parametrize(
    ("foreign", "raw", "name", "value"),
    [
        ("train_iterations", "300", "steps", 300),
        ("image_size(height, width)", "768,512", "image_size_px", [768, 512]),
        ("network_blocks(BASE = TextEncoder)", ["OUT01", "IN00"], "blocks", ["IN00", "OUT01"]),
        ("train_fixed_timsteps_in_batch", True, "fixed_timesteps_in_batch", True),
        ("train_learning_rate", "0.0005", "learning_rate", 5e-4),
        ("train_textencoder_learning_rate", "5e-5", "text_encoder_learning_rate", 5e-5),
        ("lora_data_directory", "D:\\pictures", "images", "D:\\pictures"),
        ("model", "anime.safetensors [0a1b2c3d4e]", "checkpoint", "anime.safetensors"),
        ("vae", "kl.vae.pt", "vae", "kl.vae.pt"),
        ("model_v_pred", True, "prediction_type", "v_prediction"),
        ("logging_save_csv", False, "log_csv", False),
        ("image_num_multiply", "3", "repeats", 3),
        ("image_buckets_step", "0", "bucket_step_px", 0),
        ("save_per_steps", "100", "save_every_steps", 100),
        ("train_snr_gamma", "0", "min_snr_gamma", 0.0),
        ("network_strength", "5", "network_strength", 5.0),
        ("train_optimizer_settings", "weight_decay=0.1", "optimizer_args", "weight_decay=0.1"),
    ],
)
def test_values_are_translated(foreign: str, raw: object, name: str, value: object) -> None:
    imported = import_traintrain({**DEFAULTS, foreign: raw})
    assert imported.lost == ()
    assert imported.values[name] == value


@pytest.mark.parametrize("zero", ["0", "0.0", 0, ""])
def test_a_text_encoder_learning_rate_of_0_inherits(zero: object) -> None:
    imported = import_traintrain({**DEFAULTS, "train_textencoder_learning_rate": zero})
    assert imported.lost == ()
    assert "text_encoder_learning_rate" not in imported.values


@pytest.mark.parametrize(
    ("foreign", "raw"),
    [
        ("network_conv_rank", "2000"),
        ("diff_alt_ratio", "0.5"),
        ("diff_use_diff_mask", True),
        ("target prompt", "a red dress"),
        ("some_new_option", "x"),
        ("train_optimizer", "CAMEL"),
        ("train_model_precision", "fp4"),
        ("train_iterations", "many"),
        ("save_per_steps", "2000"),
    ],
)
def test_what_cannot_be_taken_over_is_named(foreign: str, raw: object) -> None:
    found = lost(**{foreign: raw})
    assert list(found) == [foreign]
    assert "not taken over" in found[foreign]


def test_what_traintrain_itself_does_not_use_in_a_method_is_not_lost() -> None:
    """Its presets hold every field of its form; iLECO has no pictures."""
    assert import_traintrain({**DEFAULTS, "mode": "iLECO"}).lost == ()
    assert list(lost(mode="iLECO", sub_image_num="2", diff_target_name="_b")) == []
    assert list(lost(mode="iLECO", network_resume="a.safetensors")) == []


@pytest.mark.parametrize("listed", [True, False])
def test_addift_leaves_the_text_encoder_out_without_a_trigger_word(listed: bool) -> None:
    """As TrainTrain's `mode_fixer` does, whose presets name it all the same."""
    preset = {**DEFAULTS, "mode": "ADDifT"}
    if not listed:  # all 26 are its default, too
        del preset["network_blocks(BASE = TextEncoder)"]
    imported = import_traintrain(preset)
    assert imported.values["blocks"] == [block for block in BLOCKS if block != "BASE"]
    assert imported.lost == ()
    for others in ({"lora_trigger_word": "ohwx"}, {"mode": "Multi-ADDifT"}, {"mode": "LoRA"}):
        assert "BASE" in import_traintrain({**preset, **others}).values.get("blocks", BLOCKS)


def test_the_text_encoder_alone_stays_what_addift_trains() -> None:
    alone = {**DEFAULTS, "mode": "ADDifT", "network_blocks(BASE = TextEncoder)": ["BASE"]}
    assert import_traintrain(alone).values["blocks"] == ["BASE"]


def test_the_rest_stays_usable() -> None:
    imported = import_traintrain({**DEFAULTS, "train_iterations": "many", "save_per_steps": "0"})
    assert "steps" not in imported.values
    parse({**imported.values, "checkpoint": "model", "images": "pictures"})


def test_second_pass_settings_are_reported_only_when_they_count() -> None:
    assert list(lost(use_2nd_pass_settings=True)) == ["2nd pass"]


@pytest.mark.parametrize("mode", [None, "LORAX", 3])
def test_an_unknown_mode_is_refused(mode: object) -> None:
    with pytest.raises(BadInput, match="mode"):
        import_traintrain({**DEFAULTS, "mode": mode})


def test_recognised_by_its_names() -> None:
    assert is_traintrain(DEFAULTS)
    assert not is_traintrain({"method": "lora", "steps": 5})
    assert not is_traintrain({})


def test_convolutions_that_inherit_stay_empty() -> None:
    """TrainTrain's 0 is an empty field here; a size of their own comes over."""
    inherited = import_traintrain({**DEFAULTS, "mode": "LoRA", "network_type": "c3lier"})
    assert "conv_rank" not in inherited.values
    own = {"network_type": "c3lier", "network_conv_rank": "4", "network_conv_alpha": "2"}
    imported = import_traintrain({**DEFAULTS, "mode": "LoRA", **own})
    assert (imported.values["conv_rank"], imported.values["conv_alpha"]) == (4, 2.0)
    assert imported.values["network"] == "c3lier"
