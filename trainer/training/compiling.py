"""The UNet compiled for the length of a training, and what that gives on this machine.

torch.compile joins many small operations into few large ones.  That takes from seconds to many
minutes, and what a batch gains by it differs from machine to machine: nothing but a trial tells
after how many batches it has paid, and whether it still computes the same.

Of blocks many are alike, and compiled once from torch 2.5 on.  As a whole, the UNet of the embedded
checkpoint took half as long again on a CPU, and a step then 0.66 of the plain one instead of 0.97.
"""

from __future__ import annotations

import importlib.util
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from ..data.buckets import LATENT_CELL_PX
from ..errors import BadInput, Problem
from ..events import Notice, PhaseStarted, Sink

BACKEND = "inductor"
PARTS: dict[str, tuple[type[nn.Module], ...]] = {
    "blocks": (BasicTransformerBlock, ResnetBlock2D),
    "whole": (UNet2DConditionModel,),
}
"""What is compiled, each by itself, by the value of `compiled_parts`."""
LEAST_TORCH = (2, 3)
"""2.1 follows no hook to another module's weights; 2.3 fails with gradient checkpointing and as a
whole, which the trial tells."""
VARIANTS = 4096
DYNAMO = {
    # For each width of a model times each size of pictures, before torch 2.5 for every layer; at
    # torch's own limits it would leave the rest plain without a word.
    "cache_size_limit": VARIANTS,
    "accumulated_cache_size_limit": VARIANTS,
    # Else a block that is trained may be taken for one that is not, and its network is left out.
    "skip_nnmodule_hook_guards": False,
}
"""How torch compiles: how often one function, and what it looks at before it takes one again."""
TRIALS = 5
"""Passes without and with it that are timed; the shortest of each counts."""
ROUNDING, ROUNDING_OF_HALF = 0.05, 0.2
"""How far gradients may be from what they are without, as a share of their length."""
OFF = "switch it off; everything else stays as it is"
CURES = {"blocks": OFF, "whole": f"set compiled_parts to blocks; or {OFF}"}
"""Where it does not work, by the value of `compiled_parts`."""

Forward = Callable[..., Any]
Clock = Callable[[], AbstractContextManager[None]]


def obstacle() -> Problem | None:
    """What is known to keep torch from compiling here, without a trial."""
    version = torch.__version__
    if tuple(map(int, version.split(".")[:2])) < LEAST_TORCH:
        what = f"is on, but torch {version} cannot compile a model beside a network"
        cure = f"switch it off; it takes torch {'.'.join(map(str, LEAST_TORCH))} or newer"
        return Problem("torch_compile", what, cure)
    if torch.cuda.is_available() and not importlib.util.find_spec("triton"):
        what = "is on, for which torch needs the package triton on a GPU"
        cure = "switch it off, or install triton into the webui's venv"
        return Problem("torch_compile", what, cure)
    return None


@contextmanager
def compiled(
    unet: UNet2DConditionModel,
    trained: Sequence[Tensor],
    *,
    parts: str,
    batches: int,
    phase: PhaseStarted,
    sink: Sink,
    off_the_clock: Clock,
) -> Iterator[None]:
    """Passes that make a graph run compiled, for a `with` block; others stay as they are.

    At the first one the trial is made, and the user is told what it showed.

    Args:
        trained: the weights inside the UNet that a gradient is wanted for.
        parts: a key of `PARTS`.
        batches: how many are to come.
        phase: what a trial comes in between.
        off_the_clock: stops the training's clock while a trial is made.

    Raises:
        BadInput: torch cannot compile here; at the first pass, too.
    """
    import torch._dynamo

    chosen = [part for part in unet.modules() if isinstance(part, PARTS[parts])]
    within = [part for part in unet.modules() if isinstance(part, BasicTransformerBlock)]
    straightened = [part for part in within if part not in chosen]
    trial = _Trial(trained, CURES[parts], batches, phase, sink, off_the_clock)
    try:
        for part in straightened:
            part.forward = _straight(part.forward)
        for part in chosen:
            part.forward = trial.either(part.forward)
        trial.forward = unet.forward
        unet.forward = trial  # type: ignore[method-assign]
        with torch._dynamo.config.patch(DYNAMO):
            yield
    finally:
        for part in (*straightened, *chosen, unet):
            vars(part).pop("forward", None)
        torch._dynamo.reset()  # what was compiled holds on to the model and the network


def _straight(plain: Forward) -> Forward:
    """The forward pass of a part that is compiled inside a larger one.

    Of what lies transposed torch makes wrong gradients on a CPU, 2.9 inside a whole, too.
    """

    def forward(x: Tensor, *inputs: Any, **options: Any) -> Any:
        return plain(x.contiguous() if torch.compiler.is_compiling() else x, *inputs, **options)

    return forward


class _Pass(NamedTuple):
    """One there and back, which changes nothing."""

    seconds: float
    gradients: tuple[Tensor, ...]
    dtype: torch.dtype
    """What the UNet answered in."""


