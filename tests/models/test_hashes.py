"""Digests are computed once for every content."""

from __future__ import annotations

import hashlib
import os

import pytest

from trainer.models import hashes
from trainer.models.hashes import HashCache


@pytest.fixture
def computed(monkeypatch) -> list[str]:
    """The names of the files that were read."""
    names: list[str] = []
    compute = hashes.sha256

    def sha256(path):
        names.append(path.name)
        return compute(path)

    monkeypatch.setattr(hashes, "sha256", sha256)
    return names


def test_a_file_is_read_once(tmp_path, computed) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"one")
    for _ in range(2):  # another cache over the same file, as after a restart
        cache = HashCache(tmp_path / "logs/hashes.json")
        assert cache.sha256(file) == hashlib.sha256(b"one").hexdigest()
    assert computed == ["model.safetensors"]


def test_a_changed_file_is_read_again(tmp_path, computed) -> None:
    file, cache = tmp_path / "model.safetensors", HashCache(tmp_path / "hashes.json")
    file.write_bytes(b"one")
    cache.sha256(file)
    file.write_bytes(b"two")
    os.utime(file, ns=(1, 1))
    assert cache.sha256(file) == hashlib.sha256(b"two").hexdigest()
    assert len(computed) == 2


def test_a_damaged_memory_is_made_anew(tmp_path, computed) -> None:
    file, memory = tmp_path / "model.safetensors", tmp_path / "hashes.json"
    file.write_bytes(b"one")
    memory.write_text("{", "utf-8")
    for _ in range(2):
        assert HashCache(memory).sha256(file) == hashlib.sha256(b"one").hexdigest()
    assert computed == ["model.safetensors"]


def test_a_memory_that_cannot_be_written_costs_only_time(tmp_path, computed) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"one")
    cache = HashCache(file / "hashes.json")
    assert cache.sha256(file) == hashlib.sha256(b"one").hexdigest()
