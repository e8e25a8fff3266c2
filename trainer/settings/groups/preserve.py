"""Parameters of what must stay as it is."""

from __future__ import annotations

from dataclasses import dataclass

from ..fields import parameter


@dataclass(frozen=True, kw_only=True)
class PreserveSettings:
    """Prompts whose pictures stay."""

    preserve_prompts: str = parameter(
        "",
        multiline=True,
        help="Prompts that must look as before, one a line: neighbours of what is learnt, such as"
        " other colours when a colour is changed, or 'a woman' when one woman is learnt. The"
        " training holds the model's own answers to them; no pictures of them are needed.",
        section="what",
        picks="prompt",
    )
    preserve_share: float = parameter(
        0.5,
        minimum=0,
        maximum=0.9,
        help="Share of the training that goes to holding: the preserved prompts, and the picture"
        " without any prompt. More keeps the rest truer, less learns faster. LoRA: held samples"
        " come in addition to the batch, at least one; a third costs half as much time again.",
    )


@dataclass(frozen=True, kw_only=True)
class PriorSettings(PreserveSettings):
    """How much it counts that the rest stays, beside what the pictures teach."""

    regularisation_images: str = parameter(
        "",
        title="Regularisation folder",
        help="Folder with pictures of the kind that must stay as it is, such as other women when"
        " one woman is learnt, with captions of their own; the trigger word is not put before"
        " them. In an epoch as many of them come as pictures that are learnt: raise repeats to use"
        " more. preserve_prompts does the same without any pictures.",
        aliases=("reg_data_dir",),
        picks="folder",
    )
    regularisation_caption: str = parameter(
        "",
        help="Caption of the regularisation pictures that have no caption file: their kind, such"
        " as 'a woman'.",
        picks="prompt",
        only_with=("regularisation_images",),
    )
    prior_loss_weight: float = parameter(
        1.0,
        minimum=0,
        maximum=100,
        help="How much keeping counts against learning. 1 is usual; lower it when too little is"
        " learnt, raise it when too much else changes.",
    )
