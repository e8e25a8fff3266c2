"""The optimizers by name, one row each."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch

from ..errors import BadInput, MissingDependency, Problem

Make = Callable[..., torch.optim.Optimizer]
Rows = Sequence[Mapping[str, Any]]
"""Parameter groups as torch's optimizers take them, with a "name" each."""


@dataclass(frozen=True)
class Package:
    """An optional package of optimizers."""

    name: str
    versions: str
    """Those that this was tried with, as pip wants them."""


PRODIGY = Package("prodigyopt", ">=1.0,<2")
LION = Package("lion-pytorch", ">=0.1.2,<0.3")
SCHEDULE_FREE = Package("schedulefree", ">=1.2,<2")
D_ADAPTATION = Package("dadaptation", ">=3.1,<4")
CAME = Package("came-pytorch", ">=0.1.3,<0.2")
ADAM_MINI = Package("adam-mini", ">=1.1,<2")
PYTORCH_OPTIMIZER = Package("pytorch_optimizer", ">=3.1,<5")
BITSANDBYTES = Package("bitsandbytes", ">=0.43,<0.46")
"""Unpinned, pip would replace the webui's torch."""


@dataclass(frozen=True)
class OptimizerKind:
    """An optimizer: where it comes from, and what is special about it."""

    name: str
    module: str
    """The module that holds it, imported when it is chosen."""
    attribute: str
    """Its name there."""
    package: Package | None = None
    """What must be installed for it; None: nothing more than Trainyard needs anyway."""
    arguments: Mapping[str, object] = field(default_factory=dict)
    """What makes it what its name says; a user's arguments may say otherwise."""
    keeps: float = 2
    """Numbers of float32's size that it keeps of each weight of a matrix."""
    one_rate: bool = False
    """It finds its rate itself, one for all: learning rates are factors of that, and alike."""
    needs_rate: bool = False
    """It cannot make a step at a rate of 0, so that a warm-up has to begin above."""
    asks: bool = False
    """At each step it asks the device for numbers of each weight; it is to get them as `Piece`."""
    only_cuda: bool = False
    averages: bool = False
    """It needs no schedule: it averages instead, and knows `train()` and `eval()`."""
    build: Callable[[Make, Rows, Mapping[str, Any]], torch.optim.Optimizer] | None = None
    """Makes it where it does not take parameter groups as torch's do."""

    def load(self) -> Make:
        """Import it.

        Raises:
            MissingDependency: its package is not installed.
            BadInput: the package does not have it, or does not fit this machine.
        """
        try:
            return cast(Make, getattr(importlib.import_module(self.module), self.attribute))
        except ModuleNotFoundError as error:
            if self.package is None or error.name != self.module.partition(".")[0]:
                raise BadInput([self._unusable(error)]) from error
            raise MissingDependency(
                self.package.name, self.name, where="optimizer", versions=self.package.versions
            ) from error
        except (ImportError, AttributeError, RuntimeError, OSError) as error:
            # bitsandbytes raises the last two when its library does not fit the machine.
            raise BadInput([self._unusable(error)]) from error

    def _unusable(self, error: Exception) -> Problem:
        what = f"{self.name} cannot be imported from {self.module}: {error}"
        if self.package is None:
            return Problem("optimizer", what, "choose AdamW")
        cure = f'run: pip install "{self.package.name}{self.package.versions}", or choose AdamW'
        return Problem("optimizer", what, cure)


def _adam_mini(make: Make, rows: Rows, arguments: Mapping[str, Any]) -> torch.optim.Optimizer:
    """It takes named parameters and gives each a group of its own."""
    named = [(f"{row['name']}.{i}", p) for row in rows for i, p in enumerate(row["params"])]
    optimizer = make(named, verbose=False, **arguments)
    own = {id(parameter): row for row in rows for parameter in row["params"]}
    for group in optimizer.param_groups:
        row = own[id(group["params"][0])]
        group["lr"], group["name"] = row["lr"], row["name"]
    return optimizer


def _torch(
    name: str, attribute: str = "", *, keeps: float = 2, **arguments: object
) -> OptimizerKind:
    module = "torch.optim"
    return OptimizerKind(name, module, attribute or name, arguments=arguments, keeps=keeps)


def _schedule_free(name: str, *, keeps: float = 2) -> OptimizerKind:
    return OptimizerKind(name, "schedulefree", name, SCHEDULE_FREE, keeps=keeps, averages=True)


def _d_adaptation(name: str, *, keeps: float, needs_rate: bool = False) -> OptimizerKind:
    return OptimizerKind(
        *(name, "dadaptation", name, D_ADAPTATION),
        keeps=keeps,
        one_rate=True,
        needs_rate=needs_rate,
        asks=True,
    )


def _bitsandbytes(
    name: str, attribute: str = "", *, keeps: float, **arguments: object
) -> OptimizerKind:
    return OptimizerKind(
        *(name, "bitsandbytes.optim", attribute or name, BITSANDBYTES, arguments),
        keeps=keeps,
        only_cuda=True,
    )


KINDS: dict[str, OptimizerKind] = {
    kind.name: kind
    for kind in (
        _torch("AdamW"),
        _torch("Adam"),
        _torch("NAdam"),
        _torch("RAdam"),
        _torch("Adamax"),
        _torch("Adagrad", keeps=1),
        _torch("RMSprop", keeps=1),
        _torch("SGD", keeps=0),
        _torch("SGDNesterov", "SGD", keeps=1, momentum=0.9, nesterov=True),
        OptimizerKind(
            "AdaFactor",
            "transformers.optimization",
            "Adafactor",
            arguments={"scale_parameter": False, "relative_step": False},
            keeps=0,  # a row and a column
        ),
        OptimizerKind("Lion", "lion_pytorch", "Lion", LION, keeps=1),
        OptimizerKind(
            "Prodigy", "prodigyopt", "Prodigy", PRODIGY, keeps=4, one_rate=True, asks=True
        ),
        _d_adaptation("DAdaptAdam", keeps=3),
        _d_adaptation("DAdaptLion", keeps=2),
        _d_adaptation("DAdaptAdaGrad", keeps=3),
        _d_adaptation("DAdaptAdan", keeps=5),
        _d_adaptation("DAdaptSGD", keeps=3, needs_rate=True),
        _schedule_free("AdamWScheduleFree"),
        _schedule_free("RAdamScheduleFree"),
        _schedule_free("SGDScheduleFree", keeps=1),
        OptimizerKind("CAME", "came_pytorch", "CAME", CAME, keeps=1),
        OptimizerKind("Tiger", "pytorch_optimizer", "Tiger", PYTORCH_OPTIMIZER, keeps=1),
        OptimizerKind("AdamMini", "adam_mini", "Adam_mini", ADAM_MINI, keeps=1, build=_adam_mini),
        _bitsandbytes("AdamW8bit", keeps=0.5),
        _bitsandbytes("Adam8bit", keeps=0.5),
        _bitsandbytes("Lion8bit", keeps=0.25),
        _bitsandbytes("SGDNesterov8bit", "SGD8bit", keeps=0.25, momentum=0.9, nesterov=True),
        _bitsandbytes("PagedAdamW", keeps=2),
        _bitsandbytes("PagedAdamW32bit", keeps=2),
        _bitsandbytes("PagedAdamW8bit", keeps=0.5),
        _bitsandbytes("PagedLion8bit", keeps=0.25),
    )
}