class _Trial:
    """Stands in the place of the UNet's forward pass; what it compiles, it measures and checks."""

    forward: Forward

    def __init__(
        self,
        trained: Sequence[Tensor],
        cure: str,
        batches: int,
        phase: PhaseStarted,
        sink: Sink,
        off_the_clock: Clock,
    ) -> None:
        self._trained = tuple(trained)
        self._cure = cure
        self._batches = batches
        self._phase = phase
        self._sink = sink
        self._off_the_clock = off_the_clock
        self._compiles = False
        self._known: set[tuple[torch.Size, torch.Size]] = set()

    def either(self, plain: Forward) -> Forward:
        """A part's forward pass: the compiled one where a graph is made, outside of trials."""
        with _answered(self._cure):
            # Each size by itself: one made for all could be chosen when checkpointing repeats a
            # pass that another has made, and what they keep differs.
            fast = torch.compile(plain, backend=BACKEND, dynamic=False)

        def forward(x: Tensor, *inputs: Any, **options: Any) -> Any:
            if not (self._compiles and torch.is_grad_enabled()):
                return plain(x, *inputs, **options)
            # Of what lies transposed, torch 2.13 makes wrong gradients on a CPU.
            return fast(x.contiguous(), *inputs, **options)

        return forward

    def __call__(
        self, latents: Tensor, timesteps: Tensor, context: Tensor, **options: Any
    ) -> tuple[Tensor, ...]:
        """The UNet's answer."""
        if torch.is_grad_enabled() and (latents.shape, context.shape) not in self._known:
            with self._off_the_clock():
                self._sink(PhaseStarted("Compiling the model"))
                self._sink(Notice(self._try(latents, timesteps, context, **options)))
                self._sink(self._phase)
        answer: tuple[Tensor, ...] = self.forward(latents, timesteps, context, **options)
        return answer

    def _try(self, latents: Tensor, timesteps: Tensor, context: Tensor, **options: Any) -> str:
        """Compiles for pictures and prompts of this size; what came of it, for the user.

        Raises:
            BadInput: torch refuses, or what it made computes something else.
        """

        def run(*, compiles: bool) -> _Pass:
            self._compiles = compiles
            return self._pass(latents, timesteps, context, **options)

        is_first = not self._known
        self._known.add((latents.shape, context.shape))
        plain = run(compiles=False)
        with _answered(self._cure):
            compiling = run(compiles=True)
        self._check_alike(plain, compiling)
        if not is_first:
            height, width = (side * LATENT_CELL_PX for side in latents.shape[-2:])
            size = f"{len(latents)} x {height} x {width} px and {context.shape[1]} tokens"
            return f"Compiled for {size}, too, in {compiling.seconds:.0f} s"
        # in turns, so that what else the machine does is the same for both
        times = [[run(compiles=on).seconds for on in (False, True)] for _ in range(TRIALS)]
        plain_s, fast_s = map(min, zip(*times, strict=True))
        return verdict(compiling.seconds - fast_s, plain_s, fast_s, self._batches)

    def _pass(self, latents: Tensor, timesteps: Tensor, context: Tensor, **options: Any) -> _Pass:
        began = time.perf_counter()
        (prediction,) = self.forward(latents, timesteps, context, **options)
        wanted = self._trained or [context]  # of the text encoder alone
        gradients = torch.autograd.grad(
            prediction.float().square().sum(), wanted, materialize_grads=True
        )
        gradients[-1].sum().item()  # waits for the device
        return _Pass(time.perf_counter() - began, gradients, prediction.dtype)

    def _check_alike(self, plain: _Pass, fast: _Pass) -> None:
        """Raises: BadInput: the gradients are not the same but for rounding."""
        pairs = zip(plain.gradients, fast.gradients, strict=True)
        apart = math.hypot(*(float((one - other).norm()) for one, other in pairs))
        length = math.hypot(*(float(one.norm()) for one in plain.gradients))
        most = ROUNDING if plain.dtype is torch.float32 else ROUNDING_OF_HALF
        if math.isfinite(length) and not apart <= most * length:
            share = apart / length if length else math.inf
            what = f"changes what is computed here: torch {torch.__version__} errs by {share:.0%}"
            raise BadInput([Problem("torch_compile", what, self._cure)])


def verdict(compiling_s: float, plain_s: float, fast_s: float, batches: int) -> str:
    """After how many batches compiling has paid, for the user.

    Args:
        compiling_s: seconds that it took.
        plain_s, fast_s: of one batch, there and back, without and with it.
        batches: how many are to come.
    """
    off = "switch torch_compile off"
    spent = f"Compiled in {compiling_s:.0f} s: a batch takes {fast_s:.3g} s instead of"
    spent += f" {plain_s:.3g} s"
    if fast_s >= plain_s:
        return f"{spent}, which never pays here: {off}"
    pays_after = math.ceil(compiling_s / (plain_s - fast_s))
    if pays_after > batches:
        return f"{spent}. It pays after {pays_after}, and {batches} are to come: {off} for so few"
    return f"{spent}. It pays after {pays_after} of the {batches} to come"


@contextmanager
def _answered(cure: str) -> Iterator[None]:
    """Makes of torch's refusal to compile an error that says what to do.

    Raises:
        BadInput: it refused.
    """
    from torch._dynamo.exc import TorchDynamoException

    try:
        yield
    except (TorchDynamoException, ImportError) as error:
        raise BadInput([_refusal(error, cure)]) from error
    except RuntimeError as error:
        if "Dynamo is not supported" not in str(error):  # such as on a newer Python
            raise
        raise BadInput([_refusal(error, cure)]) from error


def _refusal(error: Exception, cure: str) -> Problem:
    lines = [line.strip() for line in str(error).splitlines()]
    reasons = [line for line in lines if line and not line.startswith("backend=")]
    reason = reasons[0][:200].rstrip(". ") if reasons else type(error).__name__
    what = f"does not work here ({reason})"
    return Problem("torch_compile", what, cure)
