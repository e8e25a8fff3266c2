"""Records as JSON values."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from ..errors import Problem
from ..jobs.job import Job
from .yard import Yard


def status(yard: Yard, job_id: int | None, since: int) -> dict[str, object]:
    """What a page that polls wants to know.

    Args:
        job_id: the job whose curve the page has; another one's is sent from its beginning.
        since: the last step that the page has of it.
    """
    now = yard.worker.status
    known = since if job_id == yard.live.job_id else 0
    jobs = yard.store.jobs()
    current = now.job
    return {
        "server": yard.server_id,
        "running": now.running,
        "stopping": now.stopping,
        "job": None if current is None else job_json(yard, current),
        "hint": now.hint,
        "step": None if now.step is None else finite(dataclasses.asdict(now.step)),
        "phase_left_s": yard.live.phase_left_s(),
        "memory_mb": memory_mb(),
        "curve_job": yard.live.job_id,
        # read before the points: when they begin anew meanwhile, the next answer tells
        "curve_began": yard.live.began,
        "curve": [finite(point) for point in yard.live.curve(known)],
        "samples": yard.live.samples,
        "log": yard.live.lines(),
        "jobs": [
            job_json(yard, current if current and job.id == current.id else job) for job in jobs
        ],
    }


def job_json(yard: Yard, job: Job, *, settings: bool = False) -> dict[str, object]:
    """A job; its settings only on demand, because lists are sent often.

    Its `saved_step` is the step that it can go on from, null where there is none.
    """
    return {
        "id": job.id,
        "name": job.name,
        "method": job.method,
        "state": job.state.value,
        "resume": job.resume,
        "saved_step": yard.saved_step(job),
        **{key: finite(value) for key, value in dataclasses.asdict(job.progress).items()},
        "created_s": job.created_s,
        "started_s": job.started_s,
        "finished_s": job.finished_s,
        "files": [str(file) for file in job.files],
        "notes": list(job.notes),
        "error": job.error,
        **({"settings": dict(job.settings)} if settings else {}),
    }


def problems_json(problems: Sequence[Problem]) -> list[dict[str, str]]:
    """Problems, so that a page can put each to its field."""
    return [dataclasses.asdict(problem) for problem in problems]


def finite(value: object) -> object:
    """The value with None for every number that JSON does not know."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def memory_mb() -> float | None:
    """Memory that is in use on the first GPU; None without one, or before torch is loaded."""
    import sys

    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return None
    return float(torch.cuda.memory_reserved()) / 2**20
