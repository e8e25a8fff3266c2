from __future__ import annotations

import dataclasses
import json
import re
from datetime import datetime
from pathlib import Path

import pytest
import torch

from trainer.networks import kohya
from trainer.networks.facts import FolderFacts, RunFacts, folder_facts
from trainer.networks.kinds import NetworkFacts
from trainer.networks.metadata import build_metadata, is_result_of
from trainer.settings.schema import JobSettings, parse

FACTS = RunFacts(
    clip_skip=2,
    family="sd1",
    network=NetworkFacts("lierla", rank=16, alpha=8.0),
    text_encoder_trained=True,
    checkpoint_file="model.safetensors",
    checkpoint_sha256="ab" * 32,
    checkpoint_short_hash="12345678",
    resolution_px=(768, 512),
    mixed_precision="bf16",
    seed=77,
    folders=(FolderFacts("cats", images=3, repeats=2, tags={"cat": 3, "red": 1}),),
    buckets={(768, 512): 4, (512, 512): 2},
    mean_ratio_error=0.125,
    steps=250,
    epoch=84,
    epochs=334,
    batches_per_epoch=3,
    started_at_s=1700000000.5,
    finished_at_s=1700000600.25,
    session_id=99,
)
JOB = {
    "method": "lora",
    "checkpoint": "models/model.safetensors",
    "images": "photos/cats",
    "trigger_word": "ohwx",
    "name": "my cat",
    "author": "Somebody",
    "description": "A cat.",
    "steps": 1000,
    "batch_size": 2,
    "gradient_accumulation_steps": 4,
    "optimizer_args": "weight_decay=0.01; betas=(0.9, 0.99)",
    "learning_rate": 1e-4,
    "text_encoder_learning_rate": 5e-5,
    "clip_skip": 2,
    "mirror": True,
    "min_timestep": 100,
}

KEYS_OF_THE_FORMAT = """
session_id training_started_at training_finished_at output_name training_comment
sd_scripts_commit_hash base_model_version v2 sd_model_name sd_model_hash new_sd_model_hash
vae_name vae_hash new_vae_hash network_module network_dim network_alpha network_dropout
network_args optimizer learning_rate unet_lr text_encoder_lr lr_scheduler lr_warmup_steps
max_train_steps num_epochs epoch steps gradient_checkpointing gradient_accumulation_steps
max_grad_norm mixed_precision full_fp16 fp8_base fp8_base_unet lowram seed cache_latents
clip_skip max_token_length noise_offset noise_offset_random_strength adaptive_noise_scale
multires_noise_iterations multires_noise_discount ip_noise_gamma ip_noise_gamma_random_strength
min_snr_gamma debiased_estimation zero_terminal_snr scale_weight_norms loss_type huber_schedule
huber_scale huber_c prior_loss_weight caption_dropout_rate caption_dropout_every_n_epochs
caption_tag_dropout_rate face_crop_aug_range num_train_images num_validation_images
num_reg_images num_batches_per_epoch tag_frequency dataset_dirs reg_dataset_dirs bucket_info
resize_interpolation batch_size_per_device total_batch_size resolution color_aug flip_aug
random_crop shuffle_caption enable_bucket bucket_no_upscale min_bucket_reso max_bucket_reso
keep_tokens
"""


def job(**values: object) -> JobSettings:
    return parse({**JOB, **values})


def metadata(settings: JobSettings | None = None, **facts: object) -> dict[str, str]:
    return build_metadata(settings or job(), dataclasses.replace(FACTS, **facts))


def decoded_as_the_webui_does(texts: dict[str, str]) -> dict[str, object]:
    """facts/formats.md A.3: texts that begin with a brace are decoded, all others stay."""
    return {key: json.loads(t) if t.startswith("{") else t for key, t in texts.items()}


