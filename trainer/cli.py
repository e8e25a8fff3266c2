"""The command line: `python -m trainer train|check|ui|schema`."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from types import FrameType

from tqdm import tqdm

from .atomic import write_bytes
from .control import Control, Request
from .errors import BadInput, Problem, TrainyardError
from .events import Event, Notice, PhaseProgress, PhaseStarted, Saved, StepDone, ignore
from .settings.files import read_object
from .settings.groups import TrainingSettings
from .settings.schema import JobSettings, listing, parse
from .settings.traintrain import is_traintrain

log = logging.getLogger(__name__)

DONE, FAILED, BAD_INPUT, CANCELLED = 0, 1, 2, 130
ERROR_FILE = "trainyard-error.txt"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status: see DONE, FAILED, BAD_INPUT, CANCELLED."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a file's name need not be printable here
            stream.reconfigure(errors="backslashreplace")
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        status: int = options.command(options)
    except BadInput as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        return BAD_INPUT
    except TrainyardError as error:
        print(error, file=sys.stderr)
        return FAILED
    except Exception as error:  # noqa: BLE001 - a user cannot do anything with a traceback
        told = str(error).partition("\n")[0]
        print(f"This was not foreseen: {type(error).__name__}: {told}", file=sys.stderr)
        print(f"Its traceback, for a report: {_report(options)}", file=sys.stderr)
        return FAILED
    return status


def _report(options: argparse.Namespace) -> Path:
    """Writes the traceback of the error in hand to a file."""
    text = traceback.format_exc().encode("utf-8", "backslashreplace")
    for folder in (getattr(options, "out", Path()) / "logs", Path(tempfile.gettempdir())):
        with contextlib.suppress(OSError):
            write_bytes(folder / ERROR_FILE, text)
            return folder / ERROR_FILE
    log.exception("the disk is full, so it stands here")
    return Path(os.devnull)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m trainer", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, function: object, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(command=function)
        return command

    for command in (
        add("train", _train, "Train what a job file describes."),
        add("check", _check, "Report every problem of a job, or what it will do."),
    ):
        command.add_argument("job", metavar="JOB.json", type=Path)
        command.add_argument(
            "--set",
            metavar="NAME=VALUE",
            action="append",
            default=[],
            help="change a parameter; may be given several times",
        )
        command.add_argument("--models", type=Path, default=Path("models"), help="checkpoints")
        command.add_argument("--out", type=Path, default=Path("outputs"), help="results")
        command.add_argument("--device", help="cpu, cuda, cuda:1, ...; the GPU if there is one")
        if command.prog.endswith("check"):
            command.add_argument(
                "--quick", action="store_true", help="do not measure memory and time of a step"
            )
        else:
            command.add_argument(
                "--resume", action="store_true", help="go on from the state that was saved last"
            )
    page = add("ui", _ui, "Open the page, without a webui.")
    page.add_argument("--models", type=Path, default=Path("models"), help="checkpoints")
    page.add_argument("--out", type=Path, default=Path("outputs"), help="results")
    page.add_argument("--port", type=int, default=7861)
    page.add_argument("--device", help="cpu, cuda, cuda:1, ...; the GPU if there is one")
    _bench_options(add("bench", _bench, "Measure steps against the bare UNet, or --quality."))
    add("schema", _schema, "Print every parameter as JSON.")
    return parser


def _bench_options(bench: argparse.ArgumentParser) -> None:
    bench.add_argument("--only", action="append", default=[], help="a work or task; several times")
    bench.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    speed = bench.add_argument_group("speed")
    speed.add_argument("--checkpoint", choices=("world", "full"), help="one of the two models only")
    speed.add_argument("--size", type=int, action="append", help="side in px; several times")
    speed.add_argument("--batch", type=int, default=1)
    speed.add_argument("--rounds", type=int, default=5, help="steps of each that are counted")
    speed.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="fp32")
    speed.add_argument("--threads", type=int, help="of the CPU; torch's choice if not given")
    speed.add_argument("--device", help="cpu, cuda, cuda:1, ...; the GPU if there is one")
    quality = bench.add_argument_group("quality")
    quality.add_argument(
        "--quality",
        action="store_true",
        help="effect, collateral, slider and time to effect of every method instead",
    )
    quality.add_argument("--seeds", type=int, default=5, help="trainings of each task")
    quality.add_argument("--cases", type=int, default=40, help="pictures that judge a training")
    quality.add_argument("--out", type=Path, default=Path("outputs/bench"), help="files and rows")
    quality.add_argument(
        "--set",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="change a parameter of every task; may be given several times",
    )


def _train(options: argparse.Namespace) -> int:
    settings = read_job(options.job, options.set)
    from .hosts.standalone import StandaloneHost
    from .run import run_job, state_folder
    from .training.distributed import joined

    control = Control()
    with joined(options.device) as (team, device):
        if not team.leads:
            logging.getLogger().setLevel(logging.WARNING)
        settings = settings.replace(seed=team.same_seed(settings[TrainingSettings].seed))
        states = state_folder(StandaloneHost(options.models, options.out), settings)
        with (
            team.output_folder(options.out, states) as out,
            show_progress() as show,
            _interruptible(control),
        ):
            outcome = run_job(
                settings,
                StandaloneHost(options.models, out, device),
                control=control,
                sink=show if team.leads else ignore,
                resume=options.resume,
            )
    return DONE if outcome.request is Request.CONTINUE else CANCELLED


def _check(options: argparse.Namespace) -> int:
    settings = read_job(options.job, options.set)
    from .hosts.standalone import StandaloneHost
    from .measure import measure_step
    from .training.plan import make_plan

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
        print(f"memory      about {plan.estimated_mb:,.0f} MB at the peak, estimated")
    for warning in plan.warnings:
        print(f"warning     {warning}")
    if not options.quick:
        cost = measure_step(settings, plan, host)
        print(f"trained     {cost.trained_parameters:,} weights")
        if cost.peak_mb is not None:
            print(f"memory      {cost.peak_mb:,.0f} MB at the peak, measured")
        total_s = cost.seconds_per_step * plan.steps
        print(f"time        {cost.seconds_per_step:.2f} s a step, {total_s / 60:.1f} min in all")
    return DONE


def _ui(options: argparse.Namespace) -> int:
    from .hosts.standalone import StandaloneHost
    from .ui.standalone import serve

    host = StandaloneHost(options.models, options.out, options.device)
    serve(host, host.output_dir / "trainyard", options.port)
    return DONE


def _bench(options: argparse.Namespace) -> int:
    return _bench_quality(options) if options.quality else _bench_speed(options)


def _bench_speed(options: argparse.Namespace) -> int:
    import torch

    from .bench.report import NOTES, as_json, table
    from .bench.run import SIZES_PX, Setup, measure_all
    from .bench.works import WORKS

    _check_only(options.only, WORKS)
    if options.threads:
        torch.set_num_threads(options.threads)
    setup = Setup(
        torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu")),
        precision=options.precision,
        batch=options.batch,
        rounds=options.rounds,
    )
    rows = []
    names = [options.checkpoint] if options.checkpoint else list(SIZES_PX)
    for row in measure_all(
        options.only or WORKS, [(name, options.size or SIZES_PX[name]) for name in names], setup
    ):
        rows.append(row)
        print(f"{row.checkpoint} {row.size_px} px {row.work}: {row.ratio:.3f}", flush=True)
        if options.json:
            options.json.write_text(json.dumps(as_json(rows), indent=1), "utf-8")
    print(f"{table(rows)}\n{NOTES}")
    return DONE


def _bench_quality(options: argparse.Namespace) -> int:
    from .demo.checkpoint import CHECKPOINT
    from .demo.quality import baselines, measure_all, table
    from .demo.tasks import TASKS

    _check_only(options.only, TASKS)
    results = measure_all(
        [TASKS[name] for name in options.only or TASKS],
        CHECKPOINT,
        options.out,
        seeds=range(1, options.seeds + 1),
        peers=baselines(),
        changes=_changes(options.set),
        cases=options.cases,
        json_file=options.json,
        show=lambda line: print(line, flush=True),
    )
    print(table(results))
    return DONE


def _check_only(given: Sequence[str], known: Collection[str]) -> None:
    """Raises: BadInput: a name is not known."""
    unknown = [name for name in given if name not in known]
    if unknown:
        cure = f"known: {', '.join(known)}"
        raise BadInput([Problem("--only", f"there is no {name}", cure) for name in unknown])


def _schema(options: argparse.Namespace) -> int:
    del options
    print(json.dumps(listing(), indent=2, ensure_ascii=False))
    return DONE


def read_job(path: Path, changes: Sequence[str] = ()) -> JobSettings:
    """Reads a job file and applies `NAME=VALUE` changes to it.

    Raises:
        BadInput: with every problem of file and parameters.
    """
    raw = read_object(path)
    if is_traintrain(raw):
        raise BadInput(
            [
                Problem(
                    str(path),
                    "is a preset of TrainTrain, not a job",
                    "import it as a preset and save that as a job",
                )
            ]
        )
    return parse({**raw, **_changes(changes)})


def _changes(given: Sequence[str]) -> dict[str, object]:
    """`NAME=VALUE` texts as settings.

    Raises:
        BadInput: a text has no =.
    """
    problems = []
    changes: dict[str, object] = {}
    for change in given:
        name, equals, value = change.partition("=")
        if not equals:
            problems.append(Problem("--set", f"{change!r} has no =", "write NAME=VALUE"))
        changes[name.strip()] = value
    if problems:
        raise BadInput(problems)
    return changes


@contextlib.contextmanager
def _interruptible(control: Control) -> Iterator[None]:
    """Ctrl-C saves and ends; a second one ends without saving; a third one at once."""

    def interrupted(number: int, frame: FrameType | None) -> None:
        del number, frame
        if control.request is Request.CONTINUE:
            print("\nStopping after this step and saving. Again: stop without saving.", flush=True)
            control.stop_and_save()
        elif control.request is Request.STOP_AND_SAVE:
            control.stop()
        else:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupted)
    try:
        yield
    except KeyboardInterrupt:
        raise SystemExit(CANCELLED) from None
    finally:
        signal.signal(signal.SIGINT, before)


class Bars:
    """A sink that shows one bar for the phase that runs."""

    def __init__(self) -> None:
        self.bar: tqdm[None] | None = None

    def __call__(self, event: Event) -> None:
        if isinstance(event, PhaseStarted):
            self.close()
            if event.total:
                self.bar = tqdm(total=event.total, desc=event.title, dynamic_ncols=True)
            else:
                print(event.title, flush=True)
        elif isinstance(event, PhaseProgress) and self.bar is not None:
            self.bar.update(event.done - self.bar.n)
        elif isinstance(event, StepDone) and self.bar is not None:
            self.bar.set_postfix_str(f"loss {event.smoothed_loss:.4f}", refresh=False)
            self.bar.update(event.step - self.bar.n)
        elif isinstance(event, Saved):
            tqdm.write(f"Saved {event.path}")
        elif isinstance(event, Notice):
            tqdm.write(event.text)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None


@contextlib.contextmanager
def show_progress() -> Iterator[Bars]:
    bars = Bars()
    try:
        yield bars
    finally:
        bars.close()
