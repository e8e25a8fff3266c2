"""Prompts that a training holds: the frozen model's answers to them, asked once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from ..data.buckets import LATENT_CELL_PX
from ..events import PhaseProgress, PhaseStarted
from ..settings.groups import (
    CaptionSettings,
    LossSettings,
    PoolSettings,
    PreserveSettings,
    SizeSettings,
    TrainingSettings,
)
from .distributed import current_team
from .encoding import frozen_encoder
from .labels import (
    FrozenModel,
    PoolBatches,
    Question,
    Samples,
    ask,
    guided,
    held_questions,
    joined,
    questions_for,
)

if TYPE_CHECKING:
    from .session import Session

Size = tuple[int, int]


def answered(
    session: Session,
    frozen: FrozenModel,
    kinds: Sequence[tuple[Sequence[Question], float]],
    generator: torch.Generator,
    size_px: Size | None = None,
) -> list[tuple[Samples, float]]:
    """The frozen model's answers to each kind of questions, at least one, with the kind's share.

    Args:
        kinds: one without questions is left out.
        size_px: (height, width) of the pictures that are asked about; None: the image size.

    Raises:
        Stopped: the user ended the job meanwhile.
    """
    settings, loss = session.settings[PoolSettings], session.settings[LossSettings]
    height, width = size_px or session.settings[SizeSettings].image_size_px
    session.sink(PhaseStarted("Asking the frozen model", settings.pool_size))
    done = 0
    pools = []
    for questions, share in kinds:
        answers: list[Samples] = []
        while questions and not answers:  # all of them may miss a narrow range of timesteps
            session.check_stopped()
            for samples in ask(
                frozen,
                questions,
                (height // LATENT_CELL_PX, width // LATENT_CELL_PX),
                timesteps=(loss.min_timestep, loss.max_timestep),
                steps=settings.pool_denoise_steps,
                generator=generator,
            ):
                session.check_stopped()
                answers.append(samples)
                done += len(samples)
                session.sink(PhaseProgress(min(settings.pool_size, done)))
        if answers:
            pools.append((joined(answers), share))
    return pools


def held_prompts(session: Session) -> tuple[str, ...]:
    """What is held: the prompts, each once, and the empty one; nothing if there are none."""
    wanted = session.settings[PreserveSettings]
    prompts = tuple(prompt for prompt in session.prompts(wanted.preserve_prompts) if prompt)
    return tuple(dict.fromkeys((*prompts, ""))) if prompts and wanted.preserve_share else ()


def held_count(batch_size: int, share: float) -> int:
    """How many held samples make `share` of all when they join a batch; at least one."""
    return max(1, round(batch_size * share / (1 - share)))


def usual_frame(frames: Mapping[Size, int]) -> Size | None:
    """The frame of most samples, the largest of several; None if there is none."""
    return max(frames, key=lambda size: (frames[size], size[0] * size[1], size), default=None)


def held_batches(session: Session) -> PoolBatches | None:
    """Batches of held prompts that come beside those of the pictures; None if none are named.

    They are of the pictures' usual frame, so that most batches go through the UNet together with
    them.  What a batch holds follows from the seed, and the noise of the pictures not from it.

    Raises:
        Stopped: the user ended the job meanwhile.
    """
    wanted, pool = session.settings[PreserveSettings], session.settings[PoolSettings]
    prompts = held_prompts(session)
    if not prompts:
        return None
    loss, training = session.settings[LossSettings], session.settings[TrainingSettings]
    count = questions_for(
        pool.pool_size,
        (loss.min_timestep, loss.max_timestep),
        pool.pool_denoise_steps,
        drawn=True,
    )
    questions = held_questions(prompts, count, lambda prompt: guided(prompt, pool.pool_guidance))
    emphasis = session.settings.get(CaptionSettings).caption_emphasis
    encode = frozen_encoder(session, prompts, webui_syntax=emphasis)
    frozen = FrozenModel(session.model, encode, current_team())
    generator = torch.Generator(session.model.device).manual_seed(session.seed)
    return PoolBatches(
        answered(session, frozen, [(questions, 1.0)], generator, usual_frame(session.plan.frames)),
        held_count(training.batch_size, wanted.preserve_share),
        session.seed,
        order=pool.pool_order,
        same_noise_level=loss.fixed_timesteps_in_batch,
    )
