"""What a step of a job costs, measured with the job's own model before it is trained."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

import torch

from .control import Control
from .events import ignore
from .hosts.protocol import Host
from .models.model import DiffusionModel
from .run import memory_answered, on_loan, out_of_memory
from .settings.groups import ModelSettings, SizeSettings, TrainingSettings
from .settings.schema import JobSettings
from .training.encoding import prompt_encoder
from .training.plan import Plan
from .training.session import Session

CPU = torch.device("cpu")
TIMED_STEPS = 2
LATENT_CELL_PX = 8


@dataclass(frozen=True)
class Cost:
    """Measured on the largest frame of the plan."""

    seconds_per_step: float
    """The mean, where a second pass has steps of another length."""
    peak_mb: float | None
    """Peak memory of the device (CPU: of the process); None where the system does not tell."""
    trained_parameters: int
    """Of the network that is the result."""


def measure_step(settings: JobSettings, plan: Plan, host: Host) -> Cost:
    """Makes a few updates of a throw-away network on random latents; writes nothing.

    Raises:
        BadInput: the model or the network cannot be made.
        OutOfMemory: a smaller job is needed.
    """
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()  # of what ran before in this process
    with memory_answered(lambda error: out_of_memory(settings, error)):
        return on_loan(
            host.borrow(settings[ModelSettings]),
            lambda model: _measured(settings, plan, host, model),
        )


def _measured(settings: JobSettings, plan: Plan, host: Host, model: DiffusionModel) -> Cost:
    seconds, parameters = 0.0, 0
    passes = settings.passes()
    for number, one in enumerate(passes):
        if number == 0 or one != passes[number - 1]:
            quiet = one.replace(log_csv=False, seed=0, resume_from="")
            session = Session(quiet, plan, model, host, control=Control(), sink=ignore)
            seconds_of_step, parameters = _timed(session)
        seconds += seconds_of_step * one[TrainingSettings].steps
    return Cost(seconds / settings.steps_of_all_passes, peak_mb(model.device), parameters)


def _timed(session: Session) -> tuple[float, int]:
    """Seconds that a step of the session's pass takes, and the weights that it trains."""
    model, settings = session.model, session.settings
    network = session.new_network()
    frames = session.plan.frames or (settings[SizeSettings].image_size_px,)  # iLECO: no pictures
    height, width = max(frames, key=lambda frame: frame[0] * frame[1])
    batch_size = settings[TrainingSettings].batch_size
    shape = (batch_size, 4, height // LATENT_CELL_PX, width // LATENT_CELL_PX)
    latents = torch.randn(shape, device=model.device, generator=session.generator)
    timesteps = torch.full((len(latents),), 500, device=model.device)
    captions = [""] * len(latents)
    encode = prompt_encoder(session, captions)

    def loss() -> torch.Tensor:
        return model.denoise(latents, timesteps, encode(captions)).square().mean()

    with network:
        loop = session.new_loop(network)
        session.spare_memory()
        with session.training_mode():
            loop.update(loss)
            _synchronise(model.device)
            started = time.perf_counter()
            for _ in range(TIMED_STEPS):
                loop.update(loss)
            _synchronise(model.device)
    seconds = (time.perf_counter() - started) / TIMED_STEPS
    return seconds, sum(one.numel() for one in loop.parameters)


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_mb(device: torch.device = CPU) -> float | None:
    """The most that was held there so far; on a CPU by this process; None: no system tells."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if sys.platform == "win32":
        return None
    import resource

    unit = 1 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
