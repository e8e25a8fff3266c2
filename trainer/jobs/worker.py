"""One background thread that works the queue off, job after job."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from ..control import Control, Request
from ..errors import TrainyardError
from ..events import Event, Notice, PhaseProgress, PhaseStarted, Saved, Sink, StepDone
from ..lock import FileLock
from .job import Job, JobState, Progress
from .store import JobStore

log = logging.getLogger(__name__)

Run = Callable[[Job, Control, Sink], None]
"""Does a job from beginning to end; returns early when `control` says so; raises when it fails."""
Listener = Callable[[Job, Event], None]
"""Hears every event of every job, in the worker's thread."""

_RECORD_EVERY_S = 1.0
"""Progress is kept in memory and written down no more often than this."""
_MAX_NOTES = 200
_MAX_ERROR = 500
"""Characters of an unforeseen error; all of it is in the log."""


@dataclass(frozen=True)
class WorkerStatus:
    """What a page that polls wants to know; made without touching the disk."""

    running: bool
    """The worker is on a job or about to take one."""
    stopping: bool
    """The worker ends after the job in hand, which was asked to end."""
    job: Job | None
    """The job in hand with its newest progress."""
    step: StepDone | None
    """The newest step of the job in hand."""
    hint: str = ""
    """What the user should know of it just now."""


class Worker:
    """Runs the store's jobs one at a time; every method may be called from any thread.

    Requests reach the job at its next step boundary, through its `Control`.  A request names the
    job that the user saw; when another one is in hand by now, nothing happens.
    """

    def __init__(self, store: JobStore, run: Run, listener: Listener | None = None) -> None:
        """Marks jobs that a dead process left running as interrupted; starts nothing.

        Args:
            store: the queue; its lock is a file beside it.
            run: what does a job.
            listener: hears every event; what it raises is logged and does not hurt the job.
        """
        self._store = store
        self._run = run
        self._listener = listener
        self._file_lock = FileLock(store.path.with_name(store.path.name + ".lock"))
        self._guard = threading.RLock()
        self._thread: threading.Thread | None = None
        self._halt = False
        self._current: _Current | None = None
        self._recover()

    # ---------------------------------------------------------------- requests

    def start(self) -> bool:
        """Begins to work the queue off, until it is empty or `stop`.

        After a stop whose job has not ended yet, the worker goes on behind that job.

        Returns:
            False when the worker was at work already, so that nothing changed.

        Raises:
            BadInput: another process works on this queue.
        """
        with self._guard:
            if self._thread is not None:
                went_on, self._halt = self._halt, False
                return went_on
            self._file_lock.acquire()
            self._halt = False
            try:
                self._store.recover()
                thread = threading.Thread(target=self._work, name="trainyard-jobs", daemon=True)
                thread.start()
            except BaseException:
                self._file_lock.release()
                raise
            self._thread = thread
            return True

    def stop(self, *, save: bool = False) -> bool:
        """Ends the job in hand at its next step and leaves the queue waiting; may be repeated.

        Args:
            save: keep what the job has learned; a second call without `save` ends it at once.

        Returns:
            False when the worker was not at work.
        """
        with self._guard:
            if self._thread is None:
                return False
            self._halt = True
            if self._current is not None:
                self._current.end(save)
            return True

    def skip(self, job_id: int, *, save: bool = False) -> bool:
        """Ends job `job_id` at its next step and goes on with the queue.

        Returns:
            False when that job is not in hand.
        """
        with self._guard:
            if not self._has(job_id) or self._current is None:
                return False
            self._current.end(save)
            return True

    def pause(self, job_id: int) -> bool:
        """Holds job `job_id` at its next step; False when it is not in hand or about to end."""
        return self._pause(job_id, True)

    def resume(self, job_id: int) -> bool:
        """Lets a paused job go on; False when it is not in hand or not paused."""
        return self._pause(job_id, False)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Waits for the worker to come to rest; False when it had not by then."""
        thread = self._thread
        if thread is not None:
            thread.join(timeout_s)
            return not thread.is_alive()
        return True

    @property
    def status(self) -> WorkerStatus:
        with self._guard:
            current = self._current
            return WorkerStatus(
                running=self._thread is not None,
                stopping=self._thread is not None and self._halt,
                job=None if current is None else current.snapshot(),
                step=None if current is None else current.step,
                hint="" if current is None else current.control.hint,
            )

    # ---------------------------------------------------------------- the thread

    def _work(self) -> None:
        try:
            while (current := self._take()) is not None:
                self._do(current)
        except (sqlite3.Error, TrainyardError) as error:
            log.error(
                "the queue is worked on no longer, until it is started again: %s",
                error,
                exc_info=not isinstance(error, TrainyardError),
            )
        finally:
            with self._guard:
                self._rest()

    def _take(self) -> _Current | None:
        """The next job, or None: then the worker is at rest before anybody can call `start`."""
        with self._guard:
            job = None if self._halt else self._store.claim_next()
            if job is None:
                self._rest()
                return None
            self._current = _Current(job, self._store, self._listener)
            return self._current

    def _rest(self) -> None:
        """Leaves the queue to others, unless a new thread has taken this one's place."""
        if self._thread is threading.current_thread():
            self._thread = None
            self._current = None
            self._file_lock.release()

    def _do(self, current: _Current) -> None:
        job = current.job
        log.info("job %d %r (%s) begins", job.id, job.name, job.method)
        state, error = JobState.FAILED, ""
        try:
            self._run(job, current.control, current.hear)
            state = JobState.CANCELLED if current.cut_short else JobState.DONE
        except TrainyardError as failure:
            error = str(failure)
            log.error("job %d %r failed: %s", job.id, job.name, error)
        except (Exception, SystemExit) as failure:
            text = str(failure).partition("\n")[0][:_MAX_ERROR]
            error = f"{type(failure).__name__}: {text}"
            log.exception("job %d %r failed", job.id, job.name)
        with self._guard:
            self._current = None
            current.write()
            self._store.finish(job.id, state, error, current.step_s)
        log.info("job %d %r: %s", job.id, job.name, state.value)

    # ---------------------------------------------------------------- inside

    def _has(self, job_id: int) -> bool:
        return self._current is not None and self._current.job.id == job_id

    def _pause(self, job_id: int, paused: bool) -> bool:
        with self._guard:
            current = self._current
            if current is None or not self._has(job_id) or current.control.paused == paused:
                return False
            if paused:
                current.control.pause()
            else:
                current.control.resume()
            if current.control.paused == paused:
                state = JobState.PAUSED if paused else JobState.RUNNING
                current.job = replace(current.job, state=state)
                try:
                    self._store.set_paused(job_id, paused)
                except (sqlite3.Error, TrainyardError) as error:  # it is so all the same
                    what = "that job %d is %s is not written down: %s"
                    log.warning(what, job_id, state.value, error)
            return current.control.paused == paused

    def _recover(self) -> None:
        """Marks lost jobs, unless a living process works on the queue: then they are not lost."""
        try:
            self._file_lock.acquire()
        except TrainyardError as busy:
            log.warning("%s", busy)
            return
        try:
            for job in self._store.recover():
                log.warning("job %d %r was interrupted", job.id, job.name)
        except TrainyardError as error:  # `start` tries again
            log.warning("%s", error)
        finally:
            self._file_lock.release()


