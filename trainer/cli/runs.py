"""`train`, `check` and `grid`: what a job file describes, done on this machine."""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..control import Control, Request
from ..events import ignore
from ..paths import is_file
from ..settings.files import read_object
from ..settings.grid import parse_grid
from ..settings.groups import OutputSettings, TrainingSettings
from ..settings.schema import JobSettings
from .job_files import changed, interruptible, read_job
from .progress import show_progress
from .status import CANCELLED, DONE


def train(options: argparse.Namespace) -> int:
    settings = read_job(options.job, options.set)
    from ..hosts.standalone import StandaloneHost
    from ..run import run_job
    from ..training.distributed import joined
    from ..training.unfinished import state_files, state_folder

    control = Control()
    with joined(options.device) as (team, device):
        if not team.leads:
            logging.getLogger().setLevel(logging.WARNING)
        settings = settings.replace(seed=team.same_seed(settings[TrainingSettings].seed))
        log_dir = StandaloneHost(options.models, options.out).log_dir
        states = state_folder(log_dir, settings[OutputSettings].name)
        with (
            team.output_folder(options.out, [*read_there(settings, options.out, states)]) as out,
            show_progress() as show,
            interruptible(control, alone=team.size == 1),
        ):
            outcome = run_job(
                settings,
                StandaloneHost(options.models, out, device),
                control=control,
                sink=show if team.leads else ignore,
                resume=options.resume,
            )
        if outcome.request is not Request.CONTINUE and team.leads and state_files(states):
            print(f"To go on: {_going_on(options.given)}", file=sys.stderr)
    return DONE if outcome.request is Request.CONTINUE else CANCELLED


def read_there(settings: JobSettings, out: Path, states: Path) -> Iterator[Path]:
    """The files in the folder of results that a job looks at before it trains.

    Its states, its own result, and LoRA files that it names as they are called there.
    """
    from ..networks import kohya
    from ..training.plan import files_to_continue

    yield from (file for file in states.glob("*") if is_file(file))
    result = out / f"{settings[OutputSettings].name}.safetensors"
    named = {kohya.find(name, out) for _, name in files_to_continue(settings)}
    for file in sorted({result, *named}):
        inside = file.is_relative_to(out) and ".." not in file.relative_to(out).parts
        if inside and is_file(file):
            yield file


def _going_on(given: Sequence[str]) -> str:
    """The command that goes on from the last state of the one that was given."""
    resume = [] if "--resume" in given else ["--resume"]
    return shlex.join(["python", "-m", "trainer", *given, *resume])


def check(options: argparse.Namespace) -> int:
    settings = read_job(options.job, options.set)
    from ..hosts.standalone import StandaloneHost
    from ..measure import measure_step
    from ..training.plan import make_plan

    host = StandaloneHost(options.models, options.out, options.device)
    plan = make_plan(settings, host, decode_pictures=True)
    print(f"checkpoint  {settings.values['checkpoint']} ({plan.model_title})")
    if plan.images:
        print(f"pictures    {len(plan.images)}, {len(plan.views)} samples an epoch")
        for (height, width), count in sorted(plan.frames.items()):
            print(f"  {height} x {width} px  {count} samples")
    print(f"steps       {plan.steps}, {plan.epochs} epochs")
    print(f"file        {plan.output_file}")
    for step, path in plan.save_points.items():
        print(f"  at step {step}: {path.name}")
    if plan.estimated_mb is not None:
        what = "model, network and step"
        print(f"memory      about {plan.estimated_mb:,.0f} MB at the peak, estimated: {what}")
    for warning in plan.warnings:
        print(f"warning     {warning}")
    if not options.quick:
        cost = measure_step(settings, plan, host)
        print(f"trained     {cost.trained_parameters:,} weights")
        if cost.peak_mb is not None:
            what = "what lies on the GPU" if host.device.type == "cuda" else "the whole program"
            print(f"memory      {cost.peak_mb:,.0f} MB at the peak, measured: {what}")
        total_s = cost.seconds_per_step * settings.steps_of_all_passes
        print(f"time        {cost.seconds_per_step:.2f} s a step, {total_s / 60:.1f} min in all")
    return DONE


def grid(options: argparse.Namespace) -> int:
    """Draws LoRA files at several strengths on the same prompts and seeds."""
    raw = {} if options.job is None else read_object(options.job)
    settings = parse_grid({**raw, **changed(options.set)})
    from ..grid import draw_grid
    from ..hosts.standalone import StandaloneHost

    control = Control()
    host = StandaloneHost(options.models, options.out, options.device)
    with show_progress() as show, interruptible(control):
        path = draw_grid(settings, host, control=control, sink=show)
    return CANCELLED if path is None or control.request is not Request.CONTINUE else DONE
