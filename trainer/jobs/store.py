"""The queue and its history in one SQLite file: whatever happens to the process, it is intact."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Collection, Mapping
from pathlib import Path

from ..errors import BadInput, Problem
from ..paths import as_unicode
from .job import FINISHED, LIVE, PENDING, Job, JobState, Progress, free_name
from .queue_file import QueueFile

_INTERRUPTED = "the program ended while this job ran"


class JobStore:
    """Jobs by id, in the order in which they run; safe to share between threads and processes.

    Every method that takes an id raises `BadInput` when there is no such job, or when the job's
    state does not allow what is asked; nothing is changed then.  What cannot be written, as on a
    full disk, is a `QueueError`.  See `QueueFile` for what happens when the file is removed.
    """

    def __init__(self, path: Path) -> None:
        """Opens the file, made with its folder where absent.

        Raises:
            BadInput: the file cannot be opened, is not a queue, or is one of a newer version.
            QueueError: it cannot be written.
        """
        self.path = path
        self._file = QueueFile(path)

    def close(self) -> None:
        self._file.close()

    # ---------------------------------------------------------------- reading

    def jobs(self, states: Collection[JobState] = tuple(JobState)) -> list[Job]:
        """All jobs in one of `states`: those that ran first, then the queue in its order."""
        wanted = {state.value for state in states}
        rows = self._file.execute("SELECT * FROM jobs ORDER BY position")
        return [_job(row) for row in rows if row["state"] in wanted]

    def get(self, job_id: int) -> Job:
        rows = self._file.execute("SELECT * FROM jobs WHERE id = ?", (job_id,))
        if not rows:
            raise BadInput([_problem(job_id, "there is no such job", "reload the list")])
        return _job(rows[0])

    # ---------------------------------------------------------------- the user's changes

    def add(self, settings: Mapping[str, object]) -> Job:
        """Queues a job behind the others; its name and method are those of the settings.

        Raises:
            BadInput: a pending job writes the same output and `overwrite` is not set; the cure
                proposes a free name.
        """
        with self._file.transaction():
            name, method = self._accept(settings)
            self._file.execute(
                "INSERT INTO jobs (position, name, method, settings, state, created_s)"
                " VALUES ((SELECT COALESCE(MAX(position), 0) + 1 FROM jobs), ?, ?, ?, ?, ?)",
                (name, method, _dump(settings), JobState.QUEUED.value, time.time()),
            )
            ((job_id,),) = self._file.execute("SELECT last_insert_rowid()")
            return self.get(job_id)

    def edit(self, job_id: int, settings: Mapping[str, object]) -> Job:
        """Replaces the settings of a job that waits for its first run."""
        with self._file.transaction():
            job = self._get_in(job_id, {JobState.QUEUED}, "duplicate it and edit the copy")
            if job.resume:
                what = "it goes on from a saved state, which needs the settings as they were"
                raise BadInput([_problem(job_id, what, "duplicate it and edit the copy")])
            name, method = self._accept(settings, but=job_id)
            self._set(job_id, name=name, method=method, settings=_dump(settings))
            return self.get(job_id)

    def duplicate(self, job_id: int, taken: Collection[str] = ()) -> Job:
        """Queues a copy of any job, under a name that is free here and not in `taken`."""
        with self._file.transaction():
            job = self.get(job_id)
            pending = [other.name for other in self.jobs(PENDING)]
            return self.add({**job.settings, "name": free_name(job.name, [*pending, *taken])})

    def move(self, job_id: int, place: int) -> None:
        """Makes a waiting job the one at `place` (0 = next to run); beyond the end means last."""
        with self._file.transaction():
            self._get_in(job_id, {JobState.QUEUED}, "only waiting jobs have a place in the queue")
            rows = self._file.execute(
                "SELECT id, position FROM jobs WHERE state = ? ORDER BY position",
                (JobState.QUEUED.value,),
            )
            order = [row["id"] for row in rows if row["id"] != job_id]
            order.insert(min(max(0, place), len(order)), job_id)
            for row, moved in zip(rows, order, strict=True):
                self._set(moved, position=row["position"])

    def remove(self, job_id: int) -> None:
        """Forgets a job; the files that it wrote stay."""
        with self._file.transaction():
            self._get_in(job_id, set(JobState) - LIVE, "stop it first")
            self._file.execute("DELETE FROM jobs WHERE id = ?", (job_id,))

    def clear(
        self, states: Collection[JobState] = FINISHED, *, only: Collection[int] | None = None
    ) -> int:
        """Forgets all jobs in `states` that no worker has in hand; returns how many.

        Args:
            only: ids of those that may go, as others may have come to such a state meanwhile;
                None: all.
        """
        with self._file.transaction():
            found = [job.id for job in self.jobs(set(states) - LIVE)]
            gone = [job_id for job_id in found if only is None or job_id in only]
            for job_id in gone:
                self._file.execute("DELETE FROM jobs WHERE id = ?", (job_id,))
            return len(gone)

    def requeue(self, job_id: int, *, resume: bool) -> Job:
        """Queues an interrupted, failed or cancelled job again.

        Args:
            job_id: the job, which keeps its id and settings.
            resume: go on from the last state that the job saved, before all that wait, instead of
                from the beginning and behind them; also for a job that is done, because its
                result was saved before its last step.
        """
        again = {JobState.INTERRUPTED, JobState.FAILED, JobState.CANCELLED}
        again |= {JobState.DONE} if resume else set()
        with self._file.transaction():
            job = self._get_in(job_id, again, "duplicate it to run it once more")
            self._accept(job.settings, but=job_id)
            ((last,),) = self._file.execute("SELECT MAX(position) FROM jobs")
            self._set(job_id, position=last + 1, state=JobState.QUEUED.value, resume=int(resume))
            self._set(job_id, phase="", done=0, total=0, loss=None, left_s=None)
            self._set(job_id, started_s=None, finished_s=None, step_s=None, error="")
            if resume:
                self.move(job_id, 0)
            return self.get(job_id)

    # ---------------------------------------------------------------- the worker's changes

    def claim_next(self) -> Job | None:
        """Marks the first waiting job as running and returns it; None when none waits."""
        with self._file.transaction():
            waiting = self.jobs({JobState.QUEUED})
            if not waiting:
                return None
            self._set(waiting[0].id, state=JobState.RUNNING.value, started_s=time.time())
            return self.get(waiting[0].id)

    def set_paused(self, job_id: int, paused: bool) -> None:
        with self._file.transaction():
            self._get_in(job_id, LIVE, "start it first")
            self._set(job_id, state=(JobState.PAUSED if paused else JobState.RUNNING).value)

    def record(
        self,
        job_id: int,
        progress: Progress,
        files: Collection[Path] = (),
        notes: Collection[str] = (),
    ) -> None:
        """Replaces a live job's progress, and its lists of files and notes, by these."""
        with self._file.transaction():
            self._get_in(job_id, LIVE, "start it first")
            self._set(job_id, phase=progress.phase, done=progress.done, total=progress.total)
            self._set(job_id, loss=progress.loss, left_s=progress.left_s)
            self._set(job_id, files=_dump([str(file) for file in files]), notes=_dump(list(notes)))

    def finish(
        self, job_id: int, state: JobState, error: str = "", step_s: float | None = None
    ) -> None:
        """Ends a live job as `state`."""
        with self._file.transaction():
            self._get_in(job_id, LIVE, "start it first")
            self._set(job_id, state=state.value, finished_s=time.time(), step_s=step_s)
            self._set(job_id, error=as_unicode(error), left_s=None)

    def recover(self) -> list[Job]:
        """Marks every live job as interrupted; returns them.

        Only for the holder of the queue's lock: nobody else can be running them then.
        """
        with self._file.transaction():
            lost = self.jobs(LIVE)
            for job in lost:
                self._set(job.id, state=JobState.INTERRUPTED.value, finished_s=time.time())
                self._set(job.id, error=_INTERRUPTED, left_s=None)
            return [self.get(job.id) for job in lost]

    # ---------------------------------------------------------------- inside

    def _accept(self, settings: Mapping[str, object], but: int | None = None) -> tuple[str, str]:
        """The name and method of `settings`, whose output no other pending job writes."""
        absent = [key for key in ("name", "method") if not settings.get(key)]
        if absent:
            raise BadInput([Problem(key, "missing", "a job needs it") for key in absent])
        name, method = str(settings["name"]), str(settings["method"])
        others = [job.name for job in self.jobs(PENDING) if job.id != but]
        proposal = free_name(name, others)
        if proposal != name and not settings.get("overwrite"):
            what = f"another job in the queue already writes {name!r}"
            raise BadInput([Problem("name", what, f"use {proposal!r}, or set overwrite", proposal)])
        return name, method

    def _get_in(self, job_id: int, states: Collection[JobState], cure: str) -> Job:
        job = self.get(job_id)
        if job.state not in states:
            raise BadInput([_problem(job_id, f"{job.name!r} is {job.state.value}", cure)])
        return job

    def _set(self, job_id: int, **values: object) -> None:
        columns = ", ".join(f"{column} = ?" for column in values)
        self._file.execute(f"UPDATE jobs SET {columns} WHERE id = ?", (*values.values(), job_id))


def _job(row: sqlite3.Row) -> Job:
    return Job(
        id=row["id"],
        name=row["name"],
        method=row["method"],
        settings=json.loads(row["settings"]),
        state=JobState(row["state"]),
        resume=bool(row["resume"]),
        progress=Progress(row["phase"], row["done"], row["total"], row["loss"], row["left_s"]),
        created_s=row["created_s"],
        started_s=row["started_s"],
        finished_s=row["finished_s"],
        step_s=row["step_s"],
        files=tuple(Path(file) for file in json.loads(row["files"])),
        notes=tuple(json.loads(row["notes"])),
        error=row["error"],
    )


def _dump(value: object) -> str:
    """As JSON in ASCII: a file's name need not be Unicode, but what SQLite keeps must be."""
    return json.dumps(dict(value) if isinstance(value, Mapping) else value)


def _problem(job_id: int, what: str, cure: str) -> Problem:
    return Problem(f"job {job_id}", what, cure)
