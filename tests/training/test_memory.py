from __future__ import annotations

import ctypes
from types import SimpleNamespace

from trainer.training import memory


def test_what_is_kept_goes_back_at_the_end(monkeypatch):
    calls = []
    libc = SimpleNamespace(
        mallopt=lambda name, value: calls.append((name, value)),
        malloc_trim=lambda pad: calls.append(("trim", pad)),
    )
    monkeypatch.setattr(memory, "_glibc", lambda: libc)
    try:
        with memory.kept_memory():
            assert calls[-1] == (memory.M_TRIM_THRESHOLD, 2**31 - 1)
            raise KeyError
    except KeyError:
        pass
    assert calls[-2:] == [(memory.M_TRIM_THRESHOLD, 64 * 2**20), ("trim", 0)]


def test_glibc_takes_the_values():
    libc = memory._glibc()
    if libc is None:
        return
    libc.mallopt.restype = ctypes.c_int
    assert libc.mallopt(memory.M_MMAP_THRESHOLD, memory.LARGEST_IN_HEAP) == 1
    assert libc.mallopt(memory.M_TRIM_THRESHOLD, memory.USUAL_TRIM) == 1


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(memory, "_glibc", lambda: None)
    with memory.kept_memory():
        pass
