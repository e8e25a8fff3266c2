"""The command line: `python -m trainer train|check|grid|ui|bench|schema`."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import os
import sys
import tempfile
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path

from ..atomic import write_bytes
from ..errors import BadInput, TrainyardError
from ..settings.schema import listing
from . import bench, runs
from .status import BAD_INPUT, CANCELLED, DONE, FAILED

log = logging.getLogger(__name__)

ERROR_FILE = "trainyard-error.txt"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status: see status.py."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a file's name need not be printable here
            stream.reconfigure(errors="backslashreplace")
    given = sys.argv[1:] if arguments is None else list(arguments)
    options = _parser().parse_args(given)
    options.given = given
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    # torch's advice to whoever wrote a checkpoint; the file is then read, or refused in our words
    warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)
    try:
        status: int = options.command(options)
    except KeyboardInterrupt:
        return CANCELLED
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

    def add(
        name: str, function: object, text: str, *parents: argparse.ArgumentParser
    ) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text, parents=parents)
        command.set_defaults(command=function)
        return command

    machine, changes = _of_the_machine(), _of_a_job()
    train = add("train", runs.train, "Train what a job file describes.", machine, changes)
    train.add_argument("job", metavar="JOB.json", type=Path)
    train.add_argument(
        "--resume", action="store_true", help="go on from the state that was saved last"
    )
    text = "Report every problem of a job, or what it will do."
    check = add("check", runs.check, text, machine, changes)
    check.add_argument("job", metavar="JOB.json", type=Path)
    check.add_argument(
        "--quick", action="store_true", help="do not measure memory and time of a step"
    )
    text = "Draw LoRA files at several strengths on the same prompts and seeds, as one picture."
    grid = add("grid", runs.grid, text, machine, changes)
    grid.add_argument("job", metavar="GRID.json", type=Path, nargs="?")
    page = add("ui", _ui, "Open the page, without a webui.", machine)
    page.add_argument("--port", type=_port, default=7861)
    bench.add_options(
        add("bench", bench.bench, "Measure steps against the bare UNet, or --quality.")
    )
    add("schema", _schema, "Print every parameter as JSON.")
    return parser


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**16:
        raise argparse.ArgumentTypeError(f"{text!r} is no port, use 1024 to 65535")
    return int(text)


def _of_the_machine() -> argparse.ArgumentParser:
    """Where a model is borrowed, and where results go."""
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("--models", type=Path, default=Path("models"), help="checkpoints")
    options.add_argument("--out", type=Path, default=Path("outputs"), help="results")
    options.add_argument("--device", help="cpu, cuda, cuda:1, ...; the GPU if there is one")
    return options


def _of_a_job() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument(
        "--set",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="change a parameter; may be given several times",
    )
    return options


def _ui(options: argparse.Namespace) -> int:
    from ..hosts.standalone import StandaloneHost
    from ..ui.standalone import serve

    host = StandaloneHost(options.models, options.out, options.device)
    serve(host, host.output_dir / "trainyard", options.port)
    return DONE


def _schema(options: argparse.Namespace) -> int:
    del options
    print(json.dumps(listing(), indent=2, ensure_ascii=False))
    return DONE
