"""A program that works a queue off and is killed by itself at a given moment; see test_kill.py.

It imports everything once and then forks for every line on its standard input: a JSON object with
`folder`, and with `phase` and `call`, at which it dies.  The answer is the exit status of the fork
and the calls that were counted in each phase, of which there are none in a fork that died.
"""

from __future__ import annotations

import itertools
import json
import os
import secrets
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from trainer import result
from trainer.control import Control
from trainer.data.batches import LatentDataset
from trainer.events import Sink
from trainer.hosts.standalone import StandaloneHost
from trainer.jobs.job import Job, JobState
from trainer.jobs.store import JobStore
from trainer.jobs.worker import Worker
from trainer.methods import addift, ileco
from trainer.networks import kohya
from trainer.run import run_job
from trainer.settings.schema import parse
from trainer.training import encoding
from trainer.training.loop import Loop
from trainer.training.state import StateFolder

PHASES: dict[str, list[tuple[Any, str]]] = {
    "encoding": [
        *((LatentDataset, "__init__"), (encoding, "frozen_encoder")),
        *((ileco, "pool"), (addift, "_labelled")),
    ],
    "stepping": [(Loop, "run")],
    "saving": [(StateFolder, "write"), (kohya, "save"), (result, "write_object")],
    "database": [
        (JobStore, name)
        for name in ("__init__", "add", "recover", "requeue", "claim_next", "record", "finish")
    ],
}
"""What is done in each phase, by its owner and name."""


class Fate:
    """Counts what is called and returned from while a phase lasts, and kills at a given count."""

    def __init__(self, fatal_call: int) -> None:
        self.calls = itertools.count(1)
        self.last = 0
        self._fatal_call = fatal_call

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        self.last = next(self.calls)
        if self.last == self._fatal_call:
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(self, owner: Any, name: str) -> None:
        """Counts within this function from now on."""
        real: Callable[..., object] = getattr(owner, name)

        def watched(*args: object, **kwargs: object) -> object:
            before = sys.getprofile()
            sys.setprofile(self)
            try:
                return real(*args, **kwargs)
            finally:
                sys.setprofile(before)

        setattr(owner, name, watched)


def work(folder: Path) -> None:
    """Begins the queue, or goes on with it, until it is empty."""
    store = JobStore(folder / "jobs.sqlite")
    worker = Worker(store, lambda job, control, sink: _run(folder, job, control, sink))
    if not store.jobs():
        store.add(json.loads((folder / "job.json").read_text("utf-8")))
    for job in store.jobs({JobState.INTERRUPTED}):
        store.requeue(job.id, resume=True)
    worker.start()
    worker.wait()


def _run(folder: Path, job: Job, control: Control, sink: Sink) -> None:
    host = StandaloneHost(folder, folder / "out", "cpu")
    settings = parse(job.settings)
    run_job(settings, host, control=control, sink=sink, resume=job.resume, owner=job.key)


def main() -> None:
    torch.set_num_threads(1)
    time.time = lambda: 1.6e9  # files tell when and by which session they were made
    secrets.randbits = lambda k: 12345
    for line in sys.stdin:
        wanted = json.loads(line)
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            deadly = wanted.get("phase")
            fates = {phase: Fate(wanted["call"] * (phase == deadly)) for phase in PHASES}
            for phase, fate in fates.items():
                for owner, name in PHASES[phase] if deadly in (None, phase) else ():
                    fate.watch(owner, name)
            work(Path(wanted["folder"]))
            counted = {phase: fate.last for phase, fate in fates.items()}
            os.write(writer, json.dumps(counted).encode())
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as answer:
            calls = json.loads(answer.read() or "{}")
        _, status = os.waitpid(child, 0)
        sys.stdout.write(json.dumps({"status": status, "calls": calls}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
