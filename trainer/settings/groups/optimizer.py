"""Parameters of the optimizer and of the learning rate's course."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..fields import parameter
from ..values import BadValueError, parse_arguments, shown

OPTIMIZERS = (
    *("AdamW", "Adam", "NAdam", "RAdam", "Adamax", "Adagrad", "RMSprop", "SGD", "SGDNesterov"),
    *("AdaFactor", "Lion", "Prodigy"),
    *("DAdaptAdam", "DAdaptLion", "DAdaptAdaGrad", "DAdaptAdan", "DAdaptSGD"),
    *("AdamWScheduleFree", "RAdamScheduleFree", "SGDScheduleFree"),
    *("CAME", "Tiger", "AdamMini"),
    *("AdamW8bit", "Adam8bit", "Lion8bit", "SGDNesterov8bit"),
    *("PagedAdamW", "PagedAdamW32bit", "PagedAdamW8bit", "PagedLion8bit"),
)
SCHEDULES = (
    *("constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts"),
    *("polynomial", "piecewise_constant", "cosine_annealing", "cosine_annealing_with_restarts"),
    *("exponential", "step", "multi_step", "cyclic", "one_cycle", "reduce_on_plateau"),
)
STEP_RULES = re.compile(r"\s*(\d+\.?\d*\s*:\s*\d+\s*,\s*)*\d*\.?\d+\s*", re.ASCII)


def _arguments(text: str) -> None:
    parse_arguments(text)


def _step_rules(text: str) -> None:
    if text and not STEP_RULES.fullmatch(text):
        raise BadValueError(
            f"{shown(text)} is no list of factor:step pairs with a last factor",
            'write for example "1:100,0.1:400,0.01": 1 to step 100, 0.1 to step 400, then 0.01',
        )


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """How fast it learns."""

    optimizer: str = parameter(
        "AdamW",
        choices=OPTIMIZERS,
        help="The rule by which the weights are changed. AdamW is the proven choice. Those with"
        " 8bit or Paged save memory on NVIDIA cards, AdaFactor, CAME and AdamMini on all; Lion and"
        " Tiger need a learning rate 3 to 10 times lower. Prodigy and DAdapt find the rate"
        " themselves: set the learning rate to 1. Those with ScheduleFree want the schedule"
        " constant. Many need a package of their own, and say which.",
        aliases=("train_optimizer", "optimizer_type"),
    )
    optimizer_args: str = parameter(
        "",
        title="Optimizer arguments",
        multiline=True,
        check=_arguments,
        help="Further arguments of the optimizer as name=value, separated by ; or line breaks, for"
        " example weight_decay=0.01; betas=(0.9, 0.99). Usually empty.",
        aliases=("train_optimizer_settings",),
    )
    learning_rate: float = parameter(
        1e-4,
        minimum=1e-9,
        maximum=10,
        help="How far the weights move at each step. Too high burns the pictures or gives NaN, too"
        " low learns nothing. 1e-4 is the usual start; 5e-5 for large data sets, 5e-4 for short"
        " trainings.",
        aliases=("train_learning_rate", "unet_lr", "lr"),
        section="how",
    )
    text_encoder_learning_rate: float | None = parameter(
        None,
        minimum=1e-9,
        maximum=10,
        inherits="learning_rate",
        help="Learning rate of the text encoder. Empty: the same as the learning rate. Usually the"
        " same or down to a tenth, because the text encoder overfits sooner.",
        cure="leave it empty for the learning rate's value; to leave the text encoder alone, take"
        " BASE out of blocks",
        aliases=("train_textencoder_learning_rate", "text_encoder_lr"),
    )
    lora_plus_ratio: float = parameter(
        1.0,
        title="LoRA+ ratio",
        minimum=1,
        maximum=100,
        help="How many times faster the part of the network learns that starts at zero. 1: all"
        " alike, the usual choice; 4 to 16 (LoRA+) reach the same in fewer steps, with a learning"
        " rate that is lowered a little.",
        aliases=("loraplus_lr_ratio",),
    )
    lr_scheduler: str = parameter(
        "cosine",
        title="Learning rate schedule",
        choices=SCHEDULES,
        help="How the learning rate changes over the training. cosine falls gently to 0 and suits"
        " nearly everything; constant keeps it; linear falls in a straight line;"
        " cosine_with_restarts and cyclic come back as often as lr_cycles says; step and multi_step"
        " fall in stages, exponential to a hundredth; one_cycle rises and falls;"
        " reduce_on_plateau falls when the loss no longer does; piecewise_constant follows"
        " lr_step_rules.",
        aliases=("train_lr_scheduler",),
    )
    lr_scheduler_args: str = parameter(
        "",
        title="Schedule arguments",
        multiline=True,
        check=_arguments,
        help="Further arguments of the schedule as name=value, separated by ; or line breaks, for"
        " example eta_min=1e-5 for cosine_annealing. Usually empty.",
        aliases=("train_lr_scheduler_settings",),
    )
    lr_step_rules: str = parameter(
        "",
        title="Learning rate step rules",
        check=_step_rules,
        help="For piecewise_constant: factors and the steps up to which they hold, for example"
        " 1:100,0.1:400,0.01. The steps count from the end of the warm-up.",
        aliases=("train_lr_step_rules",),
        only_with=("lr_scheduler", "piecewise_constant"),
    )
    lr_warmup_steps: int = parameter(
        0,
        title="Warm-up steps",
        minimum=0,
        maximum=10_000_000,
        unit="steps",
        help="Steps in which the learning rate rises from 0 to its full value. 0, or about a tenth"
        " of the steps; it helps at high learning rates.",
        aliases=("train_lr_warmup_steps",),
    )
    lr_warmup_percent: float = parameter(
        0.0,
        title="Warm-up, percent of the steps",
        minimum=0,
        maximum=90,
        unit="%",
        help="The same as a part of all steps, instead of a number of them. 5 to 10 is usual.",
        aliases=("lr_warmup",),
    )
    lr_cycles: int = parameter(
        1,
        title="Learning rate cycles",
        minimum=1,
        maximum=1000,
        help="For the schedules with restarts and cyclic: how often the learning rate comes from"
        " the top.",
        aliases=("train_lr_scheduler_num_cycles", "lr_scheduler_num_cycles"),
        only_with=(
            "lr_scheduler",
            *("cosine_with_restarts", "cosine_annealing_with_restarts", "cyclic"),
        ),
    )
    lr_power: float = parameter(
        1.0,
        title="Learning rate power",
        minimum=0,
        maximum=10,
        help="For polynomial: the exponent of the fall. 1 is a straight line, 2 falls fast and"
        " then flat.",
        aliases=("train_lr_scheduler_power", "lr_scheduler_power"),
        only_with=("lr_scheduler", "polynomial"),
    )
