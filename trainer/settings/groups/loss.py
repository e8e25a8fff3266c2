"""Parameters of the loss and of the noise."""

from __future__ import annotations

from dataclasses import dataclass

from ..fields import parameter


@dataclass(frozen=True, kw_only=True)
class LossSettings:
    """How its error is measured."""

    loss: str = parameter(
        "MSE",
        choices=("MSE", "L1", "Smooth-L1", "Huber", "Pseudo-L1"),
        help="Measure of the error. MSE is the usual one; the others give less weight to large"
        " errors, as in pictures that do not fit the rest. Smooth-L1 changes from MSE to L1 at an"
        " error of 1; Huber and Pseudo-L1 do so at huber_c, by huber_schedule (sd-scripts calls"
        " the latter smooth_l1).",
        aliases=("train_loss_function", "loss_type"),
    )
    huber_c: float = parameter(
        0.1,
        title="Huber c",
        minimum=1e-6,
        maximum=10,
        help="For Huber and Pseudo-L1: the size of an error above which it counts as an outlier."
        " 0.1 is usual.",
        only_with=("loss", "Huber", "Pseudo-L1"),
    )
    huber_schedule: str = parameter(
        "snr",
        choices=("snr", "exponential", "constant"),
        help="For Huber and Pseudo-L1: how huber_c follows the noise level. snr and exponential"
        " begin at 1 for the least noise, where outliers are rare, and fall to huber_c; constant"
        " keeps it.",
        only_with=("loss", "Huber", "Pseudo-L1"),
    )
    min_snr_gamma: float = parameter(
        5.0,
        title="Min-SNR gamma",
        minimum=0,
        maximum=1000,
        help="Gives less weight to timesteps with little noise, so that all levels of detail are"
        " learnt evenly. 5 is usual, lower is stronger, 0 switches it off.",
        aliases=("train_snr_gamma", "snr_gamma"),
    )
    debiased_estimation: bool = parameter(
        False,
        help="Weigh noise levels by 1 / sqrt(signal-to-noise) instead of by min-SNR, whose gamma"
        " then counts no more: more weight for much noise, that is for composition.",
        aliases=("debiased_estimation_loss",),
    )
    scale_velocity_loss: bool = parameter(
        False,
        help="For models that predict the velocity: weigh their loss as if they predicted the"
        " noise. Usually off; without effect on other models.",
        aliases=("scale_v_pred_loss_like_noise_pred",),
    )
    velocity_like_loss: float = parameter(
        0.0,
        minimum=0,
        maximum=10,
        help="Add the loss of a model that predicts the velocity, times this, to that of one that"
        " predicts the noise: more weight for much noise. 0 is without; 0.1 to 1.",
        aliases=("v_pred_like_loss",),
    )
    timestep_sampling: str = parameter(
        "uniform",
        choices=("uniform", "logit_normal"),
        help="LoRA and Difference: how noise levels are drawn. uniform: all alike. logit_normal:"
        " the middle ones most often, few at both ends; timestep_shift moves the middle.",
    )
    timestep_shift: float = parameter(
        0.0,
        minimum=-5,
        maximum=5,
        help="For logit_normal: above 0 more noise (composition), below 0 less (texture). -1 to 1.",
        only_with=("timestep_sampling", "logit_normal"),
    )
    min_timestep: int = parameter(
        0,
        minimum=0,
        maximum=999,
        help="Lowest noise level that is trained; 0 is nearly the finished picture. Raise it, for"
        " example to 500, to learn composition and shape but not texture.",
        aliases=("train_min_timesteps",),
    )
    max_timestep: int = parameter(
        1000,
        minimum=1,
        maximum=1000,
        help="Noise levels below this are trained; 1000 is pure noise. Lower it, for example to"
        " 400, to learn style and texture but not composition.",
        aliases=("train_max_timesteps",),
    )
    fixed_timesteps_in_batch: bool = parameter(
        False,
        help="Use one noise level for the whole batch instead of one for each picture. Usually"
        " off.",
        aliases=("train_fixed_timsteps_in_batch", "train_fixed_timesteps_in_batch"),
    )


@dataclass(frozen=True, kw_only=True)
class NoiseSettings:
    """The noise that pictures are hidden in."""

    noise_offset: float = parameter(
        0.0,
        minimum=0,
        maximum=1,
        help="Shift the noise of every picture by a random amount, so that very dark and very"
        " bright pictures can be learnt. 0 is without; 0.03 to 0.1.",
    )
    adaptive_noise_scale: float = parameter(
        0.0,
        minimum=-1,
        maximum=1,
        help="Add this times the latents' own mean to the noise offset. Usually 0; needs a"
        " noise_offset.",
        only_with=("noise_offset",),
    )
    multires_noise_iterations: int = parameter(
        0,
        title="Multi-resolution noise",
        minimum=0,
        maximum=16,
        help="Add coarse noise in so many sizes, each half the one before: like the offset, but for"
        " parts of the picture too. 0 is without; 6 to 10.",
    )
    multires_noise_discount: float = parameter(
        0.3,
        title="Multi-resolution discount",
        minimum=0,
        maximum=1,
        help="How much each coarser size counts against the one before. 0.1 to 0.3 with an offset"
        " or many sizes, up to 0.8 alone.",
        only_with=("multires_noise_iterations",),
    )
    input_perturbation: float = parameter(
        0.0,
        minimum=0,
        maximum=1,
        help="Hide the picture in slightly more noise than is to be found again, which makes the"
        " result forgive errors while it draws. 0 is without; 0.05 to 0.1.",
        aliases=("ip_noise_gamma",),
    )
