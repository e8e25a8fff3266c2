"""The embedded checkpoint's UNet and text encoder, trained together on a pool of latents."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL import Image
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from ..diffusion.loss import denoising_loss, min_snr_weights
from ..diffusion.sampling import sample_latents
from ..diffusion.schedule import scaled_linear
from ..models.tokenizer import clip_tokenizer
from . import judge
from .progress import SEED, report
from .train_autoencoder import LATENT_SCALE, to_tensor
from .world import COLOURS, SHAPES, Scene, draw, random_caption, random_scene, sentence

UNET_WIDTHS = (64, 64, 64, 128)
TEXT_WIDTH, TEXT_LAYERS = 64, 4
DENOISER_STEPS, DENOISER_BATCH = 9000, 64
DECAY_STEPS = 3000
STATE_EVERY_STEPS = 500
POOL = {(64, 64): 7000, (64, 96): 600, (96, 64): 600, (96, 96): 600, (128, 128): 400}
SIZE_ODDS = {(64, 64): 0.62, (64, 96): 0.1, (96, 64): 0.1, (96, 96): 0.1, (128, 128): 0.08}
EMA_DECAY = 0.999
MIN_SNR_GAMMA = 5.0


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
