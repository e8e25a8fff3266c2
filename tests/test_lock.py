from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from trainer.errors import BadInput
from trainer.lock import FileLock

ROOT = Path(__file__).parents[1]
HOLDER = """
import sys
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
