"""Rules between parameters, for what the settings alone can tell.

A rule's arguments are the parameters that it looks at; it runs when the job has all of them and
each is right by itself.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import Problem
from ..paths import unquoted
from .groups.network import BLOCKS, CONVOLUTIONAL, block_values
from .values import Value, listed

Rule = Callable[..., Problem | None]

UNPORTABLE = "differs from the rank: webuis do not agree on such a DoRA"
"""What is wrong with an alpha of a DoRA."""


def timestep_range(min_timestep: int, max_timestep: int) -> Problem | None:
    """The range of timesteps holds at least one."""
    if min_timestep < max_timestep:
        return None
    what = f"{min_timestep} is not below max_timestep, which is {max_timestep}"
    below = f"use a value below {max_timestep}"
    return Problem("min_timestep", what, f"{below}, or raise max_timestep (at most 1000)")


def noise_scale_adapts(noise_offset: float, adaptive_noise_scale: float) -> Problem | None:
    """There is an offset that the latents' mean can be added to."""
    if adaptive_noise_scale == 0 or noise_offset > 0:
        return None
    what = "has no effect without noise_offset"
    return Problem("adaptive_noise_scale", what, "set noise_offset, or this to 0")


def save_interval_fires(steps: int, save_every_steps: int) -> Problem | None:
    """Saving every so many steps happens at least once."""
    if save_every_steps <= steps:
        return None
    what = f"{save_every_steps} never fires in a training of {steps} steps"
    proposed = f"use {max(1, steps // 5)}" if steps > 1 else "use 0"
    return Problem("save_every_steps", what, f"{proposed}, or 0 to save at the end only")


def warmup_ends(steps: int, lr_warmup_steps: int) -> Problem | None:
    """The learning rate reaches its value before the training ends."""
    if lr_warmup_steps == 0 or lr_warmup_steps < steps:
        return None
    what = f"{lr_warmup_steps} does not end within a training of {steps} steps"
    return Problem("lr_warmup_steps", what, f"use at most {steps // 2}, usually {steps // 10}")


def one_warmup(lr_warmup_steps: int, lr_warmup_percent: float) -> Problem | None:
    """The warm-up is given in one way."""
    if not (lr_warmup_steps and lr_warmup_percent):
        return None
    what = f"{lr_warmup_percent:g} % is set beside lr_warmup_steps, which is {lr_warmup_steps}"
    return Problem("lr_warmup_percent", what, "set one of them to 0")


def step_rules_given(lr_scheduler: str, lr_step_rules: str) -> Problem | None:
    """The piecewise schedule has its pieces, and no other schedule ignores them."""
    if lr_scheduler == "piecewise_constant" and not lr_step_rules:
        cure = "write for example 1:100,0.1:400,0.01"
        return Problem("lr_step_rules", "is missing for piecewise_constant", cure)
    if lr_scheduler != "piecewise_constant" and lr_step_rules:
        what = f"has no effect with the schedule {lr_scheduler}"
        return Problem("lr_step_rules", what, "empty it, or choose piecewise_constant")
    return None


def nothing_drawn_compiled(
    torch_compile: bool, network_dropout: float, rank_dropout: float, module_dropout: float
) -> Problem | None:
    """What is compiled once does not leave out something else in each step."""
    rates = {
        "network_dropout": network_dropout,
        "rank_dropout": rank_dropout,
        "module_dropout": module_dropout,
    }
    drawn = [name for name, rate in rates.items() if rate]
    if not torch_compile or not drawn:
        return None
    what = f"is on beside {' and '.join(drawn)}, for which it would compile in every step"
    return Problem("torch_compile", what, "switch it off, or set the dropouts to 0")


def convolutions_sized(
    network: str, conv_rank: int | None, conv_alpha: float | None
) -> Problem | None:
    """Convolutions have a size of their own only where they are trained."""
    if network in CONVOLUTIONAL or (conv_rank is None and conv_alpha is None):
        return None
    where = "conv_alpha" if conv_rank is None else "conv_rank"
    cure = f"empty it, or choose {listed(CONVOLUTIONAL)}"
    return Problem(where, f"has no effect with {network}, which trains no convolutions", cure)


def convolutions_reached(network: str, element: str) -> Problem | None:
    """A network for convolutions is not kept from them."""
    if network not in CONVOLUTIONAL or element == "Full":
        return None
    what = f"{element} leaves out the convolutions of {network}"
    return Problem("element", what, "choose Full, or a network without convolutions")


def factor_used(network: str, lokr_factor: int) -> Problem | None:
    """A factor is set for a network that has one."""
    if network.startswith("lokr") or lokr_factor == -1:
        return None
    return Problem("lokr_factor", f"has no effect with {network}", "use -1, or choose lokr")


def portable_dora(network: str, rank: int, alpha: float, block_alphas: str) -> Problem | None:
    """A DoRA is scaled by 1: older webuis scale after they have used its magnitudes."""
    if not network.startswith("dora"):
        return None
    if alpha != rank:
        return Problem("alpha", f"{alpha:g} {UNPORTABLE}", f"use {rank}, the rank")
    if block_alphas:
        return Problem("block_alphas", UNPORTABLE, "empty it: alpha follows the block's rank")
    return None


