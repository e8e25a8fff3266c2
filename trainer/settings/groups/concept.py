"""Parameters of prompts that are trained on, and of what a concept is turned into."""

from __future__ import annotations

from dataclasses import dataclass

from ..fields import parameter
from ..values import BadValueError, shown
from .captions import LengthSettings
from .preserve import PreserveSettings

PLACE = "{}"


def _with_places(contexts: str) -> None:
    for line in contexts.split("\n"):
        if line.strip() and PLACE not in line:
            what = f"{shown(line.strip())} has no {PLACE} for the concept"
            raise BadValueError(what, "write for example: a photo of {}")


@dataclass(frozen=True, kw_only=True)
class PromptSettings(LengthSettings):
    """The words under which it is trained."""

    original_prompt: str = parameter(
        "",
        multiline=True,
        help="iLECO: the concept to change, in the webui's prompt syntax, (emphasis:1.2) and BREAK"
        " included; several concepts, one a line, are changed in one training. Difference and"
        " ADDifT: what a prompt would say of the picture before the change. Several, one a line,"
        " of other subjects than the picture's, are used in turn, so that the change is not tied to"
        " one of them.",
        aliases=("original prompt",),
        section="what",
        picks="prompt",
    )


@dataclass(frozen=True, kw_only=True)
class ConceptSettings(PreserveSettings):
    """What the concept becomes, and what stays."""

    target_prompt: str = parameter(
        "",
        multiline=True,
        help="What the original prompt is turned into; with several original prompts one a line, or"
        " a single line for all. Empty: the concept is erased.",
        aliases=("target prompt",),
        section="what",
        picks="prompt",
    )
    neutral_prompt: str = parameter(
        "",
        help="What the guidance pushes away from, for example the opposite of the target. Empty:"
        " away from the original prompt. It has no effect while concept_guidance is 0.",
        picks="prompt",
        only_with=("concept_guidance",),
    )
    contexts: str = parameter(
        "",
        multiline=True,
        check=_with_places,
        help="Phrases in which the concept is trained as well as alone, one a line, with {} in its"
        " place: 'a photo of {}', 'a {} in a garden'. They help it to be found in long prompts.",
    )
    concept_guidance: float = parameter(
        0.0,
        minimum=-10,
        maximum=20,
        help="How far to go beyond the target, away from the neutral prompt. 0 goes exactly to the"
        " target; 1 to 3 make an erased concept stay away more surely, at the price of changing"
        " more beside it.",
    )
