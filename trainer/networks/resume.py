"""From a file's tensors to adapters: every tensor is understood, or the user is told why not."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from ..errors import BadInput, Problem
from ..settings.groups import BLOCKS
from .adapter import Adapter, MisfitError
from .kinds import KINDS, NetworkKind
from .naming import block_of
from .targets import Target

Groups = dict[str, dict[str, Tensor]]
"""Group name -> tensor name -> tensor."""


def read_adapters(
    tensors: Mapping[str, Tensor], targets: Sequence[Target], kind: NetworkKind, source: str
) -> dict[str, Adapter]:
    """Read a file's tensors as adapters of a network.

    Args:
        tensors: the file's tensors under their kohya names.
        targets: the network's targets; a file may use any of their names.
        kind: the network's kind.
        source: what a problem names, usually the file.

    Returns:
        The adapters of the layers that the file holds, by their target's name, in fp32.

    Raises:
        BadInput: with a problem for each thing that does not fit: another kind of network,
            layers that this network does not train, shapes of another model, values that are
            not finite, no tensor at all.
    """
    groups = _groups(tensors)
    by_name = {name: target for target in targets for name in (target.name, *target.aliases)}
    if not groups:
        raise BadInput([Problem(source, "holds no tensors", "choose a LoRA file")])
    problems = _foreign_tensors(source, groups, kind)
    unknown = {name: group for name, group in groups.items() if name not in by_name}
    if unknown and not problems:
        problems.append(_unknown_layers(source, unknown, len(groups), targets))
    broken = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if broken:
        what = f"holds {_count(broken, 'tensor')} with NaN or infinite values: {_some(broken)}"
        problems.append(Problem(source, what, "continue from an earlier save"))
    if not problems:
        known = {name: (by_name[name], group) for name, group in groups.items()}
        found, misfits = _adapters(known, kind)
        if not misfits:
            return found
        cure = "choose a LoRA that was trained on a model of the same kind and size"
        what = f"holds {_count(misfits, 'layer')} that cannot be used: {_some(misfits)}"
        problems.append(Problem(source, what, cure))
    raise BadInput(problems)


def _groups(tensors: Mapping[str, Tensor]) -> Groups:
    groups: Groups = {}
    for key, tensor in tensors.items():
        group, _, name = key.partition(".")
        groups.setdefault(group, {})[name] = tensor
    return groups


def _adapters(
    known: Mapping[str, tuple[Target, dict[str, Tensor]]], kind: NetworkKind
) -> tuple[dict[str, Adapter], list[str]]:
    """The adapters by target name, and what is wrong with those that could not be read."""
    found: dict[str, Adapter] = {}
    misfits = []
    for name, (target, group) in known.items():
        if target.name in found:
            misfits.append(f"{name}, which is there under another name too")
            continue
        try:
            found[target.name] = kind.from_file(target.module, group)
        except MisfitError as misfit:
            misfits.append(f"{name}: {misfit}")
    return found, misfits


def _foreign_tensors(source: str, groups: Groups, kind: NetworkKind) -> list[Problem]:
    """Tensor names that this kind of network does not have, as a list of one problem or none."""
    names = {name for group in groups.values() for name in group} - {"alpha"}
    foreign = sorted(names - set(kind.tensor_names))
    if not foreign:
        return []
    others = [row.name for row in KINDS.values() if names <= set(row.tensor_names)]
    what = f"is no {kind.name} network: it holds {_some(foreign)}"
    cure = f"choose network {' or '.join(others)}" if others else "choose a LoRA of this kind"
    return [Problem(source, what, cure)]


def _unknown_layers(
    source: str, unknown: Collection[str], groups: int, targets: Sequence[Target]
) -> Problem:
    """The problem of layers in the file that the network does not train."""
    if len(unknown) == groups:
        what = f"none of its {groups} layers belongs to this model: {_some(sorted(unknown))}"
        return Problem(source, what, "choose a LoRA for a model of the same family")
    trained = {target.block for target in targets}
    lacking = {block_of(name) for name in unknown} - trained
    blocks = [block for block in BLOCKS if block in lacking]
    cure = "train at least what the file holds: the same blocks, element and kind of network"
    if blocks:
        cure += f" (the blocks {', '.join(blocks)} are not chosen)"
    what = f"holds {_count(unknown, 'layer')} that are not trained: {_some(sorted(unknown))}"
    return Problem(source, what, cure)


def _count(names: Collection[str], noun: str) -> str:
    return f"{len(names)} {noun}{'' if len(names) == 1 else 's'}"


def _some(names: Sequence[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
