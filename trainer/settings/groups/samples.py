"""Parameters of the pictures that are drawn while it trains."""

from __future__ import annotations

from dataclasses import dataclass

from ..fields import parameter


@dataclass(frozen=True, kw_only=True)
class SampleSettings:
    """Pictures drawn on the way, to see what it has learnt so far."""

    sample_prompts: str = parameter(
        "",
        multiline=True,
        picks="prompt",
        help="Prompts to draw while it trains, one a line; use the trigger word in them. Empty: no"
        " pictures. Each takes about as long as drawing it in the webui.",
        aliases=("sample_prompt",),
    )
    sample_every_steps: int = parameter(
        100,
        minimum=1,
        maximum=10_000_000,
        unit="steps",
        help="Draw the pictures every so many steps, and after the last one. A tenth of the steps"
        " shows the course well.",
        aliases=("sample_every_n_steps",),
        only_with=("sample_prompts",),
    )
    sample_seed: int = parameter(
        1,
        minimum=0,
        maximum=2**32 - 1,
        help="Seed of the pictures: the same each time, so that only the training changes them.",
        only_with=("sample_prompts",),
    )
    sample_denoise_steps: int = parameter(
        20,
        minimum=1,
        maximum=200,
        unit="steps",
        help="In how many steps a picture is drawn. 20 is usual; fewer is faster and coarser.",
        only_with=("sample_prompts",),
    )
    sample_guidance: float = parameter(
        7.0,
        minimum=1,
        maximum=30,
        help="Guidance (CFG) of the pictures. 5 to 8 are usual.",
        only_with=("sample_prompts",),
    )
