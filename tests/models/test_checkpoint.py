from __future__ import annotations

import hashlib
import os
import pickle

import pytest
import torch
from safetensors.torch import save_file

from trainer.errors import BadInput
from trainer.models.checkpoint import legacy_hash, metadata, read_tensors, sha256


@pytest.fixture
def tensors():
    return {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(4, dtype=torch.float16)}


def test_safetensors_and_nested_ckpt_hold_the_same(tmp_path, tensors):
    save_file(tensors, tmp_path / "x.safetensors", metadata={"key": "value"})
    torch.save({"state_dict": tensors, "epoch": 3}, tmp_path / "x.ckpt")
    for name in ("x.safetensors", "x.ckpt"):
        found = read_tensors(tmp_path / name)
        assert found.keys() == tensors.keys()
        assert all(torch.equal(found[key], tensors[key]) for key in tensors)
    assert metadata(tmp_path / "x.safetensors") == {"key": "value"}


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
@pytest.mark.parametrize("kept", [0, 5, 0.6])
def test_truncated_file_is_named(tmp_path, tensors, suffix, kept):
    path = tmp_path / f"cut{suffix}"
    if suffix == ".ckpt":
        torch.save(tensors, path)
    else:
        save_file(tensors, path)
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data)) if isinstance(kept, float) else kept])
    with pytest.raises(BadInput, match="cut.*truncated or damaged"):
        read_tensors(path)


@pytest.mark.parametrize("name", ["passwd", "passwd.safetensors", "passwd.ckpt"])
def test_a_file_of_something_else_is_refused_without_a_programs_words(tmp_path, name):
    path = tmp_path / name
    path.write_text("root:x:0:0:root:/root:/bin/bash\n" * 9)
    with pytest.raises(BadInput) as refused:
        read_tensors(path)
    (problem,) = refused.value.problems
    assert problem.what in (
        f"{path} is no model file, or is truncated or damaged",
        f"{path} is damaged, or holds more than tensors: loading that could run foreign code",
    )


def test_missing_file_is_named(tmp_path):
    with pytest.raises(BadInput, match=r"there is no file .*none\.safetensors"):
        read_tensors(tmp_path / "none.safetensors")


class Payload:
    def __reduce__(self):
        return os.mkdir, ("payload_was_run",)


def test_pickled_code_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {"a": torch.ones(1)}, "x": Payload()}, tmp_path / "evil.ckpt")
    (tmp_path / "old.ckpt").write_bytes(pickle.dumps(Payload()))
    for name in ("evil.ckpt", "old.ckpt"):
        with pytest.raises(BadInput, match=rf"{name[:-5]}.*"):
            read_tensors(tmp_path / name)
    assert not (tmp_path / "payload_was_run").exists()


def test_hashes_of_a_file(tmp_path):
    path = tmp_path / "file.bin"
    data = bytes(range(256)) * 0x2000
    path.write_bytes(data)
    assert sha256(path) == hashlib.sha256(data).hexdigest()
    window = data[0x100000:0x110000]
    assert legacy_hash(path) == hashlib.sha256(window).hexdigest()[:8]
