"""iLECO: the answers to one prompt become the frozen model's answers to another."""

from __future__ import annotations

from itertools import product

import torch

from ..diffusion.loss import Criterion
from ..settings.checks import prompt_lines
from ..settings.groups import (
    ConceptPoolSettings,
    ConceptSettings,
    LossSettings,
    PromptSettings,
    TrainingSettings,
)
from ..settings.groups.concept import PLACE
from ..training.distributed import current_team
from ..training.encoding import frozen_encoder, prompt_encoder
from ..training.holding import answered
from ..training.labels import (
    FrozenModel,
    Mix,
    PoolBatches,
    Question,
    Samples,
    guided,
    held_questions,
    questions_for,
)
from ..training.loop import Outcome
from ..training.session import Session


def train(session: Session) -> Outcome:
    """Trains and saves the network.

    The label of the original prompt is the frozen prediction under the target prompt, pushed on
    by the guidance: target + g (target - neutral).  With an empty target, and the original as
    neutral, this is the erasing of Gandikota et al.; with g = 0 and pure noise it is iLECO as
    TrainTrain has it.

    Raises:
        BadInput: a file to continue from does not fit.
        NotANumber: the loss became NaN.

    Source: Gandikota et al. 2023, "Erasing Concepts from Diffusion Models", eq. 8.
    """
    model, settings = session.model, session.settings[LossSettings]
    changes, held = tasks(session)
    known = [*changes, *held, *(prompt for mix in changes.values() for prompt in mix)]
    kinds = pool(session, changes, held, known)
    encode = prompt_encoder(session, known, webui_syntax=True)
    network = session.new_network()
    criterion = Criterion.of(model.schedule, settings)
    batches = PoolBatches(
        kinds,
        session.settings[TrainingSettings].batch_size,
        session.seed,
        order=session.settings[ConceptPoolSettings].pool_order,
        same_noise_level=settings.fixed_timesteps_in_batch,
    )

    def loss_of_next_batch() -> torch.Tensor:
        batch = next(batches)
        prediction = model.denoise(batch.latents, batch.timesteps, encode(batch.prompts))
        return criterion.loss(prediction, batch.labels, batch.timesteps)

    with network:
        return session.fit(network, loss_of_next_batch, order=batches)


def tasks(session: Session) -> tuple[dict[str, Mix], tuple[str, ...]]:
    """The label of every prompt that is changed, and the prompts that are held."""
    concept = session.settings[ConceptSettings]
    originals = session.prompts(session.settings[PromptSettings].original_prompt)
    targets = session.prompts(concept.target_prompt)
    neutral = session.prompts(concept.neutral_prompt)[0]
    push = concept.concept_guidance
    contexts = (PLACE, *(line for line in prompt_lines(concept.contexts) if line))
    changes: dict[str, Mix] = {}
    for context, (number, original) in product(contexts, enumerate(originals)):
        before, after, away = (
            session.cut(context.replace(PLACE, prompt).strip())
            for prompt in (original, targets[number % len(targets)], neutral or original)
        )
        # Of what is not pushed away from anything else, the sum is the answer itself.
        pushed = push and away != after
        changes[before] = {after: 1 + push, away: -push} if pushed else {after: 1.0}
    preserved = session.prompts(concept.preserve_prompts)
    held = dict.fromkeys(("", *targets, *preserved)) if concept.preserve_share else {}
    return changes, tuple(prompt for prompt in held if prompt not in changes)


def pool(
    session: Session, changes: dict[str, Mix], held: tuple[str, ...], known: list[str]
) -> list[tuple[Samples, float]]:
    """The frozen model's labels for the changed and the held prompts, with their shares."""
    settings, loss = session.settings[ConceptPoolSettings], session.settings[LossSettings]
    share = session.settings[ConceptSettings].preserve_share if held else 0.0
    timesteps = (loss.min_timestep, loss.max_timestep)
    noise_only = settings.pool_latents == "noise"
    counts = [round(settings.pool_size * part) for part in (1 - share, share)]
    changed, kept = (
        questions_for(count, timesteps, settings.pool_denoise_steps, drawn=not noise_only)
        for count in counts
    )

    def drawn(prompt: str) -> Mix | None:
        return None if noise_only else guided(prompt, settings.pool_guidance)

    def shown(number: int, original: str, label: Mix) -> str:
        """The prompt of the picture that the question is asked about."""
        both = settings.pool_latents == "both" and number // len(changes) % 2
        return original if settings.pool_latents == "original" or both else next(iter(label))

    pairs = list(changes.items())
    questions = []
    for number in range(max(changed, len(pairs))):
        original, label = pairs[number % len(pairs)]
        questions.append(Question(original, label, drawn(shown(number, original, label))))
    holding = held_questions(held, kept, drawn) if held else []
    encode = frozen_encoder(session, known, webui_syntax=True)
    frozen = FrozenModel(session.model, encode, current_team())
    return answered(session, frozen, [(questions, 1 - share), (holding, share)], session.generator)
