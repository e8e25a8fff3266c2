"""What a run draws, and how its model is lent to it, when it first begins: it keeps both."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..diffusion.schedule import PredictionType
from ..errors import BadInput, Problem
from ..models.model import DiffusionModel
from ..models.prompts import PromptStyle
from ..models.stored_text import fingerprint
from ..models.text import PromptEncoder
from ..settings.groups import CaptionSettings, ConceptSettings, ModelSettings, PictureSettings
from ..settings.methods import METHODS
from ..settings.schema import JobSettings

FORMER = "put the former one back, or begin anew"
"""What to do about a model that has been replaced."""


@dataclass(frozen=True)
class Lent:
    """How a host lends a model, where the settings leave that to the host."""

    asked: dict[str, Any]
    """The model's settings, by which it is lent."""
    family: str
    clip_skip: int
    layers: tuple[int | None, ...]
    """Of each text encoder, as `TextEncoderRow.layer`: some webuis let SDXL's follow CLIP skip."""
    prediction_type: PredictionType
    zero_terminal_snr: bool
    emphasis: str
    comma_reach: int
    embeddings: str
    """A digest of those that prompts may name; "" where prompts are plain text."""
    vae: str
    """A digest of what encodes the pictures; "" where there are none."""
    checkpoint_hash: str = ""
    """See `Origin.legacy_hash`; "" where the host does not tell, and in older versions."""


@dataclass(frozen=True)
class Beginning:
    """What a run draws or finds when it first begins, and keeps whenever it goes on."""

    seed: int
    """Of the order of the data, the noise, the pool of labels and the new networks."""
    session_id: int
    """Common to all files of the run."""
    started_s: float
    """Unix time."""
    owner: str | None = None
    """The queue's job that the run is of; "" on the command line, None in older versions."""
    lent: Lent | None = None
    """None in older versions."""

    @classmethod
    def read(cls, noted: Mapping[str, Any]) -> Beginning:
        """Of what `dataclasses.asdict` and JSON have made of one.

        Raises:
            TypeError, ValueError, KeyError: it is none.
        """
        fields = dict(noted)
        lent = fields.pop("lent", None)
        if lent is not None:
            lent = Lent(**{**lent, "layers": tuple(lent["layers"])})
        return cls(**fields, lent=lent)

    def lent_for(self, wanted: ModelSettings) -> Lent | None:
        """How the model was lent; None where that is unknown, or was for other settings."""
        if self.lent is None:
            return None
        now = dataclasses.asdict(wanted)
        same = all(now.get(name, value) == value for name, value in self.lent.asked.items())
        return self.lent if same else None


def as_lent(wanted: ModelSettings, before: Lent | None) -> ModelSettings:
    """Settings that leave nothing to the host that it decided before, whatever it says by now."""
    if before is None:
        return wanted
    return replace(
        wanted,
        clip_skip=before.clip_skip,
        prediction_type=before.prediction_type,
        zero_terminal_snr="on" if before.zero_terminal_snr else "off",
    )


def taken_up(
    model: DiffusionModel,
    settings: JobSettings,
    before: Lent | None,
    *,
    learnt: bool,
    tell: Callable[[str], None],
) -> Lent:
    """Makes a model that was borrowed by `as_lent` read prompts as before, too.

    Args:
        before: how it was lent when the run began; None: the run begins now.
        learnt: whether the run has made steps that count.
        tell: is told of what has changed and cannot be undone, though it rarely matters.

    Returns:
        How it is lent now.

    Raises:
        BadInput: another checkpoint or VAE has taken the place of the one that taught it.
    """
    now = _lent(model, settings)
    if before is None or (before.family != now.family and not learnt):
        return now
    if learnt:
        _check_same(before, now)
        if before.embeddings != now.embeddings:
            tell("Embeddings came, went or changed: prompts that name one may be read otherwise")
    named = zip(model.family.text_encoders, before.layers, strict=True)
    rows = tuple(replace(row, layer=layer) for row, layer in named)
    model.family = replace(model.family, text_encoders=rows)
    encoders = zip(model.prompts.encoders, rows, strict=True)
    model.prompts = PromptEncoder(
        model.prompts.tokenizer, [replace(encoder, row=row) for encoder, row in encoders]
    )
    model.style = PromptStyle(before.emphasis, before.comma_reach, model.style.embeddings)
    return replace(
        now, layers=before.layers, emphasis=before.emphasis, comma_reach=before.comma_reach
    )


def _lent(model: DiffusionModel, settings: JobSettings) -> Lent:
    """How the model is lent now."""
    encodes = METHODS[settings.method].uses(PictureSettings)
    return Lent(
        asked=dataclasses.asdict(settings[ModelSettings]),
        family=model.family.name,
        clip_skip=model.prompts.encoders[0].clip_skip,
        layers=tuple(row.layer for row in model.family.text_encoders),
        prediction_type=model.schedule.prediction_type,
        zero_terminal_snr=model.schedule.ends_in_noise,
        emphasis=model.style.emphasis,
        comma_reach=model.style.comma_reach,
        embeddings=model.style.embeddings_digest() if _has_syntax(settings) else "",
        vae=fingerprint((model.vae.encoder, model.vae.quant_conv)) if encodes else "",
        checkpoint_hash=model.origin.legacy_hash,
    )


def _has_syntax(settings: JobSettings) -> bool:
    """Whether the prompts that are trained under are in the webui's syntax."""
    method = METHODS[settings.method]
    if method.uses(CaptionSettings):
        return settings[CaptionSettings].caption_emphasis
    return method.uses(ConceptSettings)


def _check_same(before: Lent, now: Lent) -> None:
    """Raises: BadInput: the run would go on with another model or VAE."""
    problems = []
    if before.family != now.family:
        what = f"is a model of the family {now.family} now, but was one of {before.family}"
        problems.append(Problem("checkpoint", what, FORMER))
    elif before.checkpoint_hash and now.checkpoint_hash not in ("", before.checkpoint_hash):
        what = f"is another file of that name: its hash is {now.checkpoint_hash}, and was"
        problems.append(Problem("checkpoint", f"{what} {before.checkpoint_hash}", FORMER))
    if before.vae != now.vae:
        what = "is not the one that encoded the pictures when the training began"
        cure = "put that one back, in the webui too, or begin anew"
        problems.append(Problem("vae", what, cure))
    if problems:
        raise BadInput(problems)
