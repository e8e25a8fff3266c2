"""Job files and the changes to them, and Ctrl-C."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from ..control import Control, Request
from ..errors import BadInput, Problem
from ..settings.files import read_object
from ..settings.schema import JobSettings, parse
from ..settings.traintrain import is_traintrain
from .status import CANCELLED


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
    return parse({**raw, **changed(changes)})


def changed(given: Sequence[str]) -> dict[str, object]:
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
def interruptible(control: Control, *, alone: bool = False) -> Iterator[None]:
    """Ctrl-C saves and ends; a second one ends without saving; a third one at once.

    Args:
        alone: SIGTERM, with which a system takes its machine back, saves the state and ends.  It
            stays as it is for several processes: torchrun ends with it what is left of a broken
            team, which could not make another step.
    """

    def interrupted(number: int, frame: FrameType | None) -> None:
        del number, frame
        if control.request is Request.CONTINUE:
            print("\nStopping after this step and saving. Again: stop without saving.", flush=True)
            control.stop_and_save()
        elif control.request is Request.STOP_AND_SAVE:
            control.stop()
        else:
            raise KeyboardInterrupt

    def ended(number: int, frame: FrameType | None) -> None:
        del number, frame
        print("\nTold to end: stopping after this step and saving its state.", flush=True)
        control.interrupt()

    before = {signal.SIGINT: signal.signal(signal.SIGINT, interrupted)}
    if alone:
        before[signal.SIGTERM] = signal.signal(signal.SIGTERM, ended)
    try:
        yield
    except KeyboardInterrupt:
        raise SystemExit(CANCELLED) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
