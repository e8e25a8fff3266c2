"""What a job learns from: its pictures, pairs and prompts, checked before anything is computed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product

from ..data import regularisation
from ..data.captions import with_trigger
from ..data.folder import FolderReport, TrainingImage, inspect
from ..data.masks import with_masks
from ..data.pairs import PairView, folder_pairs, named_pairs, pair_views, reverted
from ..data.variants import CaptionVariants
from ..data.views import View, views
from ..errors import BadInput, Problem
from ..models.prompts import token_count
from ..models.text import tokenize
from ..models.tokenizer import clip_tokenizer
from ..settings.checks import prompt_lines
from ..settings.groups import (
    CaptionSettings,
    ConceptSettings,
    DataSettings,
    DirectionSettings,
    LengthSettings,
    MaskSettings,
    PairSettings,
    PictureMaskSettings,
    PictureSettings,
    PreserveSettings,
    PriorSettings,
    PromptSettings,
    SuffixSettings,
)
from ..settings.groups.concept import PLACE
from ..settings.methods import METHODS
from ..settings.schema import JobSettings


@dataclass(frozen=True)
class Pictures:
    """A job's pictures.

    Of pairs, `images` and `views` hold those before the change; regularising pictures are among
    the views only.
    """

    images: tuple[TrainingImage, ...] = ()
    views: tuple[View, ...] = ()
    pairs: tuple[PairView, ...] = ()


def find_pictures(
    settings: JobSettings, decode: bool, problems: list[Problem], warnings: list[str]
) -> Pictures:
    """The pictures that the method learns from; none where it learns from prompts.

    Args:
        decode: read every picture of a folder whole instead of its header.
        problems: what is wrong is added here.
        warnings: what the user should know is added here.
    """
    uses = METHODS[settings.method].uses
    if uses(PairSettings) or uses(SuffixSettings):
        try:
            return _pairs(settings, decode, problems, warnings)
        except BadInput as error:
            problems += error.problems
            return Pictures()
    if not uses(DataSettings):
        return Pictures()
    data = settings[DataSettings]
    captions, masks = settings.get(CaptionSettings), settings.get(PictureMaskSettings)
    lines = captions.wildcards
    found = inspect(data, decode=decode, lines=lines)
    if masks.picture_mask == "files" and found.images:
        try:
            masked = with_masks(found.images, data.images, masks.mask_folder, warnings)
            found = replace(found, images=tuple(masked))
        except BadInput as error:
            problems += error.problems
    report = _noted(found, data, problems, warnings)
    long_captions(report.images, settings, problems, warnings)
    kept = None
    if uses(PriorSettings) and settings[PriorSettings].regularisation_images.strip():
        prior = settings[PriorSettings]
        kept = _noted(
            regularisation.find(data, prior, decode=decode, lines=lines), data, problems, warnings
        )
    if problems:
        return Pictures(report.images)
    learnt = views(report.images, data)
    if kept is None:
        return Pictures(report.images, tuple(learnt))
    beside = regularisation.beside(learnt, kept, data)
    warnings += regularisation.unused(learnt, kept, beside)
    return Pictures(report.images, (*learnt, *beside))


def _noted(
    report: FolderReport, data: DataSettings, problems: list[Problem], warnings: list[str]
) -> FolderReport:
    """The report, whose problems and warnings are now those of the job."""
    problems += report.obstacles
    warnings += report.warnings
    if data.unreadable == "skip" and report.images:
        warnings += [f"left out: {problem}" for problem in report.problems]
    else:
        problems += report.problems
    return report


def _pairs(
    settings: JobSettings, decode: bool, problems: list[Problem], warnings: list[str]
) -> Pictures:
    uses, masks = METHODS[settings.method].uses, settings[MaskSettings]
    pictures = settings[PictureSettings]
    if uses(PairSettings):
        prompts = prompt_lines(settings[PromptSettings].original_prompt)
        found = named_pairs(settings[PairSettings], pictures, masks, prompts)
    else:
        data = settings[DataSettings]
        report = _noted(inspect(data, decode=decode), data, problems, warnings)
        if not report.images:
            return Pictures()
        suffix = settings[SuffixSettings].pair_suffix
        found = folder_pairs(report.images, suffix, data.images, masks)
    if uses(DirectionSettings):
        found = reverted(found, settings[DirectionSettings])
    cut = tuple(pair_views(found, pictures, masks.placements))
    images = tuple(pair.original for pair in found)
    return Pictures(images, tuple(pair.original for pair in cut), cut)


@lru_cache(maxsize=1 << 14)
def _token_count(prompt: str) -> int:
    """Remembered, because a form asks for the plan again and again."""
    return token_count(prompt, lambda text: tokenize(clip_tokenizer(), text))


def long_captions(
    images: Sequence[TrainingImage],
    settings: JobSettings,
    problems: list[Problem],
    warnings: list[str],
) -> None:
    """Notes captions beyond the limit: as a warning where they may be cut, else as problems."""
    if not METHODS[settings.method].uses(CaptionSettings):
        return
    wanted = settings[CaptionSettings]
    variants = CaptionVariants(wanted, settings[PictureSettings].trigger_word)
    most = wanted.max_prompt_tokens
    long = {}
    for image in images:
        # a token is one byte at least, so that most need no counting
        read = (text for text in variants.readings(image.caption) if len(text.encode()) > most)
        count = max(map(_token_count, read), default=0)
        if count > most:
            long[image.path] = count
    if long and wanted.truncate_prompts:
        first = ", ".join(f"{path} ({count})" for path, count in list(long.items())[:5])
        more = f" and {len(long) - 5} more" if len(long) > 5 else ""
        warnings.append(f"captions of more than {most} tokens are cut: {first}{more}")
    elif long:
        cure = "shorten it, raise max_prompt_tokens, or set truncate_prompts"
        problems += [
            Problem(str(path), f"its caption has {count} tokens, and {most} are allowed", cure)
            for path, count in long.items()
        ]


def long_prompts(settings: JobSettings) -> list[Problem]:
    """Prompts beyond the limit, unless they may be cut."""
    uses = METHODS[settings.method].uses
    if not uses(LengthSettings) or settings[LengthSettings].truncate_prompts:
        return []
    most = settings[LengthSettings].max_prompt_tokens
    problems = []
    for name, prompt in dict.fromkeys(_prompts(settings)):
        count = _token_count(prompt)
        if count > most:
            what = f"{prompt[:40]!r}... has {count} tokens, and {most} are allowed"
            cure = "shorten it, raise max_prompt_tokens, or set truncate_prompts"
            problems.append(Problem(name, what, cure))
    return problems


def _prompts(settings: JobSettings) -> Iterator[tuple[str, str]]:
    """Every prompt that is encoded, with the field that it is from."""
    uses = METHODS[settings.method].uses
    if uses(PreserveSettings):
        held = prompt_lines(settings[PreserveSettings].preserve_prompts)
        yield from (("preserve_prompts", prompt) for prompt in held)
    if not uses(PromptSettings):
        return
    originals = prompt_lines(settings[PromptSettings].original_prompt)
    if uses(PairSettings):
        trigger = settings[PictureSettings].trigger_word
        originals = tuple(with_trigger(trigger, prompt) for prompt in originals)
    yield from (("original_prompt", prompt) for prompt in originals)
    if not uses(ConceptSettings):
        return
    concept = settings[ConceptSettings]
    for name in ("target_prompt", "neutral_prompt"):
        yield from ((name, prompt) for prompt in prompt_lines(str(settings.values[name])))
    named = (*originals, *prompt_lines(concept.target_prompt), concept.neutral_prompt)
    for context, prompt in product(prompt_lines(concept.contexts), named):
        yield "contexts", context.replace(PLACE, prompt)
