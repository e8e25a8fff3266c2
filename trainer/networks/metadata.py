"""What a LoRA file says about itself: sd-scripts' ss_* and Stability's modelspec.* keys.

A1111 reads the ss_ keys, Forge tells SD1 by modelspec.architecture alone, so both are always
written.  Every value is a text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import TypeVar

from ..optim.schedules import warmup_steps
from ..paths import as_unicode
from ..settings.groups import (
    CaptionSettings,
    LossSettings,
    NetworkSettings,
    NoiseSettings,
    OptimizerSettings,
    OutputSettings,
    PictureSettings,
    PriorSettings,
    TrainingSettings,
)
from ..settings.names import SETTINGS_KEY
from ..settings.schema import PARAMETERS, SECOND_PASS, JobSettings
from ..settings.values import parse_arguments
from .facts import RunFacts
from .kinds import KINDS

Group = TypeVar("Group")
Values = dict[str, object]

BASE_MODEL_VERSIONS = {
    ("sd1", False): "sd_v1",
    ("sd1", True): "sd_v1_v",
    ("sd2", False): "sd_v2",
    ("sd2", True): "sd_v2_v",
    ("sdxl", False): "sdxl_base_v1-0",
    ("sdxl", True): "sdxl_base_v1-0",
}
ARCHITECTURES = {
    ("sd1", False): "stable-diffusion-v1",
    ("sd1", True): "stable-diffusion-v1",
    ("sd2", False): "stable-diffusion-v2-512",
    ("sd2", True): "stable-diffusion-v2-768-v",
    ("sdxl", False): "stable-diffusion-xl-v1-base",
    ("sdxl", True): "stable-diffusion-xl-v1-base",
}
"""Both by family, and whether the model predicts the velocity."""
LDM_IMPLEMENTATION = "https://github.com/Stability-AI/generative-models"
LOSS_TYPES = {
    "MSE": "l2",
    "L1": "l1",
    "Smooth-L1": "smooth_l1",
    "Huber": "huber",
    "Pseudo-L1": "smooth_l1",
}

UNSET = (
    *("face_crop_aug_range", "sd_scripts_commit_hash"),
    *("huber_schedule", "huber_scale", "huber_c", "resize_interpolation"),
    *("validation_seed", "validation_split", "max_validation_steps"),
    *("validate_every_n_epochs", "validate_every_n_steps"),
)
OFF = (
    *("full_fp16", "fp8_base_unet", "lowram", "debiased_estimation"),
    *("color_aug", "random_crop"),
    *("noise_offset_random_strength", "ip_noise_gamma_random_strength"),
)
ZERO = ("num_validation_images", "num_reg_images")
NOT_HERE: Values = {
    **dict.fromkeys(UNSET),
    **dict.fromkeys(OFF, False),
    **dict.fromkeys(ZERO, 0),
    "reg_dataset_dirs": {},
}
"""What readers of sd-scripts' files know and this trainer, or the job's method, does not do."""


def build_metadata(
    settings: JobSettings, facts: RunFacts, job: JobSettings | None = None
) -> dict[str, str]:
    """Everything that a file says about itself, except the hashes that `kohya.save` adds.

    Args:
        settings: of the pass that made it; groups that its method does not use are left out.
        facts: what the run knows at the moment of the save.
        job: the whole job's settings, which the file carries; None: these are they.

    Returns:
        Texts by key: `ss_*` as sd-scripts writes them and `modelspec.*` (version 1.0.1).
    """
    sd_scripts: Values = {
        **NOT_HERE,
        **_model(facts),
        **_network(settings, facts),
        **_course(settings, facts),
        **_optimization(settings, facts),
        **_data(settings, facts),
    }
    modelspec = {key: value for key, value in _modelspec(settings, facts).items() if value != ""}
    return {
        **{f"ss_{key}": _text(value) for key, value in sd_scripts.items()},
        **{f"modelspec.{key}": _text(value) for key, value in modelspec.items()},
        SETTINGS_KEY: _text(_shareable(job or settings)),
    }


def is_result_of(job: JobSettings, metadata: Mapping[str, str]) -> bool:
    """Whether a file with this metadata is what a job ends with, and no copy on its way."""
    training = _group(job.passes()[-1], TrainingSettings)
    steps = None if training is None else str(training.steps)
    made_with = metadata.get(SETTINGS_KEY)
    return made_with == _text(_shareable(job)) and metadata.get("ss_steps") == steps


def _shareable(settings: JobSettings) -> Values:
    """The settings without what names files of this machine."""
    own = {n for n, one in PARAMETERS.items() if one.picks in ("folder", "picture", "lora", "vae")}
    given = settings.as_dict()
    given["checkpoint"] = re.split(r"[/\\]", str(given["checkpoint"]))[-1]
    second = given.get(SECOND_PASS)
    if isinstance(second, dict):
        given[SECOND_PASS] = {name: value for name, value in second.items() if name not in own}
    return {name: value for name, value in given.items() if name not in own}


def _model(facts: RunFacts) -> Values:
    values: Values = {
        "base_model_version": BASE_MODEL_VERSIONS[facts.family, facts.predicts_velocity],
        "v2": facts.family == "sd2",
        "sd_model_name": facts.checkpoint_file,
        "sd_model_hash": facts.checkpoint_short_hash,
        "new_sd_model_hash": facts.checkpoint_sha256,
        "vae_name": facts.vae_file,
        "vae_hash": facts.vae_short_hash,
        "new_vae_hash": facts.vae_sha256,
        "clip_skip": facts.clip_skip,
        "zero_terminal_snr": facts.zero_terminal_snr,
        "fp8_base": facts.fp8_base,
    }
    return {key: None if value == "" else value for key, value in values.items()}


def _network(settings: JobSettings, facts: RunFacts) -> Values:
    network, wanted = facts.network, _group(settings, NetworkSettings)
    kind = KINDS[network.kind]
    args: Values = dict(kind.args)
    if kind.convolutions:
        args["conv_dim"] = _or_dynamic(network.conv_rank)
        args["conv_alpha"] = _or_dynamic(network.conv_alpha)
    if wanted:
        args |= _network_args(wanted)
    rates = _group(settings, OptimizerSettings)
    if rates and rates.lora_plus_ratio != 1:
        args["loraplus_lr_ratio"] = rates.lora_plus_ratio
    return {
        "network_module": kind.module,
        "network_dim": _or_dynamic(network.rank),
        "network_alpha": _or_dynamic(network.alpha),
        "network_dropout": wanted.network_dropout or None if wanted else None,
        "scale_weight_norms": wanted.scale_weight_norms or None if wanted else None,
        "network_args": {key: str(value) for key, value in args.items()},
    }


def _network_args(wanted: NetworkSettings) -> Values:
    """What was set beside the sizes, by sd-scripts' and LyCORIS's names."""
    given: Values = {
        "rank_dropout": wanted.rank_dropout,
        "module_dropout": wanted.module_dropout,
    }
    if wanted.network.startswith("lokr"):
        given["factor"] = wanted.lokr_factor
    return {name: value for name, value in given.items() if value}


def _course(settings: JobSettings, facts: RunFacts) -> Values:
    """How long it ran, and what was asked for."""
    output, training = _group(settings, OutputSettings), _group(settings, TrainingSettings)
    values: Values = {
        "session_id": facts.session_id,
        "training_started_at": facts.started_at_s,
        "training_finished_at": facts.finished_at_s,
        "steps": facts.steps,
        "epoch": facts.epoch,
        "num_epochs": facts.epochs,
        "num_batches_per_epoch": facts.batches_per_epoch,
        "seed": facts.seed,
        "mixed_precision": facts.mixed_precision,
    }
    if output:
        values["output_name"] = output.name
        values["training_comment"] = output.description or None
    if training:
        values |= {
            "max_train_steps": training.steps,
            "gradient_checkpointing": training.gradient_checkpointing,
            "gradient_accumulation_steps": training.gradient_accumulation_steps,
            "max_grad_norm": training.max_grad_norm,
            "batch_size_per_device": training.batch_size,
            "total_batch_size": training.batch_size * training.gradient_accumulation_steps,
        }
    return values


def _optimization(settings: JobSettings, facts: RunFacts) -> Values:
    optimizer, loss = _group(settings, OptimizerSettings), _group(settings, LossSettings)
    training = _group(settings, TrainingSettings)
    values: Values = {}
    if optimizer:
        given = parse_arguments(optimizer.optimizer_args)
        args = ",".join(f"{name}={value}" for name, value in given.items())
        text_encoder_lr = optimizer.text_encoder_learning_rate
        values |= {
            "optimizer": optimizer.optimizer + (f"({args})" if args else ""),
            "learning_rate": optimizer.learning_rate,
            "unet_lr": optimizer.learning_rate,
            "text_encoder_lr": text_encoder_lr if facts.text_encoder_trained else None,
            "lr_scheduler": optimizer.lr_scheduler,
            "lr_warmup_steps": warmup_steps(optimizer, training.steps) if training else 0,
        }
    if loss:
        debiased = loss.debiased_estimation
        values["min_snr_gamma"] = None if debiased else loss.min_snr_gamma or None
        values["debiased_estimation"] = debiased
        values["loss_type"] = LOSS_TYPES[loss.loss]
        if loss.loss in ("Huber", "Pseudo-L1"):
            values |= {"huber_c": loss.huber_c, "huber_schedule": loss.huber_schedule}
    return values | _variations(settings)


def _variations(settings: JobSettings) -> Values:
    """What noise and captions are changed by; sd-scripts writes None for noise that is off."""
    noise, prior = settings.get(NoiseSettings), settings.get(PriorSettings)
    coarse = noise.multires_noise_iterations
    values: Values = {
        "noise_offset": noise.noise_offset or None,
        "adaptive_noise_scale": noise.adaptive_noise_scale or None,
        "multires_noise_iterations": coarse or None,
        "multires_noise_discount": noise.multires_noise_discount if coarse else None,
        "ip_noise_gamma": noise.input_perturbation or None,
        "prior_loss_weight": prior.prior_loss_weight,
    }
    captions = settings.get(CaptionSettings)
    values |= {
        "shuffle_caption": captions.shuffle_tags,
        "keep_tokens": captions.keep_tokens,
        "caption_dropout_rate": captions.caption_dropout_rate or 0,
        "caption_dropout_every_n_epochs": captions.caption_dropout_every_epochs,
        "caption_tag_dropout_rate": captions.tag_dropout_rate or 0,
        "max_token_length": captions.max_prompt_tokens,
    }
    return values


def _data(settings: JobSettings, facts: RunFacts) -> Values:
    data = _group(settings, PictureSettings)
    height, width = facts.resolution_px
    values: Values = {"resolution": (width, height), "cache_latents": True}
    if not data:
        return values
    sides = [side for frame in facts.buckets for side in frame] or [height, width]
    values |= {
        "num_train_images": sum(folder.images * folder.repeats for folder in facts.folders),
        "num_reg_images": facts.regularising,
        "tag_frequency": {folder.name: dict(folder.tags) for folder in facts.folders},
        "dataset_dirs": {
            folder.name: {"n_repeats": folder.repeats, "img_count": folder.images}
            for folder in facts.folders
        },
        "bucket_info": {
            "buckets": {
                str(index): {"resolution": [frame[1], frame[0]], "count": count}
                for index, (frame, count) in enumerate(facts.buckets.items())
            },
            "mean_img_ar_error": facts.mean_ratio_error,
        },
        "enable_bucket": True,
        "bucket_no_upscale": data.disable_upscale,
        "min_bucket_reso": min(sides),
        "max_bucket_reso": max(sides),
        "flip_aug": data.mirror,
    }
    return values


def _modelspec(settings: JobSettings, facts: RunFacts) -> Values:
    """Empty texts stand for keys that are not written."""
    data, loss = _group(settings, PictureSettings), _group(settings, LossSettings)
    output = _group(settings, OutputSettings)
    height, width = facts.resolution_px
    date = datetime.fromtimestamp(int(facts.finished_at_s), timezone.utc)
    trigger = data.trigger_word if data else ""
    return {
        "sai_model_spec": "1.0.1",
        "architecture": f"{ARCHITECTURES[facts.family, facts.predicts_velocity]}/lora",
        "implementation": LDM_IMPLEMENTATION if facts.family == "sdxl" else "diffusers",
        "title": output.name if output else "",
        "author": output.author if output else "",
        "description": output.description if output else "",
        "resolution": f"{width}x{height}",
        "date": date.replace(tzinfo=None).isoformat(),
        "prediction_type": "v" if facts.predicts_velocity else "epsilon",
        "timestep_range": f"{loss.min_timestep},{loss.max_timestep}" if loss else "",
        "encoder_layer": facts.clip_skip or "",
        "trigger_phrase": trigger,
        "usage_hint": f"Use the words: {trigger}" if trigger else "",
    }


def _or_dynamic(value: float | None) -> object:
    """A rank or alpha, or sd-scripts' word for one that differs between layers."""
    return "Dynamic" if value is None else value


def _group(settings: JobSettings, group: type[Group]) -> Group | None:
    """A group of settings, or None where the method does not use it."""
    try:
        return settings[group]
    except KeyError:
        return None


def _text(value: object) -> str:
    """A value as sd-scripts writes it; what a user typed is never mistaken for JSON."""
    if isinstance(value, str):
        text = as_unicode(value)
        # The webui decodes texts that begin so, and expects JSON objects of certain shapes.
        return f" {text}" if text.startswith("{") else text
    return json.dumps(value) if isinstance(value, dict) else str(value)
