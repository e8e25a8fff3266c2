"""Tensors on disk: what was put is found again, what is damaged is not, and old files go first."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from trainer.data.tensor_store import TensorStore, prune


def value(number: int) -> dict[str, torch.Tensor]:
    return {"a": torch.full((4, 3, 2), float(number)), "b": torch.arange(number + 1).bfloat16()}


def filled(folder: Path, count: int = 10, per_file: int = 4) -> list[str]:
    """A store of so many entries, `per_file` to a file."""
    size = sum(part.numel() * part.element_size() for part in value(0).values())
    store = TensorStore(folder, file_mb=per_file * size / 2**20)
    for number in range(count):
        store.put(f"{number:064x}", value(number))
        assert torch.equal(store.get(f"{number:064x}")["a"], value(number)["a"])
    store.flush()
    return [f"{number:064x}" for number in range(count)]


def test_another_process_finds_everything(tmp_path: Path) -> None:
    keys = filled(tmp_path)
    notices: list[str] = []
    store = TensorStore(tmp_path, notices.append)
    assert len(list(tmp_path.iterdir())) > 2, "several files"
    for number, key in enumerate(keys):
        assert key in store
        found = store.get(key)
        assert found.keys() == {"a", "b"}
        assert all(torch.equal(found[name], part) for name, part in value(number).items())
        assert found["b"].dtype == torch.bfloat16
    assert "0" * 63 + "f" not in store
    assert notices == []


@pytest.mark.parametrize("kind", ["cut off", "flipped", "empty", "other"])
def test_a_damaged_file_is_as_if_it_were_not_there(tmp_path: Path, kind: str) -> None:
    keys = filled(tmp_path)
    (path,) = [path for path in tmp_path.iterdir() if keys[0].encode() in path.read_bytes()]
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    damaged = {
        "cut off": path.read_bytes()[:-7],
        "flipped": bytes(data),
        "empty": b"",
        "other": b"no tensors here",
    }[kind]
    path.write_bytes(damaged)
    notices: list[str] = []
    store = TensorStore(tmp_path, notices.append)
    there = [key for key in keys if key in store]
    assert keys[0] not in there
    assert 0 < len(there) < len(keys)
    assert len(notices) == 1
    assert str(path) in notices[0]
    assert not path.exists()


def test_what_cannot_be_written_stays_in_memory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    notices: list[str] = []
    store = TensorStore(tmp_path / "file" / "cache", notices.append, file_mb=1e-6)
    for number in range(3):
        store.put(f"{number:064x}", value(number))
    store.flush()
    assert len(notices) == 1
    assert torch.equal(store.get(f"{2:064x}")["a"], value(2)["a"])


def test_a_file_that_has_gone_is_as_if_it_had_not_been_there(tmp_path: Path) -> None:
    keys = filled(tmp_path)
    notices: list[str] = []
    store = TensorStore(tmp_path, notices.append)
    assert all(key in store for key in keys)
    prune(tmp_path, 0, frozenset())  # by another program, to make room
    for _ in range(2):
        with pytest.raises(KeyError):
            store.get(keys[0])
    assert keys[0] not in store
    assert len(notices) == 1
    store.put(keys[0], value(0))
    store.flush()
    assert torch.equal(TensorStore(tmp_path).get(keys[0])["a"], value(0)["a"])


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    filled(tmp_path)
    left = tmp_path / f".{'0' * 32}.{'1' * 32}.tmp"
    left.write_bytes(b"half")
    os.utime(left, (1.0, 1.0))  # long ago
    TensorStore(tmp_path)
    assert not left.exists()


def test_the_oldest_files_go_first_and_used_ones_never(tmp_path: Path) -> None:
    files = []
    for number in range(4):
        path = tmp_path / "kind" / f"{number:032x}.safetensors"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(2**20))
        os.utime(path, (number, number))
        files.append(path)
    prune(tmp_path, 4, frozenset())
    assert all(path.exists() for path in files), "not above the limit"
    prune(tmp_path, 2, frozenset(files[:1]))
    assert [path.exists() for path in files] == [True, False, False, True]


def test_what_else_lies_in_the_folder_stays(tmp_path: Path) -> None:
    """A user may name a folder that holds his models."""
    theirs = [tmp_path / "sd15.safetensors", tmp_path / "Lora" / "hat.safetensors"]
    for path in theirs:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(2**20))
    filled(tmp_path / "pictures")
    prune(tmp_path, 1, frozenset())
    assert list((tmp_path / "pictures").iterdir()), "what is not of the cache does not count"
    prune(tmp_path, 0, frozenset())
    assert not list((tmp_path / "pictures").iterdir())
    assert all(path.exists() for path in theirs)
