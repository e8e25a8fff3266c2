"""The SQLite file of the queue: opened, and made where it is absent."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import BadInput, Problem, TrainyardError

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


class QueueError(TrainyardError, sqlite3.OperationalError):
    """The queue cannot be changed now; it is as it was."""

    def __init__(self, path: Path, error: sqlite3.Error) -> None:
        super().__init__(
            f"{path}: the queue cannot be changed now: {error}"
            " - make room on the disk, or check the file's permissions"
        )


class QueueFile:
    """One table, `jobs`; safe to share between threads, and its file between processes."""

    def __init__(self, path: Path) -> None:
        """Opens the file, made with its folder where absent.

        Raises:
            BadInput: the file cannot be opened, is not a queue, or is one of a newer version.
            QueueError: it cannot be written.
        """
        self.path = path
        self._guard = threading.RLock()
        self._open()

    def close(self) -> None:
        with self._guard:
            self._connection.close()

    def execute(self, command: str, values: Sequence[object] = ()) -> list[sqlite3.Row]:
        """Does one command; returns the rows that it finds."""
        with self._guard:
            return self._connection.execute(command, values).fetchall()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing, and alone among all processes; may be nested."""
        with self._guard:
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
        except (OSError, sqlite3.Error) as error:
            cure = "check that its folder can be written"
            raise BadInput([Problem(str(self.path), f"cannot be opened: {error}", cure)]) from error
        self._connection.row_factory = sqlite3.Row
        try:
            self._prepare()
        except (sqlite3.DatabaseError, BadInput) as error:
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
