"""A network: one adapter for each target, attached to a model while it is used."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Protocol, TypeVar, cast

import torch
from torch import Tensor, nn

from .adapter import Adapter, convolves
from .dropout import NO_DROPOUT, Dropout, Mask
from .kinds import KINDS, NetworkFacts
from .naming import BASE
from .resume import read_adapters
from .sizes import Sizes
from .targets import Target

log = logging.getLogger(__name__)
Number = TypeVar("Number", int, float)


class _Handle(Protocol):
    def remove(self) -> None: ...


class _OwnForward:
    """A layer's forward pass that takes the place of its class's."""

    def __init__(self, layer: nn.Module) -> None:
        self._layer = layer

    def remove(self) -> None:
        del self._layer.forward


class Network(nn.Module):
    """The trainable part of a run: adapters beside a model that is itself never changed.

    While attached, each target's layer computes W x + multiplier * (alpha / rank) * (delta W) x.
    The multiplier must stay what it was in the forward pass until the backward pass is over,
    because gradient checkpointing repeats the forward pass there.  Several networks may be
    attached to the same model; their additions add up.
    """

    def __init__(
        self,
        targets: Sequence[Target],
        kind: str,
        sizes: Sizes,
        *,
        dropout: Dropout = NO_DROPOUT,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        """Make new adapters, which change nothing until they are trained.

        Args:
            targets: the layers, as `find_targets` chose them.
            kind: a name of `KINDS`.
            sizes: rank and alpha of each layer.
            dropout: what is left out of each batch after `draw_dropout`.
            dtype: dtype of the trained weights.
            device: where they lie; None puts each beside its layer.
            generator: a CPU generator for the initial weights; None uses torch's own.
        """
        super().__init__()
        self.kind = KINDS[kind]
        self.targets = tuple(targets)
        self.adapters = nn.ModuleDict()
        for target in self.targets:
            layer = target.module
            size = sizes.of(target.block, convolution=convolves(layer))
            adapter = self.kind.build(layer, size, generator)
            self.adapters[target.name] = adapter.placed(device or layer.weight.device, dtype)
        if len(self.adapters) != len(self.targets):
            raise ValueError("two targets have the same name")
        self.dropout = dropout
        self.fuses = True
        """Whether an adapter may compute in one step with its layer; torch.compile sees through
        hooks alone."""
        self._multiplier = 1.0
        self._handles: list[_Handle] = []

    # Attaching

    @property
    def attached(self) -> bool:
        """Whether the model computes with this network now."""
        return bool(self._handles)

    def attach(self) -> None:
        """Let the model compute with this network, until `detach`.

        Raises:
            RuntimeError: it is attached already.
        """
        if self.attached:
            raise RuntimeError("the network is attached already")
        self._handles = [self._attached_to(target) for target in self.targets]

    def detach(self) -> None:
        """Leave the model as it was before `attach`; does nothing when not attached."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def __enter__(self) -> Network:
        """Attach for the length of a `with` block."""
        self.attach()
        return self

    def __exit__(self, *_: object) -> None:
        """Detach, also after an error."""
        self.detach()

    @property
    def multiplier(self) -> float:
        """By how much the network counts: 0 is the bare model at the bare model's cost."""
        return self._multiplier

    @multiplier.setter
    def multiplier(self, multiplier: float) -> None:
        self._multiplier = multiplier
        for target in self.targets:
            self._adapter(target).multiplier = multiplier

    @contextmanager
    def at(self, multiplier: float) -> Iterator[Network]:
        """Another multiplier for the length of a `with` block, such as 0 for the bare model.

        The network is seen whole there, also while it is trained with dropout.
        """
        before = self.multiplier
        masks = [self._adapter(target).mask for target in self.targets]
        self.multiplier = multiplier
        self.end_dropout()
        try:
            yield self
        finally:
            self.multiplier = before
            for target, mask in zip(self.targets, masks, strict=True):
                self._adapter(target).mask = mask

    # Training

    def draw_dropout(self, seed: str) -> None:
        """Draw what is left out of the next batch, forward and backward; until `end_dropout`.

        One adapter at least stays, because a batch without any has no gradient at all.

        Args:
            seed: everything that is drawn follows from it.
        """
        if not self.dropout:
            return
        drawn = random.Random(seed)
        masks = []
        for _ in self.targets:
            whole = drawn.random() < self.dropout.module
            masks.append(Mask(self.dropout, drawn.getrandbits(62), whole))
        if all(mask.whole for mask in masks):
            kept = int(drawn.random() * len(masks))
            masks[kept] = replace(masks[kept], whole=False)
        for target, mask in zip(self.targets, masks, strict=True):
            self._adapter(target).mask = mask

    def end_dropout(self) -> None:
        """Leave nothing out any more."""
        for target in self.targets:
            self._adapter(target).mask = None

    def limit_norms(self, most: float) -> None:
        """Shrink every adapter whose delta W has a norm above this."""
        for target in self.targets:
            self._adapter(target).limit_norm(most)

    def fast_parameters(self) -> list[nn.Parameter]:
        """The weights that start at zero, which LoRA+ gives a higher learning rate."""
        return [
            weight
            for target in self.targets
            for name, weight in self._adapter(target).weights().items()
            if name in self._adapter(target).fast
        ]

    def unet_parameters(self) -> list[nn.Parameter]:
        """The trained weights inside the UNet."""
        return self._weights(target for target in self.targets if target.block != BASE)

    def text_encoder_parameters(self) -> list[nn.Parameter]:
        """The trained weights inside the text encoders; empty unless BASE was chosen."""
        return self._weights(target for target in self.targets if target.block == BASE)

    # Files

    @torch.no_grad()
    def tensors(
        self, dtype: torch.dtype = torch.float32, strength: float = 1.0
    ) -> dict[str, Tensor]:
        """A snapshot of the network as a kohya file holds it, on the CPU.

        Args:
            dtype: dtype of every tensor, alpha included.
            strength: is worked into the weights (a LoRA's `lora_up`; alpha stays), so that the
                file at strength 1 is this network at multiplier `strength`.
        """
        held = {}
        for target in self.targets:
            adapter = self._adapter(target)
            for name, value in adapter.strengthened(strength).items():
                held[f"{target.name}.{name}"] = value.to("cpu", dtype, copy=True).contiguous()
            held[f"{target.name}.alpha"] = torch.tensor(adapter.alpha, dtype=dtype)
        return held

    def load(self, tensors: Mapping[str, Tensor], *, source: str = "resume_from") -> None:
        """Continue from the tensors of a kohya file.

        The file's rank and alpha win over this network's, layer by layer: a LoRA of another rank
        cannot be turned into the wanted one without loss, and continuing must begin where the
        file ends.  A warning in the log says so, and `facts` states what is then true.  A layer
        that the file does not hold keeps its new, empty adapter.  Call this before the optimizer
        is made, because weights of another shape are other parameters.

        Args:
            tensors: the file's tensors; every one of them must belong to this network.
            source: what a problem names: the file, or the parameter that named it.

        Raises:
            BadInput: with every problem; the network is then unchanged.
        """
        found = read_adapters(tensors, self.targets, self.kind, source)
        before, attached = self.facts(), self.attached
        self.detach()
        for target in self.targets:
            if target.name in found:
                self._take(target, found[target.name])
        self.multiplier = self._multiplier
        if attached:
            self.attach()
        log.info("%s: continued %d of %d layers", source, len(found), len(self.targets))
        if self.facts() != before:
            log.warning("%s has its own rank and alpha, which are kept: %s", source, self.facts())

    def facts(self) -> NetworkFacts:
        """Kind, rank and alpha as they are; None where they differ between layers."""
        plain = [self._adapter(t) for t in self.targets if not convolves(t.module)]
        kernels = [self._adapter(t) for t in self.targets if convolves(t.module)]
        return NetworkFacts(
            kind=self.kind.name,
            rank=_common(adapter.rank for adapter in plain),
            alpha=_common(adapter.alpha for adapter in plain if adapter.scaled),
            conv_rank=_common(adapter.rank for adapter in kernels),
            conv_alpha=_common(adapter.alpha for adapter in kernels if adapter.scaled),
        )

    # Within

    def _attached_to(self, target: Target) -> _Handle:
        adapter, layer = self._adapter(target), target.module
        taken = not self.fuses or "forward" in vars(layer)  # by another network
        forward = None if taken else adapter.beside(layer)
        if forward is None:
            return layer.register_forward_hook(adapter.hook)
        layer.forward = forward  # type: ignore[method-assign, assignment]
        return _OwnForward(layer)

    def _adapter(self, target: Target) -> Adapter:
        return cast(Adapter, self.adapters[target.name])

    def _weights(self, targets: Iterable[Target]) -> list[nn.Parameter]:
        return [weight for target in targets for weight in self._adapter(target).parameters()]

    def _take(self, target: Target, found: Adapter) -> None:
        """Take over an adapter read from a file: in place where it has the same form."""
        adapter = self._adapter(target)
        own, new = adapter.weights(), found.weights()
        if adapter.alpha == found.alpha and _shapes(own) == _shapes(new):
            with torch.no_grad():
                for name, weight in own.items():
                    weight.copy_(new[name])
            return
        like = next(iter(own.values()))
        found.requires_grad_(like.requires_grad)
        self.adapters[target.name] = found.placed(like.device, like.dtype)


def _shapes(weights: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: weight.shape for name, weight in weights.items()}


def _common(values: Iterable[Number]) -> Number | None:
    distinct = set(values)
    return distinct.pop() if len(distinct) == 1 else None
