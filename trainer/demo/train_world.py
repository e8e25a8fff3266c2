"""Trains the embedded checkpoint from a fixed seed: `python -m trainer.demo.train_world OUT`.

Three stages, each saved under OUT and skipped when its file is there: the autoencoder, the pool
of latents, the denoiser with its text encoder.  Together they are then written as one SD1
checkpoint over the committed one.  About an hour and a half on two CPU cores.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from ..diffusion.loss import denoising_loss, min_snr_weights
from ..diffusion.sampling import sample_latents
from ..diffusion.schedule import scaled_linear
from ..models.export import ldm_tensors, write_checkpoint
from ..models.families import SD1
from ..models.tokenizer import clip_tokenizer
from . import judge
from .checkpoint import CHECKPOINT
from .world import (
    COLOURS,
    NOVEL_SHAPES,
    SHAPES,
    Scene,
    draw,
    polygon_coverage,
    random_caption,
    random_placement,
    random_scene,
    sentence,
)

Bytes = NDArray[np.uint8]

SEED = 20261120
LATENT_SCALE = SD1.latent_scale
UNET_WIDTHS = (64, 64, 64, 128)
VAE_WIDTHS = (96, 96, 96, 96)
TEXT_WIDTH, TEXT_LAYERS = 64, 4

AUTOENCODER_BATCH = 8
AUTOENCODER_ROUNDS = ((1300, 5e-4), (650, 4e-4))
"""Steps and highest learning rate; each round ends at a learning rate of 0."""
KL_WEIGHT = 1e-4
CONSTANT_CHANNEL = 3.0
RGB_CHANNELS = [0, 3, 6]
SILU_AT_2, SILU_SLOPE_AT_2 = 1.7616, 1.0908
INITIAL_LOGVAR = -5.0
DENOISER_STEPS, DENOISER_BATCH = 5000, 64
DECAY_STEPS = 1500
STATE_EVERY_STEPS = 500
POOL = {(64, 64): 7000, (64, 96): 600, (96, 64): 600, (96, 96): 600, (128, 128): 400}
SIZE_ODDS = {(64, 64): 0.62, (64, 96): 0.1, (96, 64): 0.1, (96, 96): 0.1, (128, 128): 0.08}
EMA_DECAY = 0.999
MIN_SNR_GAMMA = 5.0


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


def new_unet() -> UNet2DConditionModel:
    """SD1's UNet, narrow: 8 heads at every width, as in SD1."""
    return UNet2DConditionModel(
        block_out_channels=UNET_WIDTHS,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=8,
        layers_per_block=2,
    )


