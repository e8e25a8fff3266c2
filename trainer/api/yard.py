"""Everything that a page needs in one place: host, queue, worker, presets, and what runs."""

from __future__ import annotations

import logging
import uuid
from pathlib import Path

from ..control import Control
from ..events import Sink
from ..hosts.protocol import Host
from ..jobs.job import LIVE, Job, JobState
from ..jobs.store import JobStore
from ..jobs.worker import Worker
from ..settings.grid import GRID
from ..settings.presets import PresetStore
from ..training.unfinished import belongs, clear, owner_of, state_folder, stopped_at
from .grids import grids
from .live import Live, LogLines
from .thumbnails import Thumbnails
from .work import Adjust, do

PACKAGE = __name__.rpartition(".api.")[0]
"""The package's name here: a webui may load it under another one."""


class Yard:
    """One queue with its worker, for as long as the process lives."""

    def __init__(
        self,
        host: Host,
        data_dir: Path,
        *,
        opens_folders: bool = True,
        adjust: Adjust = lambda settings: settings,
    ) -> None:
        """Opens the queue; starts nothing.

        Args:
            host: the surroundings of the jobs.
            data_dir: where the queue and the user's own presets lie.
            opens_folders: whether the page may open folders for a user at this machine.
            adjust: brings a training in line with what is set for all of them.

        Raises:
            BadInput: the queue cannot be opened.
        """
        self.host = host
        self.data_dir = data_dir
        self.opens_folders = opens_folders
        self._adjust = adjust
        self.presets = PresetStore(data_dir / "presets")
        self.live = Live()
        self.thumbnails = Thumbnails()
        self.server_id = uuid.uuid4().hex
        """Another one after every start of the program, so that a page notices."""
        self.store = JobStore(data_dir / "jobs.sqlite")
        self.worker = Worker(self.store, self._run, self.live)
        logging.getLogger(PACKAGE).addHandler(LogLines(self.live))

    def choices(self) -> dict[str, list[str]]:
        """What there is to choose from, by what a parameter picks."""
        host = self.host
        return {"checkpoint": host.checkpoints(), "vae": host.vaes(), "lora": host.loras()}

    def saved_step(self, job: Job) -> int | None:
        """The step that a job can go on from; None where it has no state of its own."""
        if job.method == GRID or job.state in LIVE:
            return None
        folder = state_folder(self.host.log_dir, job.name)
        step = stopped_at(folder)  # asked first: most jobs have no such folder
        if step is None:
            return None
        noted, begins = owner_of(folder), job.state is JobState.QUEUED and not job.resume
        is_its_own = noted == job.key if begins else belongs(noted, job.key)
        return step if is_its_own else None

    def forget_state(self, job: Job) -> None:
        """Removes what a job could go on from; the state of another one of its name stays."""
        if self.saved_step(job) is not None:
            clear(state_folder(self.host.log_dir, job.name))

    def taken_names(self) -> set[str]:
        """Names that a new job cannot have: of results, and of trainings that can go on."""
        results = {file.stem for file in self.host.output_dir.glob("*.safetensors")}
        states = state_folder(self.host.log_dir, "")
        results |= {picture.stem for picture in grids(self.host.log_dir)}
        return results | {folder.name for folder in states.glob("*") if folder.is_dir()}

    def _run(self, job: Job, control: Control, sink: Sink) -> None:
        do(job, self.host, control, sink, self._adjust)
