"""Trains the embedded checkpoint from a fixed seed: `python -m trainer.demo.train_world OUT`.

Three stages, each saved under OUT and skipped when its file is there: the autoencoder, the pool
of latents, the denoiser with its text encoder.  Together they are then written as one SD1
checkpoint over the committed one.  About an hour and three quarters on two CPU cores.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from ..models.export import ldm_tensors, write_checkpoint
from ..models.families import SD1
from ..models.tokenizer import clip_tokenizer
from .checkpoint import CHECKPOINT
from .progress import SEED
from .train_autoencoder import (
    AUTOENCODER_ROUNDS,
    new_autoencoder,
    train_autoencoder,
)
from .train_denoiser import Denoiser, make_pool, score, train_denoiser


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
    tensors = ldm_tensors(model.unet, vae, [model.text_encoder], SD1, torch.float16)
    write_checkpoint(CHECKPOINT, tensors)
    right, total = score(model.eval(), vae, tokenizer, count=200)
    print(f"{CHECKPOINT}: the judge reads {right} of {total} prompts right")


if __name__ == "__main__":
    main()
