from __future__ import annotations

import errno
import os
import platform
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from trainer import lock as lock_module
from trainer.errors import BadInput
from trainer.lock import FileLock, sweep_locks

ROOT = Path(__file__).parents[1]
HOLDER = """
import sys
import threading
import time
from pathlib import Path
from trainer.lock import FileLock
lock = FileLock(Path(sys.argv[1]))
lock.acquire()
print("held", flush=True)
sys.stdin.read()
"""


def test_only_one_holder_at_a_time_also_within_a_process(tmp_path: Path) -> None:
    first, second = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    first.acquire()
    first.acquire()
    with pytest.raises(BadInput, match="already working on this queue"):
        second.acquire()
    assert (first.held, second.held) == (True, False)
    first.release()
    first.release()
    second.acquire()
    assert (first.held, second.held) == (False, True)


def test_a_dead_process_holds_nothing_and_a_living_one_is_named(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(BadInput, match=f"process {process.pid} is already working"):
            FileLock(path).acquire()
        process.kill()
        process.wait()
    FileLock(path).acquire()


def test_the_file_goes_with_the_lock_unless_it_is_another_one_by_now(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with FileLock(path):
        assert path.is_file()
    assert not path.exists()
    first, second = FileLock(path), FileLock(path)
    first.acquire()
    path.unlink()  # somebody tidies up
    second.acquire()
    first.release()
    with pytest.raises(BadInput):
        FileLock(path).acquire()


def test_a_file_that_is_removed_between_opening_and_locking_is_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lock"
    holder, calls = FileLock(path), []

    def lock(file: object) -> None:
        calls.append(file)
        if len(calls) == 1:
            holder.release()

    holder.acquire()
    with monkeypatch.context() as patched:
        patched.setattr("trainer.lock._lock", lock)
        FileLock(path).acquire()
    assert len(calls) == 2
    assert path.is_file()


def test_a_file_that_another_one_has_replaced_before_it_was_locked_is_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lock"
    first, second, real = FileLock(path), FileLock(path), lock_module._lock

    def lock(file: object) -> None:
        if first.held:
            first.release()
            second.acquire()  # makes the file anew
        real(file)

    first.acquire()
    with monkeypatch.context() as patched:
        patched.setattr(lock_module, "_lock", lock)
        with pytest.raises(BadInput, match="already working"):
            FileLock(path).acquire()
    assert second.held


def left_behind(path: Path) -> Path:
    """The file of a lock whose holder was killed."""
    holder = FileLock(path)
    holder.acquire()
    assert holder._file is not None
    holder._file.close()  # as the system does
    return path


def test_what_dead_processes_left_is_swept_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = left_behind(tmp_path / ".dead.lock")
    living = FileLock(tmp_path / ".living.lock")
    living.acquire()
    (tmp_path / ".theirs.lock").touch()
    (tmp_path / ".a.lock").write_text("no number here", "utf-8")
    with monkeypatch.context() as patched:
        patched.setattr(platform, "node", lambda: "attic")
        left_behind(tmp_path / ".elsewhere.lock")
    sweep_locks(tmp_path)
    sweep_locks(tmp_path / "nowhere")
    assert not dead.exists()
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {".living.lock", ".theirs.lock", ".a.lock", ".elsewhere.lock"}
    with pytest.raises(BadInput, match="already working"):
        FileLock(tmp_path / ".living.lock").acquire()


def test_a_lock_can_be_had_while_it_is_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is opened before and locked while the sweep holds it, which then removes the file."""
    path = left_behind(tmp_path / ".hat.lock")
    taken = FileLock(path)
    note = lock_module._note

    def slow(file: object) -> tuple[str, str]:
        thread.start()
        time.sleep(lock_module.SWEEP_S / 2)
        return note(file)  # type: ignore[arg-type]

    thread = threading.Thread(target=taken.acquire)
    with monkeypatch.context() as patched:
        patched.setattr(lock_module, "_note", slow)
        sweep_locks(tmp_path)
        thread.join()
    assert taken.held
    assert path.read_text("utf-8").startswith(f"{os.getpid()} ")
    with pytest.raises(BadInput, match="already working"):
        FileLock(path).acquire()


def test_a_holder_on_another_machine_is_named_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(platform, "node", lambda: "attic")
        lock = FileLock(tmp_path / "lock", "drawing", "wait for it")
        lock.acquire()
    with pytest.raises(
        BadInput, match=f"process {os.getpid()} on attic is already drawing - wait for it"
    ):
        FileLock(tmp_path / "lock", "drawing", "wait for it").acquire()


def test_a_drive_that_knows_no_locks_can_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(file: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("trainer.lock._lock", refuse)
    with FileLock(tmp_path / "lock") as lock:
        assert lock.held
    assert "this drive has no locks" in caplog.text
