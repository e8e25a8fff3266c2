"""What a job of the queue may be: a training, or a grid of pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from ..control import Control
from ..errors import BadInput
from ..events import Sink
from ..hosts.protocol import Host
from ..jobs.job import Job
from ..paths import is_there
from ..settings.grid import GRID, parse_grid
from ..settings.schema import JobSettings, parse

Adjust = Callable[[JobSettings], JobSettings]


def checked(raw: Mapping[str, object]) -> dict[str, object]:
    """A job's settings, complete and checked.

    Raises:
        BadInput: every problem at once.
    """
    return parse_grid(raw).as_dict() if raw.get("method") == GRID else parse(raw).as_dict()


def planned(
    raw: Mapping[str, object], host: Host, before: Sequence[Job] = (), owner: str = ""
) -> dict[str, object]:
    """As `checked`, for a job that could run now as far as files and folders go.

    Args:
        before: jobs that run first; a LoRA file that one of them makes need not be there yet.
        owner: the key of the job that is changed; "": it is a new one.

    Raises:
        BadInput: every problem at once, as the plan tells them.
    """
    settings = checked(raw)
    from ..networks import kohya

    def will_be_there(name: str) -> bool:
        file = kohya.find(name, host.output_dir)
        trainings = (job for job in before if job.method != GRID)
        made = any(file.name.startswith(job.name) for job in trainings)  # copies on the way, too
        return made and not is_there(file)

    if settings["method"] == GRID:
        from ..grid import check_grid

        grid = parse_grid(raw)
        there = (file for file in grid.files if not will_be_there(file))
        check_grid(replace(grid, loras="\n".join(there)), host)
        return settings
    from ..training.plan import files_to_continue, make_plan

    parsed = parse(raw)
    later = {field for field, name in files_to_continue(parsed) if will_be_there(name)}
    try:
        make_plan(parsed, host, owner=owner)
    except BadInput as error:
        left = [one for one in error.problems if one.where not in later]
        if left:
            raise BadInput(left) from None
    return settings


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
