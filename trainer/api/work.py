"""What a job of the queue may be: a training, or a grid of pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..control import Control
from ..events import Sink
from ..hosts.protocol import Host
from ..jobs.job import Job
from ..settings.grid import GRID, parse_grid
from ..settings.schema import JobSettings, parse

Adjust = Callable[[JobSettings], JobSettings]


def checked(raw: Mapping[str, object]) -> dict[str, object]:
    """A job's settings, complete and checked.

    Raises:
        BadInput: every problem at once.
    """
    return parse_grid(raw).as_dict() if raw.get("method") == GRID else parse(raw).as_dict()


def do(
    job: Job, host: Host, control: Control, sink: Sink, adjust: Adjust = lambda settings: settings
) -> None:
    """Does a job from beginning to end; what is needed for that is imported now, not before.

    Args:
        adjust: brings a training in line with what is set for all of them.

    Raises:
        TrainyardError: it cannot be done.
    """
    if job.method == GRID:
        from ..grid import draw_grid

        draw_grid(parse_grid(job.settings), host, control=control, sink=sink)
        return
    from ..run import run_job

    run_job(
        adjust(parse(job.settings)),
        host,
        control=control,
        sink=sink,
        resume=job.resume,
        owner=job.key,
    )
