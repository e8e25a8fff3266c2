"""A diffusion model in parts, as a method uses it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextModel

from ..data.buckets import LATENT_CELL_PX
from ..diffusion.schedule import NoiseSchedule, PredictionType, scaled_linear, zero_terminal_snr
from ..errors import BadInput, Problem
from .assemble import assemble_text_encoder, assemble_unet, assemble_vae
from .convolution import freeze_convolutions
from .families import Family
from .packing import STORAGES, Storage, place
from .prediction import predicts_velocity
from .prompts import PromptStyle, WeightedEncoder
from .text import Conditioning, PromptEncoder, TextEncoder
from .tokenizer import clip_tokenizer

AT_ONCE_PX = 4 * 512 * 512
"""Most pixels of several pictures that go through the VAE together."""
ASIDE = torch.device("cpu")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def compute_dtype(precision: str, stored: torch.dtype, device: torch.device) -> torch.dtype:
    """What UNet and text encoder calculate in.

    "auto" is the precision of the weights where the device is at its best in it, so that they are
    shared and not copied; weights of 8 bits are computed in float16, or in bfloat16 where they
    were float32 before they were packed.

    Args:
        precision: a name from `DTYPES` or `STORAGES`, or "auto".
        stored: the precision of the weights as they are.
    """
    if precision in DTYPES:
        return DTYPES[precision]
    if device.type != "cuda":  # CPUs emulate the half precisions; others lack parts of autocast
        return torch.float32
    if torch.empty(0, dtype=stored).element_size() == 1:
        return torch.float16
    has_bfloat16 = torch.cuda.get_device_capability(device) >= (8, 0)
    if precision in STORAGES and stored is torch.float32:
        return torch.bfloat16 if has_bfloat16 else torch.float16
    return torch.float32 if stored is torch.bfloat16 and not has_bfloat16 else stored


def kept_in(precision: str, stored: torch.dtype, device: torch.device) -> Storage | None:
    """How the weights of UNet and text encoders are kept; None: in what they are computed in.

    Weights that lie on a GPU in 8 bits already are shared as they are, unless a precision is set.

    Args:
        precision: a name from `DTYPES` or `STORAGES`, or "auto".
        stored: the precision of the weights as they are.

    Raises:
        BadInput: this torch does not have the format.
    """
    fp8 = STORAGES.get("fp8")
    if precision == "fp8" and fp8 is None:
        what = f"is fp8, which torch {torch.__version__} does not have"
        raise BadInput([Problem("base_precision", what, "choose int8, or torch 2.1 or newer")])
    if precision == "auto" and device.type == "cuda" and fp8 is not None and stored is fp8.dtype:
        return fp8
    return STORAGES.get(precision)


def at_once(size_px: tuple[int, int]) -> int:
    """How many pictures of a (height, width) go through the VAE together."""
    return max(1, AT_ONCE_PX // (size_px[0] * size_px[1]))


@dataclass(frozen=True)
class Origin:
    """Where a model came from, for the metadata of what is trained on it."""

    name: str
    """The checkpoint's file name."""
    sha256: str = ""
    legacy_hash: str = ""
    vae_name: str = ""


