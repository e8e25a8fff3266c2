"""Several processes that train one network together, as `torchrun` starts them.

Every step learns from `gradient_accumulation_steps` batches.  One process takes them one after
the other; several take their share each and add up the gradients, so that the result is the same.
Each process goes through the same job; all but the first write into a folder that is thrown away.
"""

from __future__ import annotations

import logging
import os
import secrets
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist

from ..control import Request
from ..errors import BadInput, Problem, TrainyardError

log = logging.getLogger(__name__)
Value = TypeVar("Value")

LONGEST_WAIT = timedelta(minutes=30)
"""For the others, who may be saving or drawing, before they are given up."""
REQUESTS = (Request.CONTINUE, Request.STOP_AND_SAVE, Request.INTERRUPT, Request.STOP)
"""From the mildest to the strongest: one process's request holds for all."""


class TeamBroken(TrainyardError):
    """Another process has ended in the middle of the training."""

    def __init__(self, rank: int) -> None:
        super().__init__(
            f"process {rank}: another process of this training has ended, so it cannot go on;"
            " the last saved state is kept - start it again with --resume"
        )


@dataclass(frozen=True)
class Team:
    """The processes of a training; by itself, one process is a team of one.

    Attributes:
        rank: of this process, from 0.
        size: their number.
    """

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes the results."""
        return self.rank == 0

    def share(self, batches: int) -> int:
        """How many of a step's batches are this process's.

        Raises:
            BadInput: they cannot be shared evenly.
        """
        if batches % self.size:
            what = f"{batches} batches a step cannot be shared by {self.size} processes"
            cure = f"set it to {self.size}, or a multiple; each process then takes its share"
            raise BadInput([Problem("gradient_accumulation_steps", what, cure)])
        return batches // self.size

    def agreed(self, request: Request) -> Request:
        """The strongest request that any process has; asked between two steps.

        Raises:
            TeamBroken: another process has ended.
        """
        if self.size == 1:
            return request
        strongest = torch.tensor(REQUESTS.index(request))  # on the CPU: no GPU has to wait
        with self._together():
            dist.all_reduce(strongest, dist.ReduceOp.MAX)
        return REQUESTS[int(strongest)]

    @torch.no_grad()
    def sum_gradients(
        self, parameters: Sequence[torch.nn.Parameter], loss: torch.Tensor
    ) -> torch.Tensor:
        """Adds up all processes' gradients in place; returns the sum of losses.

        A weight that no process has a gradient for keeps none: as in one process, an optimizer
        then leaves it as it is, where a gradient of 0 would still move it by its momentum.

        Args:
            loss: a scalar on the parameters' device.

        Raises:
            TeamBroken: another process has ended.
        """
        if self.size == 1:
            return loss
        learns = self.any_of([p.grad is not None for p in parameters])
        learning = [p for p, some in zip(parameters, learns, strict=True) if some]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in learning]
        message = torch.cat([loss.float().view(1), *(g.float().flatten() for g in gradients)])
        with self._together():
            dist.all_reduce(message)
        total, *sums = message.split([1, *(gradient.numel() for gradient in gradients)])
        for parameter, gradient, summed in zip(learning, gradients, sums, strict=True):
            parameter.grad = gradient.copy_(summed.view_as(gradient))
        return total[0]

    def any_of(self, flags: Sequence[bool]) -> list[bool]:
        """Which of the flags any process has set; all give equally many.

        Raises:
            TeamBroken: another process has ended.
        """
        if self.size == 1:
            return list(flags)
        message = torch.tensor(flags, dtype=torch.uint8)
        with self._together():
            dist.all_reduce(message, dist.ReduceOp.MAX)
        return message.bool().tolist()

    def gathered(self, held: Mapping[int, torch.Tensor]) -> dict[int, torch.Tensor]:
        """What all processes hold, each under keys of its own; tensors on the CPU.

        Raises:
            TeamBroken: another process has ended.
        """
        if self.size == 1:
            return dict(held)
        parts: list[dict[int, torch.Tensor]] = [{} for _ in range(self.size)]
        with self._together():
            dist.all_gather_object(parts, dict(held))
        return {key: tensor for part in parts for key, tensor in part.items()}

    def in_parts(
        self, like: torch.Tensor, size: int, compute: Callable[[slice], torch.Tensor]
    ) -> torch.Tensor:
        """A tensor of the shape of `like`, computed `size` rows at once by one process or another.

        Raises:
            TeamBroken: another process has ended.
        """
        rows = torch.zeros_like(like)
        parts = [slice(first, first + size) for first in range(0, len(like), size)]
        for part in parts[self.rank :: self.size]:
            rows[part] = compute(part)
        if self.size > 1:
            with self._together():
                dist.all_reduce(rows)
        return rows

    @torch.no_grad()
    def same_weights(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Gives every process the first one's weights, so that all begin alike.

        Raises:
            TeamBroken: another process has ended.
        """
        if self.size > 1:
            with self._together():
                for parameter in parameters:
                    dist.broadcast(parameter.data, 0)

    def common(self, value: Value) -> Value:
        """The first process's value, of any type that pickles.

        Raises:
            TeamBroken: another process has ended.
        """
        if self.size == 1:
            return value
        held = [value]
        with self._together():
            dist.broadcast_object_list(held, 0)
        return held[0]

    def same_seed(self, seed: int) -> int:
        """The seed, drawn by the first process where it is -1 and there are others."""
        return self.common(secrets.randbits(32)) if seed == -1 and self.size > 1 else seed

    @contextmanager
    def _together(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            log.debug("process %d: %s", self.rank, error)
            raise TeamBroken(self.rank) from error

    @contextmanager
    def output_folder(self, folder: Path, read: Sequence[Path]) -> Iterator[Path]:
        """Where this process writes: the first one into `folder`, the others into nothing.

        Args:
            read: files below `folder` that the job looks at; the others get those that the first
                one has there, which may be another machine.
        """
        if self.size == 1:
            yield folder
            return
        found = {file.relative_to(folder).as_posix(): file for file in read if self.leads}
        files = self.common({name: file.read_bytes() for name, file in found.items()})
        if self.leads:
            yield folder
            return
        with tempfile.TemporaryDirectory(prefix="trainyard-") as temporary:
            for name, content in files.items():
                own = Path(temporary, name)
                own.parent.mkdir(parents=True, exist_ok=True)
                own.write_bytes(content)
            yield Path(temporary)


def current_team() -> Team:
    """The team that this process has joined."""
    if dist.is_available() and dist.is_initialized():
        return Team(dist.get_rank(), dist.get_world_size())
    return Team()


@contextmanager
def joined(device: str | None) -> Iterator[tuple[Team, str | None]]:
    """Joins the team that `torchrun` tells of in the environment, if there is one.

    Args:
        device: as the user asked for it; None: a GPU for each process of a machine.

    Yields:
        The team, and the device that is this process's.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Team(), device
        return
    if device is None and torch.cuda.is_available():
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    if device is not None and device.startswith("cuda"):
        torch.cuda.set_device(torch.device(device))
        backend = "cpu:gloo,cuda:nccl"
    else:
        backend = "gloo"
    dist.init_process_group(backend, timeout=LONGEST_WAIT)
    yield current_team(), device
    dist.destroy_process_group()
