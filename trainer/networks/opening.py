"""A network as a LoRA file describes it, for drawing with any file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from . import kohya
from .adapter import convolves
from .kinds import KINDS, NetworkKind
from .network import Network
from .resume import read_adapters
from .sizes import Sizes
from .targets import Target


def open_network(file: Path, targets: Sequence[Target]) -> Network:
    """The network in a file: its kind, its layers, each with its own rank and alpha.

    Args:
        file: a LoRA file.
        targets: every layer of the model that a file may hold.

    Raises:
        BadInput: the file is none, or is not for this model.
    """
    tensors, _ = kohya.load(file)
    kind = kind_of(tensors)
    adapters = read_adapters(tensors, targets, kind, str(file))
    held = [target for target in targets if target.name in adapters]
    plain = [adapters[target.name] for target in held if not convolves(target.module)]
    kernels = [adapters[target.name] for target in held if convolves(target.module)]
    first, kernel = (plain or kernels)[0], (kernels or plain)[0]
    sizes = Sizes(first.rank, first.alpha, conv_rank=kernel.rank, conv_alpha=kernel.alpha)
    network = Network(held, kind.name, sizes)
    network.load(tensors, source=str(file))
    return network.requires_grad_(False)


def kind_of(tensors: Mapping[str, Tensor]) -> NetworkKind:
    """The first kind that has every tensor of the file; the classic one where none has."""
    names = {key.partition(".")[2] for key in tensors} - {"alpha"}
    rows = list(KINDS.values())
    return next((kind for kind in rows if names <= set(kind.tensor_names)), rows[0])