@dataclass
class DiffusionModel:
    """UNet, autoencoder and text encoders over shared tensors, all frozen.

    Attributes:
        prompts: holds the text encoders.
        device: where it computes; parts that are not needed for a while may lie elsewhere.
        compute_dtype: what the UNet and text encoders calculate in; autocast is on when it is not
            float32.
        style: how prompts in the webui's syntax are read.
    """

    family: Family
    unet: UNet2DConditionModel
    vae: AutoencoderKL
    prompts: PromptEncoder
    schedule: NoiseSchedule
    device: torch.device
    compute_dtype: torch.dtype
    origin: Origin = field(default_factory=lambda: Origin("unknown"))
    own: tuple[nn.Module, ...] = ()
    """Parts whose weights nobody else holds, so that they can be set aside."""
    style: PromptStyle = field(default_factory=PromptStyle)

    @property
    def text_encoders(self) -> tuple[CLIPTextModel, ...]:
        """In the family's order."""
        return tuple(encoder.model for encoder in self.prompts.encoders)

    @property
    def clip_skip(self) -> int | None:
        """What the text encoder's output is taken by; None where the family fixes it."""
        return self.prompts.encoders[0].clip_skip if self.family.takes_clip_skip else None

    def autocast(self) -> AbstractContextManager[object]:
        """The precision of the model's calculations, as a context."""
        half = self.compute_dtype is not torch.float32
        if not half and self.device.type not in ("cpu", "cuda"):
            # Before torch 2.5 others, such as mps, have no autocast, not even one that is off.
            return nullcontext()
        dtype = self.compute_dtype if half else torch.bfloat16
        return torch.autocast(self.device.type, dtype, enabled=half)

    def set_aside(self, *parts: nn.Module) -> None:
        """Moves parts to the main memory until they are needed, where that frees any."""
        for part in parts:
            if self.device != ASIDE and any(part is own for own in self.own):
                part.to(ASIDE)

    def at_hand(self, *parts: nn.Module) -> None:
        """Brings parts back that were set aside."""
        for part in parts:
            if next(part.parameters()).device != self.device:
                part.to(self.device)

    def denoise(
        self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning
    ) -> torch.Tensor:
        """The UNet's prediction, float32 of the latents' shape [n, 4, h, w]."""
        added: dict[str, torch.Tensor] | None = None
        if conditioning.pooled is not None:
            height, width = latents.shape[-2:]
            sizes = conditioning.sizes_px((height, width))
            added = {"text_embeds": conditioning.pooled, "time_ids": sizes}
        with self.autocast():
            prediction: torch.Tensor = self.unet(
                latents,
                timesteps,
                conditioning.context,
                added_cond_kwargs=added,
                return_dict=False,
            )[0]
        return prediction.float()

    def encode_prompts(self, prompts: list[str]) -> Conditioning:
        """See `PromptEncoder.encode`."""
        self.at_hand(*self.text_encoders)
        with self.autocast():
            return self.prompts.encode(prompts)

    def encode_weighted(self, prompts: list[str]) -> Conditioning:
        """Prompts in the webui's syntax; see `WeightedEncoder`."""
        self.at_hand(*self.text_encoders)
        with self.autocast():
            return WeightedEncoder(self.prompts, self.style)(prompts)

    @torch.no_grad()
    def encode_guided(self, prompts: list[str], negative_prompt: str = "") -> Conditioning:
        """Twice as many as `prompts`: what guidance leads away from, then the prompts.

        All in the webui's syntax, so that a picture is the one that it draws.
        """
        count = len(prompts)
        both = self.encode_weighted([negative_prompt] * count + prompts)
        if negative_prompt == "" and self.family.empty_negative_is_zero:
            both.context[:count] = 0
            if both.pooled is not None:
                both.pooled[:count] = 0
        return both

    @torch.no_grad()
    def encode_pixels(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels [n, 3, h, w] in -1..1 to scaled latents [n, 4, h/8, w/8], float32.

        The distribution's mean is taken: its deviation is far below what a step can see, and the
        same picture then always has the same latents.
        """
        vae = self.vae
        self.at_hand(vae)
        means = [
            vae.encode(part.to(self.device, vae.dtype)).latent_dist.mean
            for part in pixels.split(at_once((pixels.shape[-2], pixels.shape[-1])))
        ]
        return (torch.cat(means) * self.family.latent_scale).float()

    @torch.no_grad()
    def decode_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """Scaled latents [n, 4, h, w] to pixels [n, 3, 8h, 8w], float32, clamped to -1..1."""
        self.at_hand(self.vae)
        scaled = (latents / self.family.latent_scale).to(self.vae.dtype)
        height, width = (side * LATENT_CELL_PX for side in latents.shape[-2:])
        parts: list[torch.Tensor] = [
            self.vae.decode(part, return_dict=False)[0]
            for part in scaled.split(at_once((height, width)))
        ]
        return torch.cat(parts).float().clamp(-1, 1)


def assemble_model(
    tensors: Mapping[str, torch.Tensor],
    family: Family,
    *,
    device: torch.device,
    dtype: torch.dtype | None = None,
    storage: Storage | None = None,
    vae_dtype: torch.dtype | None = None,
    clip_skip: int = 1,
    prediction_type: PredictionType | None = "epsilon",
    zero_snr: bool = False,
    vae_tensors: Mapping[str, torch.Tensor] | None = None,
    origin: Origin | None = None,
    style: PromptStyle | None = None,
    shared: bool = True,
) -> DiffusionModel:
    """Assembles the model over a checkpoint's tensors: the tensors themselves where they fit.

    Args:
        dtype: what UNet and text encoders compute in; None: what the tensors are.
        storage: how their weights are kept, if not in what they are computed in.
        vae_dtype: as `dtype`, for the VAE.
        prediction_type: what the model predicts; None: nothing tells, so that the model is asked
            where the family has both kinds.
        zero_snr: the model was trained with a last step of pure noise.
        style: how prompts in the webui's syntax are read.
        shared: whether somebody else holds the tensors too.

    Raises:
        BadInput: when tensors are missing or of another shape than the layout demands, or when a
            model that predicts the noise is to have a last step of pure noise.
    """
    unet = assemble_unet(tensors, family)
    vae = assemble_vae(tensors if vae_tensors is None else vae_tensors, family)
    encoders = [
        TextEncoder(assemble_text_encoder(tensors, row), row, clip_skip)
        for row in family.text_encoders
    ]
    own = [vae] if place(vae, device, vae_dtype) else []
    own += [one.model for one in encoders if place(one.model, device, dtype, storage)]
    copied = place(unet, device, dtype, storage)
    freeze_convolutions(unet, shared=shared and not copied)
    device = unet.device  # with its number, as all tensors have it: "cuda" is not "cuda:0"
    if prediction_type is None:
        velocity = family.unmarked_velocity and predicts_velocity(unet)
        prediction_type = "v_prediction" if velocity else "epsilon"
    return DiffusionModel(
        family=family,
        unet=unet,
        vae=vae,
        prompts=PromptEncoder(clip_tokenizer(), encoders),
        schedule=_schedule(prediction_type, zero_snr).to(device),
        device=device,
        compute_dtype=unet.dtype,
        origin=origin or Origin("unknown"),
        own=tuple(own),
        style=style or PromptStyle(),
    )


def _schedule(prediction_type: PredictionType, zero_snr: bool) -> NoiseSchedule:
    """Raises: BadInput: a last step of pure noise, for a model that predicts the noise."""
    schedule = scaled_linear(prediction_type)
    if not zero_snr:
        return schedule
    if prediction_type == "epsilon":
        what = "is on, but the model predicts the noise, which says nothing of pure noise"
        raise BadInput([Problem("zero_terminal_snr", what, "set it to off")])
    return zero_terminal_snr(schedule)
