"""The kinds of network, one row each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from . import dora, loha, lokr, lora
from .adapter import Adapter, Size
from .targets import Layer


class Build(Protocol):
    """Makes a new adapter that changes nothing yet, in fp32 on the CPU."""

    def __call__(
        self, layer: Layer, size: Size, generator: torch.Generator | None = None, /
    ) -> Adapter: ...


class FromFile(Protocol):
    """Makes the adapter that a file's group describes; raises `MisfitError`."""

    def __call__(self, layer: Layer, tensors: Mapping[str, Tensor], /) -> Adapter: ...


@dataclass(frozen=True)
class NetworkKind:
    """A kind of network: what it adds to a layer, and how files name it."""

    name: str
    title: str
    convolutions: bool
    """Whether it also trains the convolutional blocks, with their own rank and alpha."""
    build: Build
    from_file: FromFile
    tensor_names: tuple[str, ...]
    """Every tensor name that a group may hold in a file, besides alpha."""
    module: str
    """What files state as `ss_network_module`."""
    products: int = 1
    """How many products of low rank a layer has, at most: its weights are in proportion."""
    args: Mapping[str, str] = field(default_factory=dict)
    """What files state in `ss_network_args`, besides the convolutions' rank and alpha."""


_DORA = {"algo": "locon", "dora_wd": "True", "wd_on_output": "False"}

KINDS: dict[str, NetworkKind] = {
    kind.name: kind
    for kind in (
        NetworkKind(
            name="lierla",
            title="LoRA on attention and feed-forward layers",
            convolutions=False,
            build=lora.build,
            from_file=lora.from_file,
            tensor_names=lora.TENSOR_NAMES,
            module="networks.lora",
        ),
        NetworkKind(
            name="c3lier",
            title="LoRA on attention, feed-forward and convolutional layers (LoCon)",
            convolutions=True,
            build=lora.build,
            from_file=lora.from_file,
            tensor_names=lora.TENSOR_NAMES,
            module="networks.lora",
        ),
        NetworkKind(
            name="loha",
            title="LoHa: product of two low ranks, more expressive at the same size",
            convolutions=False,
            build=loha.build,
            from_file=loha.from_file,
            tensor_names=loha.TENSOR_NAMES,
            module="lycoris.kohya",
            products=2,
            args={"algo": "loha"},
        ),
        NetworkKind(
            name="loha_conv",
            title="LoHa with convolutional layers",
            convolutions=True,
            build=loha.build,
            from_file=loha.from_file,
            tensor_names=loha.TENSOR_NAMES,
            module="lycoris.kohya",
            products=2,
            args={"algo": "loha"},
        ),
        NetworkKind(
            name="lokr",
            title="LoKr: Kronecker product, very small files",
            convolutions=False,
            build=lokr.build,
            from_file=lokr.from_file,
            tensor_names=lokr.TENSOR_NAMES,
            module="lycoris.kohya",
            args={"algo": "lokr"},
        ),
        NetworkKind(
            name="lokr_conv",
            title="LoKr with convolutional layers",
            convolutions=True,
            build=lokr.build,
            from_file=lokr.from_file,
            tensor_names=lokr.TENSOR_NAMES,
            module="lycoris.kohya",
            args={"algo": "lokr"},
        ),
        NetworkKind(
            name="dora",
            title="DoRA: a LoRA that learns direction and size of the weights apart",
            convolutions=False,
            build=dora.build,
            from_file=dora.from_file,
            tensor_names=dora.TENSOR_NAMES,
            module="lycoris.kohya",
            args=_DORA,
        ),
        NetworkKind(
            name="dora_conv",
            title="DoRA with convolutional layers",
            convolutions=True,
            build=dora.build,
            from_file=dora.from_file,
            tensor_names=dora.TENSOR_NAMES,
            module="lycoris.kohya",
            args=_DORA,
        ),
    )
}


@dataclass(frozen=True)
class NetworkFacts:
    """What a file's metadata states about its network; None where it differs between layers."""

    kind: str
    rank: int | None
    alpha: float | None
    conv_rank: int | None = None
    conv_alpha: float | None = None
