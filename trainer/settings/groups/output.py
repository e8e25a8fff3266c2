"""Parameters of what is written."""

from __future__ import annotations

from dataclasses import dataclass

from ..fields import parameter
from ..names import check_name


@dataclass(frozen=True, kw_only=True)
class OutputSettings:
    """What is saved, when, and under which name."""

    name: str = parameter(
        "untitled",
        check=check_name,
        help="Name of the LoRA: of its file, and in prompts as <lora:name:1>. Without folder and"
        " without .safetensors.",
        aliases=("save_lora_name", "output_name"),
        section="what",
    )
    overwrite: bool = parameter(
        False,
        help="Replace a file of the same name, and what an unfinished training of that name has"
        " learnt. Off: the training does not start when there is one.",
        aliases=("save_overwrite",),
    )
    save_every_steps: int = parameter(
        0,
        minimum=0,
        maximum=10_000_000,
        unit="steps",
        help="Also save a copy every so many steps, to choose the best one later. 0: only at the"
        " end. Usually a fifth to a tenth of the steps.",
        aliases=("save_per_steps", "save_every_n_steps"),
    )
    save_every_epochs: int = parameter(
        0,
        minimum=0,
        maximum=1_000_000,
        help="Also save a copy every so many epochs (passes over all pictures). 0: never.",
        aliases=("save_every_n_epochs",),
    )
    save_state_every_steps: int = parameter(
        250,
        minimum=0,
        maximum=10_000_000,
        unit="steps",
        help="Note every so many steps where the training stands, so that it can go on after a"
        " crash or a stop. Takes about six times the space of the LoRA until the training is done."
        " 0: never.",
    )
    save_state_every_minutes: float = parameter(
        10.0,
        minimum=0.0,
        maximum=10_000.0,
        unit="minutes",
        help="Note it also when the last note is that old, for trainings whose steps take long."
        " 0: never.",
    )
    keep_states: int = parameter(
        2,
        minimum=1,
        maximum=100,
        help="How many of these notes are kept; the oldest is removed first. Usually 2.",
        aliases=("save_last_n_steps_state",),
    )
    save_precision: str = parameter(
        "fp16",
        choices=("fp16", "bf16", "fp32"),
        help="Precision of the saved file. fp16 is small, exact enough and loads everywhere; fp32"
        " makes the file twice as large.",
    )
    save_preview: bool = parameter(
        True,
        help="Draw one picture with the finished LoRA, for its card in the webui. Switch it off"
        " where drawing takes long, as on a CPU.",
    )
    log_csv: bool = parameter(
        True,
        title="Log as CSV",
        help="Write a table of step, loss, learning rates and time beside the result; the loss"
        " plot reads it.",
        aliases=("logging_save_csv",),
    )
    author: str = parameter(
        "",
        help="Your name, for the saved file. Empty: not written.",
        aliases=("metadata_author",),
    )
    description: str = parameter(
        "",
        multiline=True,
        help="What the LoRA does and how to use it, for the saved file; the webui shows it.",
        aliases=("training_comment", "metadata_description"),
    )
