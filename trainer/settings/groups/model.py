"""Parameters of the frozen base model."""

from __future__ import annotations

from dataclasses import dataclass

from ..fields import parameter


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """The model that is trained on."""

    checkpoint: str = parameter(
        help="The checkpoint that the LoRA is trained on: a file name in the models folder, or a"
        " path. Use the one that you generate with, or its ancestor: a LoRA works best on the"
        " model it was trained on and on models derived from it.",
        cure="give the name or path of a checkpoint file",
        aliases=("model", "pretrained_model_name_or_path"),
        picks="checkpoint",
    )
    vae: str = parameter(
        "",
        title="VAE",
        help="Another VAE file that turns the pictures into latents. Empty: the checkpoint's own."
        " Change it only when you also generate with that VAE.",
        picks="vae",
    )
    clip_skip: int = parameter(
        0,
        minimum=0,
        maximum=12,
        help="Take the text encoder's output this many layers before its end; 1 is the last layer."
        " Use the number that you generate with: 1 for photographic SD1 models, usually 2 for"
        " anime models. 0: what is set in the webui, and 1 without a webui. SD2 and SDXL take"
        " the layer that they were made with, or the one that the webui's own settings name for"
        " them.",
        title="CLIP skip",
    )
    base_precision: str = parameter(
        "auto",
        choices=("auto", "fp32", "bf16", "fp16", "fp8", "int8"),
        help="Precision in which the frozen model computes; what is trained is always kept in its"
        " own. auto: on an NVIDIA or AMD GPU the precision in which the weights lie there already,"
        " so that nothing is copied, elsewhere fp32. fp32 is exact; bf16 (RTX 30 and newer) and"
        " fp16 halve the memory and are faster on a GPU; a CPU with AVX512-BF16 takes about"
        " half as long in bf16 as in fp32, with 15 to 50 % less memory. fp8 and int8 keep the"
        " weights in 8 bits and compute in bf16 or fp16: half the memory again, slower, a little"
        " less exact; in a webui they are a copy beside its own weights, so that auto takes less.",
        aliases=("train_model_precision", "mixed_precision"),
    )
    vae_precision: str = parameter(
        "fp32",
        title="VAE precision",
        choices=("fp32", "bf16", "fp16"),
        help="Precision in which the VAE encodes the pictures, once before training. Leave it at"
        " fp32 unless memory is short: in fp16 the SDXL VAE can give black pictures.",
        aliases=("train_VAE_precision",),
    )
    prediction_type: str = parameter(
        "auto",
        choices=("auto", "epsilon", "v_prediction"),
        help="What the model predicts: the noise (epsilon) or the velocity (v_prediction). auto"
        " finds out from the checkpoint. Set it only when detection is wrong, which shows as a"
        " loss that does not fall and grey or burnt pictures.",
        aliases=("model_v_pred", "v_parameterization"),
    )
    zero_terminal_snr: str = parameter(
        "auto",
        title="Zero terminal SNR",
        choices=("auto", "on", "off"),
        help="Whether the last noise level is pure noise, as in some models that predict the"
        " velocity. auto finds out from the checkpoint's mark or from the webui's noise schedule."
        " Set it only when detection is wrong, which shows in pictures that are too bright, dark"
        " or grey.",
    )