def portable_dora_convolutions(
    network: str, rank: int, conv_rank: int | None, conv_alpha: float | None, block_ranks: str
) -> Problem | None:
    """As `portable_dora`, of the convolutions; what they have not of their own is the block's."""
    ranks = {rank, *block_values(block_ranks).values()}
    if network != "dora_conv" or all((conv_rank or r) == (conv_alpha or r) for r in ranks):
        return None
    is_now = "is as alpha and" if conv_alpha is None else f"{conv_alpha:g}"
    cure = f"use {conv_rank}, conv_rank" if conv_rank else "empty it: it follows the rank"
    return Problem("conv_alpha", f"{is_now} {UNPORTABLE}", cure)


def sized_blocks_trained(
    blocks: tuple[str, ...], block_ranks: str, block_alphas: str
) -> Problem | None:
    """No block that is left out has a size of its own; a pattern may cover such blocks."""
    for where, text in (("block_ranks", block_ranks), ("block_alphas", block_alphas)):
        named = {name.strip().upper() for name in re.findall(r"([^,;=\n]+)=", text)}
        idle = [block for block in BLOCKS if block in named and block not in blocks]
        if idle:
            what = f"names {listed(idle)}, which is not trained"
            return Problem(where, what, "remove it, or choose the block in blocks")
    return None


def some_concept(original_prompt: str, target_prompt: str) -> Problem | None:
    """There is a concept to change, and it is changed into something else."""
    if not original_prompt.strip():
        both = "" if target_prompt.strip() else ", and so is target_prompt"
        cure = "name the concept that is to be changed or erased"
        return Problem("original_prompt", f"is empty{both}", cure)
    originals, targets = prompt_lines(original_prompt), prompt_lines(target_prompt)
    if len(targets) not in (1, len(originals)):
        what = f"has {len(targets)} lines for {len(originals)} of original_prompt"
        return Problem("target_prompt", what, "give one line for each, or one for all")
    if originals == targets:
        return Problem("target_prompt", "is the original prompt", "name what it is to become")
    return None


def as_many_targets(original_image: str, target_image: str) -> Problem | None:
    """Every picture of a pair has its other half."""
    originals, targets = picture_lines(original_image), picture_lines(target_image)
    if len(originals) == len(targets):
        return None
    what = f"names {len(targets)} pictures for {len(originals)} of original_image"
    return Problem("target_image", what, "give one line for each, in the same order")


def mask_given(mask: str, mask_image: str) -> Problem | None:
    """A drawn mask is named, and no mask that is named is ignored."""
    if mask == "drawn" and not mask_image.strip():
        return Problem("mask_image", "is missing for the mask drawn", "name a picture")
    if mask != "drawn" and mask_image.strip():
        return Problem("mask_image", f"has no effect with the mask {mask}", "choose mask drawn")
    return None


def mask_folder_given(picture_mask: str, mask_folder: str) -> Problem | None:
    """The folder of masks is named, and none that is named is ignored."""
    if picture_mask == "files" and not mask_folder.strip():
        return Problem("mask_folder", "is missing for the masks' files", "name the folder")
    if picture_mask != "files" and mask_folder.strip():
        what = f"has no effect with picture_mask {picture_mask}"
        return Problem("mask_folder", what, "set picture_mask to files")
    return None


def one_way_to_keep(keep_tokens: int, keep_tokens_separator: str) -> Problem | None:
    """Tags are kept by a number or by a mark, not by both."""
    if not keep_tokens or not keep_tokens_separator:
        return None
    what = "has no effect beside keep_tokens_separator"
    return Problem("keep_tokens", what, "set it to 0, or empty keep_tokens_separator")


def one_copier(copier_file: str, copier_only: bool, save_copier: bool) -> Problem | None:
    """A copier is either trained or loaded."""
    if copier_file and (copier_only or save_copier):
        name = "copier_only" if copier_only else "save_copier"
        what = "has no effect: the copier is loaded from copier_file, not trained"
        return Problem(name, what, "switch it off, or empty copier_file")
    return None


def prompt_lines(text: str) -> tuple[str, ...]:
    """The prompts of a field, one a line; a single empty one if there is none."""
    return tuple(line.strip() for line in text.split("\n") if line.strip()) or ("",)


def picture_lines(text: str) -> tuple[str, ...]:
    """The paths of a field, one a line, without the quotes that Windows copies along."""
    return tuple(unquoted(line) for line in text.split("\n") if line.strip())


RULES: tuple[Rule, ...] = (
    timestep_range,
    noise_scale_adapts,
    save_interval_fires,
    warmup_ends,
    one_warmup,
    step_rules_given,
    nothing_drawn_compiled,
    convolutions_sized,
    convolutions_reached,
    factor_used,
    portable_dora,
    portable_dora_convolutions,
    sized_blocks_trained,
    some_concept,
    as_many_targets,
    mask_given,
    mask_folder_given,
    one_way_to_keep,
    one_copier,
)


def arguments_of(rule: Rule) -> tuple[str, ...]:
    """Names of the parameters that a rule looks at."""
    return tuple(inspect.signature(rule).parameters)


def broken_rules(values: Mapping[str, Value], rules: tuple[Rule, ...] = RULES) -> list[Problem]:
    """Problems between the values; a rule that misses one of its arguments is not asked."""
    problems = []
    for rule in rules:
        arguments: dict[str, Any] = {n: values[n] for n in arguments_of(rule) if n in values}
        if len(arguments) == len(arguments_of(rule)):
            problems.append(rule(**arguments))
    return [problem for problem in problems if problem is not None]
