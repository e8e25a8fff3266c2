"""Everything that a page needs in one place: host, queue, worker, presets, and what runs."""

from __future__ import annotations

import logging
import uuid
from pathlib import Path

from ..control import Control
from ..events import Sink
from ..hosts.protocol import Host
from ..jobs.job import Job
from ..jobs.store import JobStore
from ..jobs.worker import Worker
from ..settings.presets import PresetStore
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

    def _run(self, job: Job, control: Control, sink: Sink) -> None:
        do(job, self.host, control, sink, self._adjust)
