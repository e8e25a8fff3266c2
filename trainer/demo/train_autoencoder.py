"""The embedded checkpoint's autoencoder: its start, its training, its pictures."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from torch import nn

from ..models.families import SD1
from .progress import SEED, report
from .world import (
    NOVEL_SHAPES,
    SHAPES,
    draw,
    polygon_coverage,
    random_placement,
    random_scene,
)

Bytes = NDArray[np.uint8]

LATENT_SCALE = SD1.latent_scale
VAE_WIDTHS = (96, 96, 96, 96)
AUTOENCODER_BATCH = 8
AUTOENCODER_ROUNDS = ((1300, 5e-4), (650, 4e-4))
"""Steps and highest learning rate; each round ends at a learning rate of 0."""
KL_WEIGHT = 1e-4
CONSTANT_CHANNEL = 3.0
RGB_CHANNELS = [0, 3, 6]
SILU_AT_2, SILU_SLOPE_AT_2 = 1.7616, 1.0908
INITIAL_LOGVAR = -5.0


def new_autoencoder() -> AutoencoderKL:
    """SD1's autoencoder, narrow, initialised by `start_as_thumbnail`."""
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=VAE_WIDTHS,
        latent_channels=4,
        layers_per_block=2,
    )
    start_as_thumbnail(vae)
    return vae


@torch.no_grad()
def start_as_thumbnail(vae: AutoencoderKL) -> None:
    """Initialises the autoencoder so that its latents begin as the picture shrunk eightfold.

    From random weights, flat colour is learned very slowly, because ldm's GroupNorm has 32 groups
    whatever the width, and a norm over one or two channels removes what is constant in a picture.
    So the levels that end in a norm get three channels a group: a signal and two constants, +K
    and -K, whose deviation outweighs the signal's.  Channels 0, 3 and 6 carry red, green and blue
    straight through: residual branches start at zero, resampling convolutions as means and copies.
    """
    for name, module in vae.named_modules():
        if name.endswith(("conv2", "to_out.0")):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
        elif name.endswith(("coder.conv_in", "samplers.0.conv", "conv_shortcut")):
            _pass_colours_on(name, module)
        elif name.endswith("conv_norm_out"):
            nn.init.constant_(module.bias, 2.0)  # where SiLU is close to linear
        elif name.endswith("coder.conv_out"):
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)
            gain = CONSTANT_CHANNEL * (2 / 3) ** 0.5 / SILU_SLOPE_AT_2
            module.weight[:3] = 0
            module.weight[[0, 1, 2], RGB_CHANNELS, 1, 1] = gain
            module.bias[:3] = -gain * SILU_AT_2
            module.bias[4:] = INITIAL_LOGVAR
        elif name.endswith("quant_conv"):
            module.weight.copy_(torch.eye(len(module.weight))[..., None, None])
            nn.init.zeros_(module.bias)


def _pass_colours_on(name: str, conv: nn.Conv2d) -> None:
    """A convolution of the residual stream: colours copied or averaged, the rest random."""
    nn.init.kaiming_normal_(conv.weight, nonlinearity="linear")
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    if conv.out_channels % 96 == 0:
        for offset, value in ((1, CONSTANT_CHANNEL), (2, -CONSTANT_CHANNEL)):
            conv.weight[offset::3] = 0
            conv.bias[offset::3] = value
    source = [0, 1, 2] if name.endswith("conv_in") else RGB_CHANNELS
    conv.weight[RGB_CHANNELS] = 0
    if "downsamplers" in name:
        # Stride 2; diffusers pads on the right and at the bottom: taps 0 and 1 are the block.
        conv.weight[RGB_CHANNELS, source, :2, :2] = 0.25
    else:
        middle = conv.kernel_size[0] // 2
        conv.weight[RGB_CHANNELS, source, middle, middle] = 1


def to_tensor(picture: Bytes) -> torch.Tensor:
    """uint8 [h, w, 3] -> float32 [3, h, w] in -1..1."""
    return torch.from_numpy(picture.copy()).permute(2, 0, 1).float() / 127.5 - 1


