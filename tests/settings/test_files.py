"""Reading and writing JSON files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from trainer.errors import BadInput
from trainer.settings.files import LARGEST_FILE_MB, read_object, write_object


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "is not JSON: line 1, column 1"),
        (b'{"a": 1,\n "b" 2}', "line 2, column 6"),
        (b"[1, 2]", "holds [1, 2] instead of settings"),
        (b"null", "holds null"),
        (b'{"rank": 1, "rank": 2}', 'gives "rank" twice'),
        (b'{"a": "\xff"}', "is not UTF-8"),
        (b"[" * 100_000, "is not JSON"),
        (b" " * (LARGEST_FILE_MB * 2**20 + 1), "larger than"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_reason(
    tmp_path: Path, content: bytes, what: str
) -> None:
    path = tmp_path / "job.json"
    path.write_bytes(content)
    with pytest.raises(BadInput) as caught:
        read_object(path)
    (problem,) = caught.value.problems
    assert problem.where == str(path)
    assert what in problem.what
    assert problem.cure


@pytest.mark.parametrize("name", ["absent.json", ".", "absent/job.json", "null\x00.json"])
def test_a_path_that_is_no_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInput):
        read_object(tmp_path / name)


def test_a_byte_order_mark_is_read_over(tmp_path: Path) -> None:
    path = tmp_path / "job.json"
    path.write_bytes(b'\xef\xbb\xbf{"rank": 4}')
    assert read_object(path) == {"rank": 4}


def test_written_text_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "花.json"
    write_object(path, {"name": "花 🙂", "rank": 4})
    assert read_object(path) == {"name": "花 🙂", "rank": 4}
    assert [file.name for file in path.parent.iterdir()] == ["花.json"]


def test_a_failing_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "job.json"
    write_object(path, {"rank": 4})

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BadInput, match="No space left"):
        write_object(path, {"rank": 8})
    assert read_object(path) == {"rank": 4}
    assert [file.name for file in tmp_path.iterdir()] == ["job.json"]


def test_an_unwritable_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="cannot be written"):
        write_object(tmp_path / "file" / "job.json", {})


def test_a_file_is_replaced_at_once_when_it_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "job.json"
    write_object(path, {"rank": 4})
    seen = {}
    replace = Path.replace

    def watched(source: Path, target: Path) -> None:
        seen["new"], seen["old"] = read_object(source), read_object(target)
        replace(source, target)

    monkeypatch.setattr(Path, "replace", watched)
    write_object(path, {"rank": 8})
    assert seen == {"new": {"rank": 8}, "old": {"rank": 4}}
    assert read_object(path) == {"rank": 8}