def new_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """CLIP's text transformer, narrow: 64 channels a head, as in every CLIP that SD uses."""
    return CLIPTextModel(
        CLIPTextConfig(
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            num_hidden_layers=TEXT_LAYERS,
            num_attention_heads=1,
            hidden_act="quick_gelu",
            projection_dim=TEXT_WIDTH,
            vocab_size=len(tokenizer),
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


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


def picture_batches(rng: np.random.Generator, count: int) -> Iterator[torch.Tensor]:
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
    optimizer = torch.optim.AdamW(vae.parameters(), lr=learning_rate, weight_decay=0, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, total_steps=steps, pct_start=0.05
    )
    started = time.monotonic()
    for step, pictures in zip(range(steps), picture_batches(rng, AUTOENCODER_BATCH), strict=False):
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(pictures).latent_dist
            decoded = vae.decode(posterior.sample()).sample
        error = decoded.float() - pictures
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        loss = error.square().mean() + 0.2 * error.abs().mean() + KL_WEIGHT * kl
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0 or step == steps - 1:
            report(
                f"autoencoder, round {number + 1}", step, steps, started,
                f"mse {error.square().mean():.5f} kl {kl:.2f} std {mean.std():.2f}",
            )  # fmt: skip
    return scale_latents(vae.eval().requires_grad_(False), rng)


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


Pool = dict[tuple[int, int], tuple[torch.Tensor, list[Scene]]]


@torch.no_grad()
def make_pool(vae: AutoencoderKL) -> Pool:
    """Encodes the training pictures: size -> (scaled latents [n,4,h/8,w/8], their scenes)."""
    rng = np.random.default_rng(SEED + 1)
    pool: Pool = {}
    started = time.monotonic()
    for (height, width), count in POOL.items():
        scenes = [random_scene(rng) for _ in range(count)]
        latents = []
        for first in range(0, count, 50):
            pictures = [draw(s, height, width, rng) for s in scenes[first : first + 50]]
            batch = torch.stack([to_tensor(np.asarray(p)) for p in pictures])
            with torch.autocast("cpu", torch.bfloat16):
                mean = vae.encode(batch).latent_dist.mean
            latents.append(mean.float() * LATENT_SCALE)
            report(f"latents {height}x{width}", first + len(batch) - 1, count, started, "")
        pool[height, width] = (torch.cat(latents), scenes)
    return pool


class Captions:
    """Turns captions into token ids, now and then with words that mean nothing here.

    Unknown words are then ignored instead of disturbing the picture, as in a large model.
    """

    def __init__(self, tokenizer: CLIPTokenizer, rng: np.random.Generator) -> None:
        self.tokenizer = tokenizer
        self.rng = rng
        known = " ".join([*COLOURS, *SHAPES, "background striped holed small large picture photo"])
        known_ids = set(tokenizer(known).input_ids)
        self.junk = [
            token[: -len("</w>")]
            for token, index in tokenizer.get_vocab().items()
            if token.endswith("</w>")
            and token[: -len("</w>")].isalpha()
            and len(token) > 7
            and index not in known_ids
        ]

    def ids(self, scenes: list[Scene]) -> torch.Tensor:
        """int64 [n, 77]."""
        return self.encode([self._disturbed(random_caption(s, self.rng)) for s in scenes])

    def encode(self, texts: list[str]) -> torch.Tensor:
        return self.tokenizer(
            texts, padding="max_length", truncation=True, max_length=77, return_tensors="pt"
        ).input_ids

    def _disturbed(self, caption: str) -> str:
        if not caption or self.rng.random() > 0.15:
            return caption
        words = caption.split(" ")
        for _ in range(self.rng.integers(1, 3)):
            place = self.rng.choice([0, len(words)])
            words.insert(place, str(self.rng.choice(self.junk)))
        return " ".join(words)


def text_states(text_encoder: CLIPTextModel, ids: torch.Tensor, clip_skip: int = 1) -> torch.Tensor:
    """float32 [n, 77, width], the states that the UNet is conditioned on."""
    if clip_skip == 1:
        return text_encoder(ids).last_hidden_state
    states = text_encoder(ids, output_hidden_states=True).hidden_states[-clip_skip]
    return text_encoder.text_model.final_layer_norm(states)


class Denoiser(nn.Module):
    """The two modules that are trained together."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.unet = new_unet()
        self.text_encoder = new_text_encoder(tokenizer)


def learning_rate_factor(step: int) -> float:
    """Warm-up, constant, then down to a twentieth over the last steps."""
    warm = min(1.0, (step + 1) / 300)
    left = (DENOISER_STEPS - step) / DECAY_STEPS
    return warm * min(1.0, 0.05 + 0.95 * left)


def train_denoiser(vae: AutoencoderKL, pool: Pool, out: Path) -> Denoiser:
    rng = np.random.default_rng(SEED + 2)
    torch.manual_seed(SEED + 2)
    tokenizer = clip_tokenizer()
    captions = Captions(tokenizer, rng)
    model = Denoiser(tokenizer)
    average = copy.deepcopy(model).requires_grad_(False)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0, fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, learning_rate_factor)
    noise_schedule = scaled_linear()
    weights = min_snr_weights(noise_schedule, MIN_SNR_GAMMA)
    sizes, odds = list(SIZE_ODDS), list(SIZE_ODDS.values())
    state_file = out / "denoiser_state.pt"
    parts = {"model": model, "average": average, "optimizer": optimizer, "schedule": schedule}
    first = _resume(state_file, parts, rng) if state_file.exists() else 0
    started = time.monotonic()
    smoothed = 0.0
    for step in range(first, DENOISER_STEPS):
        size = sizes[rng.choice(len(sizes), p=odds)]
        latents, scenes = pool[size]
        count = DENOISER_BATCH * 64 * 64 // (size[0] * size[1])
        picked = rng.choice(len(scenes), count, replace=False)
        batch = latents[torch.from_numpy(picked)]
        noise = torch.randn_like(batch)
        timesteps = torch.randint(0, len(noise_schedule), (count,))
        ids = captions.ids([scenes[i] for i in picked])
        context = text_states(model.text_encoder, ids, 2 if rng.random() < 0.15 else 1)
        noisy = noise_schedule.add_noise(batch, noise, timesteps)
        prediction = model.unet(noisy, timesteps, context).sample
        loss = denoising_loss(prediction, noise, timesteps, weights)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        decay = min(EMA_DECAY, (step + 1) / (step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
        smoothed = 0.98 * smoothed + 0.02 * loss.item() if smoothed else loss.item()
        if step % 100 == 0:
            report("denoiser", step, DENOISER_STEPS, started, f"loss {smoothed:.4f}", first)
        if (step + 1) % STATE_EVERY_STEPS == 0:
            _save_state(state_file, step + 1, parts, rng)
        if (step + 1) % 1000 == 0:
            right, total = score(average, vae, tokenizer, count=96)
            report("denoiser", step, DENOISER_STEPS, started, f"judge {right}/{total}", first)
    return average


def _save_state(path: Path, step: int, parts: Mapping[str, Any], rng: np.random.Generator) -> None:
    """Everything that the rest of the training depends on, so that it may be interrupted."""
    state = {name: part.state_dict() for name, part in parts.items()}
    state |= {"step": step, "numpy": rng.bit_generator.state, "torch": torch.get_rng_state()}
    torch.save(state, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


def _resume(path: Path, parts: Mapping[str, Any], rng: np.random.Generator) -> int:
    """Takes the state up again and returns the number of steps made."""
    state = torch.load(path, weights_only=False)
    for name, part in parts.items():
        part.load_state_dict(state[name])
    rng.bit_generator.state = state["numpy"]
    torch.set_rng_state(state["torch"])
    return int(state["step"])


@torch.no_grad()
def score(
    model: Denoiser, vae: AutoencoderKL, tokenizer: CLIPTokenizer, count: int
) -> tuple[int, int]:
    """How many of `count` prompts the judge sees drawn right (shape, colour, background)."""
    rng = np.random.default_rng(SEED + 3)
    scenes = [random_scene(rng) for _ in range(count)]
    captions = Captions(tokenizer, rng)
    generator = torch.Generator().manual_seed(SEED + 3)
    noise = torch.randn(count, 4, 8, 8, generator=generator)
    context = text_states(model.text_encoder, captions.encode([sentence(s) for s in scenes]))
    empty = text_states(model.text_encoder, captions.encode([""])).expand_as(context)
    latents = sample_latents(
        lambda x, t, c: model.unet(x, t, c).sample, scaled_linear(), context, empty, noise
    )
    decoded = torch.cat([vae.decode(part / LATENT_SCALE).sample for part in latents.split(32)])
    pictures = ((decoded.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    readings = [judge.read(Image.fromarray(picture)) for picture in pictures]
    return sum(r.shows(s) for r, s in zip(readings, scenes, strict=True)), count


def report(stage: str, step: int, steps: int, started: float, figures: str, first: int = 0) -> None:
    elapsed = time.monotonic() - started
    left = elapsed / (step + 1 - first) * (steps - step - 1)
    print(f"{stage}: {step + 1}/{steps}  {figures}  {elapsed:.0f} s, {left:.0f} s left", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder for the stages' files")
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    pool_file, denoiser_file = out / "pool.pt", out / "denoiser.pt"
    torch.manual_seed(SEED)
    vae = new_autoencoder()
    for number in range(len(AUTOENCODER_ROUNDS)):
        vae_file = out / f"autoencoder_{number + 1}.pt"
        if not vae_file.exists():
            torch.save(train_autoencoder(vae, number).state_dict(), vae_file)
        vae.load_state_dict(torch.load(vae_file))
    vae.eval().requires_grad_(False)
    if not pool_file.exists():
        torch.save(make_pool(vae), pool_file)
    pool = torch.load(pool_file, weights_only=False)
    if not denoiser_file.exists():
        torch.save(train_denoiser(vae, pool, out).state_dict(), denoiser_file)
    tokenizer = clip_tokenizer()
    model = Denoiser(tokenizer)
    model.load_state_dict(torch.load(denoiser_file))
    tensors = ldm_tensors(model.unet, vae, model.text_encoder, SD1, torch.float16)
    write_checkpoint(CHECKPOINT, tensors)
    right, total = score(model.eval(), vae, tokenizer, count=200)
    print(f"{CHECKPOINT}: the judge reads {right} of {total} prompts right")


if __name__ == "__main__":
    main()