def test_every_value_is_a_text() -> None:
    assert all(isinstance(value, str) and key for key, value in metadata().items())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        # facts/formats.md A.4: str() of the value, None as "None"
        ("session_id", "99"),
        ("training_started_at", "1700000000.5"),
        ("training_finished_at", "1700000600.25"),
        ("output_name", "my cat"),
        ("training_comment", "A cat."),
        ("base_model_version", "sd_v1"),
        ("v2", "False"),
        ("sd_model_name", "model.safetensors"),
        ("sd_model_hash", "12345678"),
        ("new_sd_model_hash", "ab" * 32),
        ("vae_name", "None"),
        ("network_module", "networks.lora"),
        ("network_dim", "16"),
        ("network_alpha", "8.0"),
        ("network_args", "{}"),
        ("network_dropout", "None"),
        ("optimizer", "AdamW(weight_decay=0.01,betas=(0.9, 0.99))"),
        ("learning_rate", "0.0001"),
        ("unet_lr", "0.0001"),
        ("text_encoder_lr", "5e-05"),
        ("lr_scheduler", "cosine"),
        ("lr_warmup_steps", "0"),
        ("max_train_steps", "1000"),
        ("steps", "250"),
        ("epoch", "84"),
        ("num_epochs", "334"),
        ("num_batches_per_epoch", "3"),
        ("gradient_checkpointing", "False"),
        ("gradient_accumulation_steps", "4"),
        ("batch_size_per_device", "2"),
        ("total_batch_size", "8"),
        ("max_grad_norm", "1.0"),
        ("mixed_precision", "bf16"),
        ("seed", "77"),
        ("clip_skip", "2"),
        ("min_snr_gamma", "5.0"),
        ("loss_type", "l2"),
        ("num_train_images", "6"),
        ("resolution", "(512, 768)"),
        ("flip_aug", "True"),
        ("bucket_no_upscale", "False"),
        ("min_bucket_reso", "512"),
        ("max_bucket_reso", "768"),
        ("tag_frequency", '{"cats": {"cat": 3, "red": 1}}'),
        ("dataset_dirs", '{"cats": {"n_repeats": 2, "img_count": 3}}'),
        ("noise_offset", "None"),
        ("prior_loss_weight", "1.0"),
        ("caption_dropout_rate", "0"),
    ],
)
def test_ss_keys(key: str, value: str) -> None:
    assert metadata()[f"ss_{key}"] == value


def test_all_keys_of_the_format_are_there() -> None:
    """facts/formats.md A.4, the single-dataset form."""
    written = {key.removeprefix("ss_") for key in metadata() if key.startswith("ss_")}
    assert set(KEYS_OF_THE_FORMAT.split()) <= written


def test_modelspec_keys() -> None:
    found = {key: value for key, value in metadata().items() if key.startswith("modelspec.")}
    assert found == {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": "stable-diffusion-v1/lora",
        "modelspec.implementation": "diffusers",
        "modelspec.title": "my cat",
        "modelspec.author": "Somebody",
        "modelspec.description": "A cat.",
        "modelspec.resolution": "512x768",
        "modelspec.date": "2023-11-14T22:23:20",
        "modelspec.prediction_type": "epsilon",
        "modelspec.timestep_range": "100,1000",
        "modelspec.encoder_layer": "2",
        "modelspec.trigger_phrase": "ohwx",
        "modelspec.usage_hint": "Use the words: ohwx",
    }


@pytest.mark.parametrize(
    ("family", "velocity", "version", "v2", "architecture", "implementation"),
    [
        ("sd1", False, "sd_v1", "False", "stable-diffusion-v1/lora", "diffusers"),
        ("sd1", True, "sd_v1_v", "False", "stable-diffusion-v1/lora", "diffusers"),
        ("sd2", False, "sd_v2", "True", "stable-diffusion-v2-512/lora", "diffusers"),
        ("sd2", True, "sd_v2_v", "True", "stable-diffusion-v2-768-v/lora", "diffusers"),
        (
            "sdxl",
            False,
            "sdxl_base_v1-0",
            "False",
            "stable-diffusion-xl-v1-base/lora",
            "https://github.com/Stability-AI/generative-models",
        ),
    ],
)
def test_both_families_of_keys_tell_the_model(
    family: str, velocity: bool, version: str, v2: str, architecture: str, implementation: str
) -> None:
    found = metadata(family=family, predicts_velocity=velocity)
    assert found["ss_base_model_version"] == version
    assert found["ss_v2"] == v2
    assert found["modelspec.architecture"] == architecture
    assert found["modelspec.implementation"] == implementation
    assert found["modelspec.prediction_type"] == ("v" if velocity else "epsilon")


def test_a_family_with_a_fixed_layer_names_none() -> None:
    """As sd-scripts does where no CLIP skip is given: "None", and no modelspec key."""
    found = metadata(family="sdxl", clip_skip=None, zero_terminal_snr=True, fp8_base=True)
    assert found["ss_clip_skip"] == "None"
    assert "modelspec.encoder_layer" not in found
    assert found["ss_zero_terminal_snr"] == "True"
    assert found["ss_fp8_base"] == "True"


def test_networks_are_described_as_their_readers_expect() -> None:
    loha = NetworkFacts("loha_conv", rank=8, alpha=4.0, conv_rank=2, conv_alpha=1.0)
    found = metadata(network=loha)
    assert found["ss_network_module"] == "lycoris.kohya"
    args = {"algo": "loha", "conv_dim": "2", "conv_alpha": "1.0"}
    assert json.loads(found["ss_network_args"]) == args
    mixed = metadata(network=NetworkFacts("lierla", rank=None, alpha=None))
    assert (mixed["ss_network_dim"], mixed["ss_network_alpha"]) == ("Dynamic", "Dynamic")


