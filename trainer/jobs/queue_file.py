"""The SQLite file of the queue: opened, made where it is absent, and again where it has gone."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import BadInput, Problem, TrainyardError

log = logging.getLogger(__name__)

_VERSION = 1
_SCHEMA = """
CREATE TABLE jobs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    position INTEGER NOT NULL,
    name TEXT NOT NULL,
    method TEXT NOT NULL,
    settings TEXT NOT NULL,
    state TEXT NOT NULL,
    resume INTEGER NOT NULL DEFAULT 0,
    phase TEXT NOT NULL DEFAULT '',
    done INTEGER NOT NULL DEFAULT 0,
    total INTEGER NOT NULL DEFAULT 0,
    loss REAL,
    left_s REAL,
    created_s REAL NOT NULL,
    started_s REAL,
    finished_s REAL,
    files TEXT NOT NULL DEFAULT '[]',
    notes TEXT NOT NULL DEFAULT '[]',
    error TEXT NOT NULL DEFAULT ''
)
"""
_ADDED = {"step_s": "REAL"}
"""Columns that files of older versions lack; those versions do without them."""


class QueueError(TrainyardError, sqlite3.OperationalError):
    """The queue cannot be changed now; it is as it was."""

    def __init__(self, path: Path, error: sqlite3.Error) -> None:
        super().__init__(
            f"{path}: the queue cannot be changed now: {error}"
            " - make room on the disk, or check the file's permissions"
        )


class QueueFile:
    """One table, `jobs`; safe to share between threads, and its file between processes.

    A file that is removed while it is open is made anew with the jobs that it had.  Where that
    fails, or another queue lies in its place, every method raises `BadInput` until it is mended.
    """

    def __init__(self, path: Path) -> None:
        """Opens the file, made with its folder where absent.

        Raises:
            BadInput: the file cannot be opened, is not a queue, or is one of a newer version.
            QueueError: it cannot be written.
        """
        self.path = path
        self._guard = threading.RLock()
        self._opened: tuple[int, int] | None = None
        """The identity of the file that is open; None: none is."""
        self._kept: list[sqlite3.Row] = []
        """Jobs of a file that has gone, until they are in the one in its place."""
        self._open()

    def close(self) -> None:
        with self._guard:
            self._connection.close()

    def execute(self, command: str, values: Sequence[object] = ()) -> list[sqlite3.Row]:
        """Does one command; returns the rows that it finds."""
        with self._guard:
            self._look_after()
            return self._connection.execute(command, values).fetchall()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing, and alone among all processes; may be nested."""
        with self._guard:
            self._look_after()
            if self._connection.in_transaction:
                yield
                return
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                yield
                self._connection.commit()
            except sqlite3.OperationalError as error:
                self._undo()
                raise QueueError(self.path, error) from error
            except BaseException:
                self._undo()
                raise

    def _undo(self) -> None:
        with suppress(sqlite3.Error):  # SQLite undoes it by itself where the disk is full
            self._connection.rollback()

    def _open(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(
                self.path, timeout=10.0, isolation_level=None, check_same_thread=False
            )
            self._opened = _identity(self.path)
        except (OSError, sqlite3.Error) as error:
            cure = "check that its folder can be written"
            raise BadInput([Problem(str(self.path), f"cannot be opened: {error}", cure)]) from error
        self._connection.row_factory = sqlite3.Row
        try:
            self._prepare()
        except (sqlite3.DatabaseError, BadInput) as error:
            self._opened = None
            self._connection.close()
            if isinstance(error, TrainyardError):
                raise
            cure = "rename the file; an empty queue is made in its place"
            what = f"no readable queue: {error}"
            raise BadInput([Problem(str(self.path), what, cure)]) from error

    def _prepare(self) -> None:
        self._connection.execute("PRAGMA journal_mode = WAL")
        with self.transaction():
            ((version,),) = self.execute("PRAGMA user_version")
            if version == 0:
                self.execute(_SCHEMA)
                self.execute(f"PRAGMA user_version = {_VERSION}")
            elif version != _VERSION:
                what = f"a queue of version {version}; this program knows version {_VERSION}"
                cure = "update Trainyard, or rename the file to begin with an empty queue"
                raise BadInput([Problem(str(self.path), what, cure)])
            there = {row["name"] for row in self.execute("PRAGMA table_info(jobs)")}
            for name in _ADDED.keys() - there:
                self.execute(f"ALTER TABLE jobs ADD COLUMN {name} {_ADDED[name]}")
            self._put_back()
        self._kept = []

    def _look_after(self) -> None:
        """Opens the file again where it was removed or replaced, which SQLite does not notice.

        What is written then goes to a file without a name, and is lost when the program ends.
        """
        if self._opened is not None:
            with suppress(OSError):
                if self._connection.in_transaction or self._opened == _identity(self.path):
                    return
            self._kept = self._connection.execute("SELECT * FROM jobs").fetchall()
            self._opened = None
            self._connection.close()  # first: side files of both have the same names
        self._open()

    def _put_back(self) -> None:
        """Adds the jobs of the file that has gone to the one in its place, which may have them."""
        there = dict(map(tuple, self.execute("SELECT id, created_s FROM jobs")))
        if any(there.get(row["id"], row["created_s"]) != row["created_s"] for row in self._kept):
            what = "another queue was put in its place while the program ran"
            cure = "put the former file back, or start the program anew to work with this one"
            raise BadInput([Problem(str(self.path), what, cure)])
        missing = [row for row in self._kept if row["id"] not in there]
        for row in missing:
            columns, marks = ", ".join(row.keys()), ", ".join("?" for _ in row)
            self.execute(f"INSERT INTO jobs ({columns}) VALUES ({marks})", tuple(row))
        if missing:
            what = "%s was removed while the program ran; its jobs were put back: %s"
            log.warning(what, self.path, ", ".join(row["name"] for row in missing))


def _identity(path: Path) -> tuple[int, int]:
    """What tells this file from any other; raises `OSError` where none can be seen."""
    facts = path.stat()
    return facts.st_dev, facts.st_ino
