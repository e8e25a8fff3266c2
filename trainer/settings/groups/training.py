"""Parameters of the training loop."""

from __future__ import annotations

from dataclasses import dataclass

from ..fields import parameter


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """How long and in what portions."""

    steps: int = parameter(
        1000,
        minimum=1,
        maximum=10_000_000,
        unit="steps",
        help="How many times the weights are changed. More learns more, until the LoRA copies its"
        " pictures. 500 to 2000 for a character of 10 to 30 pictures, 2000 to 5000 for a style.",
        aliases=("train_iterations", "iterations", "max_train_steps"),
        section="how",
    )
    batch_size: int = parameter(
        2,
        minimum=1,
        maximum=1024,
        help="Pictures that are learnt from together in one step. Larger is steadier but takes"
        " more memory and time per step. 1 to 4.",
        aliases=("train_batch_size",),
        section="how",
    )
    gradient_accumulation_steps: int = parameter(
        1,
        title="Gradient accumulation",
        minimum=1,
        maximum=1024,
        help="Batches that are gathered before the weights are changed: the effect of a batch this"
        " many times as large, for more time instead of more memory. Usually 1.",
    )
    max_grad_norm: float = parameter(
        1.0,
        minimum=0,
        maximum=1_000_000,
        help="Longest step that one batch may ask for; longer gradients are shortened to it. It"
        " keeps an odd picture from spoiling the training. Usually 1; 0 switches it off.",
    )
    gradient_checkpointing: bool = parameter(
        False,
        help="Compute parts of the model twice instead of remembering them: less than half of a"
        " step's memory, about a quarter more time. Switch it on when memory runs out.",
        aliases=("use_gradient_checkpointing",),
    )
    checkpointed_parts: str = parameter(
        "attention",
        choices=("attention", "all"),
        only_with=("gradient_checkpointing",),
        help="What is computed twice. attention: the layers that remember most for the time that"
        " they take. all: every block, for about 40 % more time in all; a step of SDXL then takes a"
        " tenth of its memory, one of SD1 a seventh. Choose it when memory still runs out.",
    )
    torch_compile: bool = parameter(
        False,
        title="Compile",
        help="Let torch turn the model into faster code before the first step: for long trainings,"
        " as it takes minutes in which no picture is drawn, and again for other sizes of pictures."
        " The training then says after how many batches that has paid on your machine. It needs"
        " torch 2.3, and on a GPU triton, on a CPU a C++ compiler.",
    )
    compiled_parts: str = parameter(
        "blocks",
        choices=("blocks", "whole"),
        only_with=("torch_compile",),
        help="What is made faster. blocks: each block of the model by itself. whole: all of it at"
        " once, which takes up to twice as long before the first step, and gains more after it.",
    )
    seed: int = parameter(
        -1,
        minimum=-1,
        maximum=2**32 - 1,
        help="Start of the random numbers. The same seed and settings give the same LoRA. -1 draws"
        " one and records it.",
        aliases=("train_seed",),
        whole_run=True,
    )