def test_how_a_network_was_kept_from_overfitting_is_told() -> None:
    """By the names of sd-scripts' and LyCORIS's arguments."""
    job = {**JOB, "network": "lokr", "lokr_factor": 8, "network_dropout": 0.1, "rank_dropout": 0.2}
    job |= {"module_dropout": 0.3, "scale_weight_norms": 1, "lora_plus_ratio": 4}
    lokr = NetworkFacts("lokr", rank=8, alpha=4.0)
    found = metadata(parse({**job, "lr_warmup_percent": 10}), network=lokr)
    assert (found["ss_network_dropout"], found["ss_scale_weight_norms"]) == ("0.1", "1.0")
    assert found["ss_lr_warmup_steps"] == "100"
    args = {"algo": "lokr", "factor": "8", "rank_dropout": "0.2", "module_dropout": "0.3"}
    assert json.loads(found["ss_network_args"]) == {**args, "loraplus_lr_ratio": "4.0"}
    dora = json.loads(metadata(network=NetworkFacts("dora", 8, 8.0))["ss_network_args"])
    assert dora == {"algo": "locon", "dora_wd": "True", "wd_on_output": "False"}


def test_what_was_not_trained_has_no_learning_rate() -> None:
    assert metadata(text_encoder_trained=False)["ss_text_encoder_lr"] == "None"


def test_a_method_without_pictures_is_described_too() -> None:
    settings = parse({"method": "ileco", "checkpoint": "a", "original_prompt": "red"})
    found = metadata(settings, folders=(), buckets={})
    assert found["ss_output_name"] == "untitled"
    assert found["ss_resolution"] == "(512, 768)"
    assert "modelspec.trigger_phrase" not in found


@pytest.mark.parametrize("typed", ["{best} cat", '{"a": 1}', "{"])
def test_typed_text_is_never_taken_for_json(typed: str) -> None:
    found = metadata(job(description=typed, author=typed, trigger_word=typed))
    decoded = decoded_as_the_webui_does(found)
    assert decoded["ss_training_comment"] == f" {typed}"
    assert decoded["modelspec.author"] == f" {typed}"


def test_the_detail_page_of_the_webui_reads_it(tmp_path: Path) -> None:
    """The rows of facts/formats.md A.5, from the saved file by its own rules."""
    path = tmp_path / "a.safetensors"
    kohya.save(path, {"lora_unet_a.lora_up.weight": torch.zeros(1, 1)}, metadata())
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    assert data[8:10] == b'{"'
    found = decoded_as_the_webui_does(json.loads(data[8 : 8 + length])["__metadata__"])
    shown = [found[f"ss_{key}"] for key in ("output_name", "sd_model_name", "clip_skip")]
    assert shown == ["my cat", "model.safetensors", "2"]
    started = datetime.fromtimestamp(float(found["ss_training_started_at"]))
    assert started.year == 2023
    sizes = {
        "{1}x{0}".format(*bucket["resolution"]): bucket["count"]
        for bucket in found["ss_bucket_info"]["buckets"].values()
    }
    assert sizes == {"768x512": 4, "512x512": 2}
    assert sum(folder["img_count"] for folder in found["ss_dataset_dirs"].values()) == 3
    tags = {tag: n for folder in found["ss_tag_frequency"].values() for tag, n in folder.items()}
    assert tags == {"cat": 3, "red": 1}
    assert re.fullmatch("[0-9a-f]{64}", found["sshs_model_hash"])


def test_a_result_is_that_of_a_whole_job_and_not_of_one_like_its_last_pass() -> None:
    pair = {"method": "difference", "original_image": "a.png", "target_image": "b.png"}
    both = parse({"checkpoint": "c", **pair, "second_pass": {"rank": 1, "steps": 2}})
    last = both.passes()[-1]
    made = build_metadata(last, dataclasses.replace(FACTS, steps=2), both)
    assert is_result_of(both, made)
    assert not is_result_of(last, made)
    assert not is_result_of(both, build_metadata(last, dataclasses.replace(FACTS, steps=1), both))


def test_tags_are_counted_once_an_image_and_without_repeats() -> None:
    captions = ["ohwx, Red cat,  red cat , ", "ohwx", ""]
    facts = folder_facts("cats", captions, repeats=5)
    assert facts == FolderFacts("cats", images=3, repeats=5, tags={"ohwx": 2, "red cat": 1})


def test_each_run_has_its_own_session() -> None:
    fields = {f.name: getattr(FACTS, f.name) for f in dataclasses.fields(FACTS)}
    del fields["session_id"]
    assert RunFacts(**fields).session_id != RunFacts(**fields).session_id
