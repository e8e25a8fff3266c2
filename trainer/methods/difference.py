"""Difference: a copier learns the picture before the change, a second network what is then new."""

from __future__ import annotations

from dataclasses import replace

import torch

from ..control import Request
from ..events import Notice
from ..networks.network import Network
from ..settings.groups import CopierSettings, OutputSettings, TrainingSettings
from ..training.denoising import Denoising
from ..training.encoding import encode_pairs, pair_order, prompt_encoder
from ..training.loop import LossFunction, Outcome
from ..training.saving import Saving
from ..training.session import Session
from ..training.training_data import PairData


def train(session: Session) -> Outcome:
    """Trains the copier on the originals; then, with it frozen and active, the difference.

    Only the second network is saved: as the copier already draws everything that both pictures
    have in common, nothing but the difference is left to learn for it.

    Raises:
        BadInput: a picture cannot be decoded, or a file to continue from does not fit.
        NotANumber: the loss became NaN.
        Stopped: the user ended the job before its first step.
    """
    wanted = session.settings[CopierSettings]
    second = session.second_pass()
    copier = session.new_network(None if wanted.copier_only else wanted.copier_file)
    network = None if wanted.copier_only else second.new_network()
    data = encode_pairs(session)
    if not wanted.copier_file:
        outcome = _train_copier(session, copier, data)
        if wanted.copier_only or outcome.request is not Request.CONTINUE:
            return outcome
    assert network is not None
    copier.requires_grad_(False)
    first, then = (one.settings[TrainingSettings].batch_size for one in (session, second))
    if then != first:  # else the order goes on where the first pass has left it
        data = replace(data, order=pair_order(second, data.dataset))
    with copier:
        loss = _loss(second, data, of_targets=True)
        with network:
            title = "Training the difference"
            return second.fit(network, loss, data=data, title=title, helpers=[copier])


def _train_copier(session: Session, copier: Network, data: PairData) -> Outcome:
    wanted, output = session.settings[CopierSettings], session.settings[OutputSettings]
    file = session.plan.output_file.with_name(f"{output.name}-copier.safetensors")
    saving = None if wanted.copier_only else Saving(file, at_end=wanted.save_copier)
    with copier:
        loss = _loss(session, data, of_targets=False)
        outcome = session.fit(copier, loss, data=data, title="Training the copier", saving=saving)
    if saving is not None and outcome.request is Request.STOP_AND_SAVE:
        session.sink(Notice("Stopped in the first pass: go on with its file as copier_file"))
    return outcome


def _loss(session: Session, data: PairData, *, of_targets: bool) -> LossFunction:
    """The denoising loss on one side of the pairs."""
    denoising = Denoising(session, prompt_encoder(session, data.dataset.captions))

    def loss_of_next_batch() -> torch.Tensor:
        batch = data.take(next(data.order))
        (errors,) = denoising.errors(denoising.noisy(batch.side(of_targets=of_targets)))
        return errors.mean()

    return loss_of_next_batch
