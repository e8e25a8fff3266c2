from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from trainer.atomic import sweep, write_bytes
from trainer.settings.presets import PresetStore

HEX = "0123456789abcdef" * 2


def test_the_file_is_whole_and_alone_in_a_folder_that_was_made(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    write_bytes(path, b"one")
    write_bytes(path, b"two")
    assert path.read_bytes() == b"two"
    assert [file.name for file in path.parent.iterdir()] == ["a.txt"]


def test_what_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    write_bytes(path, b"old")

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(PermissionError, match=re.escape(str(path))):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_sweeping_takes_what_was_left_of_these_names_and_nothing_else(tmp_path: Path) -> None:
    left = tmp_path / f".hat.{HEX}.tmp"
    others = [f".hat-2.{HEX}.tmp", ".hat.tmp", "hat.safetensors", f".hat.{HEX}.tmp.png"]
    for name in (left.name, *others):
        (tmp_path / name).write_bytes(b"")
    sweep(tmp_path, re.compile("hat"))
    assert {file.name for file in tmp_path.iterdir()} == set(others)
    sweep(tmp_path / "nowhere", re.compile("hat"))


def test_what_another_process_may_be_writing_now_is_left(tmp_path: Path) -> None:
    young, old = (tmp_path / f".{name}.{HEX}.tmp" for name in ("hat", "cap"))
    for path in (young, old):
        path.write_bytes(b"")
    os.utime(old, (1.0, 1.0))
    sweep(tmp_path, re.compile("hat|cap"), older_than_s=60)
    assert [path.name for path in tmp_path.iterdir()] == [young.name]


def test_what_was_left_by_presets_and_grids_goes_in_time(tmp_path: Path) -> None:
    young, old = (tmp_path / f".{name}.{HEX}.tmp" for name in ("hat", "cap"))
    for path in (young, old):
        path.write_bytes(b"")
    os.utime(old, (1.0, 1.0))
    PresetStore(tmp_path, tmp_path / "none").save("mine", {"method": "lora", "rank": 4})
    assert {path.name for path in tmp_path.iterdir()} == {young.name, "mine.json"}