class _Current:
    """The job in hand: its control, and what it has told so far."""

    def __init__(self, job: Job, store: JobStore, listener: Listener | None) -> None:
        self.job = job
        self.control = Control()
        self.step: StepDone | None = None
        self._store = store
        self._listener = listener
        self._passes_s = 0.0  # what the steps of the passes before this one took
        self._passes_steps = 0
        self._progress = Progress()
        self._files: list[Path] = list(job.files)
        self._notes: list[str] = list(job.notes)
        self._complete = False
        self._unwritten = False
        self._written_s = time.monotonic()

    @property
    def step_s(self) -> float | None:
        """What a step took on average, without pauses; None where there were none."""
        if self.step is None:
            return None
        return (self._passes_s + self.step.elapsed_s) / (self._passes_steps + self.step.step)

    @property
    def cut_short(self) -> bool:
        """The job was asked to end and no final file came out of it."""
        return self.control.request is not Request.CONTINUE and not self._complete

    def end(self, save: bool) -> None:
        if save:
            self.control.stop_and_save()
        else:
            self.control.stop()

    def snapshot(self) -> Job:
        return replace(
            self.job,
            progress=self._progress,
            files=tuple(self._files),
            notes=tuple(self._notes),
        )

    def hear(self, event: Event) -> None:
        """The sink that the job gets."""
        self._keep(event)
        due = time.monotonic() - self._written_s >= _RECORD_EVERY_S
        if due or isinstance(event, (PhaseStarted, Saved)):
            self.write()
        if self._listener is not None:
            try:
                self._listener(self.snapshot(), event)
            except Exception:
                log.exception("a listener failed at %s", type(event).__name__)

    def write(self) -> None:
        """Writes down what is known; a disk or queue that fails does not end a training."""
        self._written_s = time.monotonic()
        try:
            self._store.record(self.job.id, self._progress, self._files, self._notes)
        except (sqlite3.Error, TrainyardError) as error:
            if not self._unwritten:
                what = "the progress of job %d is not written down for now: %s"
                log.warning(what, self.job.id, error)
            self._unwritten = True
        else:
            self._unwritten = False

    def _keep(self, event: Event) -> None:
        if isinstance(event, PhaseStarted):
            self._progress = Progress(phase=event.title, total=event.total)
        elif isinstance(event, PhaseProgress):
            self._progress = replace(self._progress, done=event.done)
        elif isinstance(event, StepDone):
            if self.step is not None and event.step <= self.step.step:
                self._passes_s += self.step.elapsed_s
                self._passes_steps += self.step.step
            self.step = event
            self._progress = Progress(
                self._progress.phase,
                event.step,
                event.total_steps,
                event.smoothed_loss,
                event.left_s,
            )
        elif isinstance(event, Saved):
            self._files = [*(file for file in self._files if file != event.path), event.path]
            self._complete = self._complete or event.final
        elif isinstance(event, Notice):
            self._notes = [*self._notes, event.text][-_MAX_NOTES:]