def abstract_picture(rng: np.random.Generator, height_px: int, width_px: int) -> Bytes:
    """Random polygons in random colours: keeps the autoencoder from knowing the world only."""
    picture = np.ones((height_px, width_px, 3), np.float32) * rng.uniform(0, 255, 3)
    for _ in range(rng.integers(1, 4)):
        corners = rng.integers(3, 9)
        angles = np.sort(rng.uniform(0, 2 * math.pi, corners))
        radii = rng.uniform(0.4, 1, corners)
        polygon = np.stack([radii * np.cos(angles), radii * np.sin(angles)], 1)
        place = random_placement(rng, "large", height_px, width_px)
        covered = polygon_coverage(
            polygon, place, height_px, width_px, bool(rng.random() < 0.2), bool(rng.random() < 0.2)
        )[..., None]
        picture = covered * rng.uniform(0, 255, 3) + (1 - covered) * picture
    return np.clip(picture, 0, 255).astype(np.uint8)


def picture_batches(
    rng: np.random.Generator, count: int = AUTOENCODER_BATCH
) -> Iterator[torch.Tensor]:
    """Endless batches [count, 3, h, w] of world pictures, a quarter of them abstract."""
    while True:
        height, width = ((64, 64), (64, 64), (64, 64), (64, 96), (96, 64))[rng.integers(5)]
        pictures = []
        for _ in range(count):
            if rng.random() < 0.25:
                pictures.append(abstract_picture(rng, height, width))
            else:
                scene = random_scene(rng, SHAPES + NOVEL_SHAPES)
                pictures.append(np.asarray(draw(scene, height, width, rng)))
        yield torch.stack([to_tensor(picture) for picture in pictures])


def train_autoencoder(vae: AutoencoderKL, number: int) -> AutoencoderKL:
    """Makes one of `AUTOENCODER_ROUNDS`, with pictures and noise of its own."""
    steps, learning_rate = AUTOENCODER_ROUNDS[number]
    rng = np.random.default_rng([SEED, number])
    torch.manual_seed(SEED + number)
    vae.train().requires_grad_(True)

    def loss_of(pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(pictures).latent_dist
            decoded = vae.decode(posterior.sample()).sample
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        return decoded.float(), KL_WEIGHT * kl

    title = f"autoencoder, round {number + 1}"
    fit_pictures(title, list(vae.parameters()), loss_of, picture_batches(rng), steps, learning_rate)
    return scale_latents(vae.eval().requires_grad_(False), rng)


def fit_pictures(
    title: str,
    parameters: list[nn.Parameter],
    decode: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]],
    batches: Iterator[torch.Tensor],
    steps: int,
    learning_rate: float,
) -> None:
    """Fits decoded pictures to the drawn ones; `decode` gives them and a further loss."""
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, total_steps=steps, pct_start=0.05
    )
    started = time.monotonic()
    for step in range(steps):
        pictures = next(batches)
        decoded, further = decode(pictures)
        error = decoded - pictures
        loss = error.square().mean() + 0.2 * error.abs().mean() + further
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0 or step == steps - 1:
            report(title, step, steps, started, f"mse {error.square().mean():.5f}")


@torch.no_grad()
def scale_latents(vae: AutoencoderKL, rng: np.random.Generator) -> AutoencoderKL:
    """Folds a factor into the 1x1 convolutions around the latents.

    Afterwards latents x 0.18215 have unit variance, which is what every reader of an SD1 file
    assumes.
    """
    batches = picture_batches(rng, 64)
    latents = torch.cat([vae.encode(next(batches)).latent_dist.mean.flatten() for _ in range(4)])
    factor = 1 / (LATENT_SCALE * float(latents.std()))
    vae.quant_conv.weight[:4] *= factor
    vae.quant_conv.bias[:4] *= factor
    vae.quant_conv.bias[4:] += 2 * math.log(factor)
    vae.post_quant_conv.weight /= factor
    return vae
