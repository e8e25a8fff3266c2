"""LoRA from pictures: the network learns to denoise them under their captions."""

from __future__ import annotations

import torch

from ..settings.groups import PriorSettings
from ..training.denoising import Denoising
from ..training.encoding import caption_encoder, encode_images
from ..training.holding import held_batches, held_prompts
from ..training.loop import Outcome
from ..training.session import Session
from ..training.training_data import Places


def train(session: Session) -> Outcome:
    """Trains and saves the network.

    Where prompts are to be preserved, the frozen model's answers to them are learnt as well, so
    that only what the pictures show becomes different; regularising pictures do the same within
    the pictures' own batches.

    Raises:
        BadInput: a picture cannot be decoded, or a file to continue from does not fit.
        NotANumber: the loss became NaN.
        Stopped: the user ended the job before its first step.

    Source: Ho et al. 2020, eq. 14, with the weights of Hang et al. 2023; the prior is that of
    Ruiz et al. 2023, "DreamBooth", eq. 2, with answers instead of pictures.
    """
    prior = session.settings[PriorSettings]
    data = encode_images(session)
    held = held_batches(session)
    denoising = Denoising(session, caption_encoder(session, data, held_prompts(session)))
    network = session.new_network()

    def loss_of_next_batch() -> torch.Tensor:
        pictures = denoising.noisy(data.next())
        if held is None:
            (learning,) = denoising.errors(pictures)
            return learning.mean()
        learning, keeping = denoising.errors(pictures, next(held))
        return learning.mean() + prior.prior_loss_weight * keeping.mean()

    order = None if held is None else Places(pictures=data.order, held=held)
    with network:
        return session.fit(network, loss_of_next_batch, data=data, order=order)
