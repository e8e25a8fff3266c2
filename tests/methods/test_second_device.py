"""The trainings of `on_second_device.py`, in a process of their own, as torch wants it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests import pretended

TESTS = Path(__file__).with_name("on_second_device.py")


@pytest.mark.slow
@pytest.mark.skipif(
    not pretended.is_possible(), reason="this torch knows no devices that are written in Python"
)
def test_trainings_work_on_a_second_device_and_never_wait_for_it() -> None:
    command = [sys.executable, "-m", "pytest", "--tb=short", str(TESTS)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout[-8000:] + ran.stderr[-2000:]
