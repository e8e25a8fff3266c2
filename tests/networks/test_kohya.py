from __future__ import annotations

import hashlib
import json
import os
import struct
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch

from trainer.errors import BadInput, TrainyardError
from trainer.models.model import DTYPES
from trainer.networks import kohya

METADATA = {
    "ss_v2": "False",
    "ss_output_name": 'ünïcode "quoted" \n line',
    "ss_network_args": '{"conv_dim": "4"}',
    "modelspec.title": "a title",
}


def tensors(dtype: torch.dtype = torch.float16, width: int = 40) -> dict[str, torch.Tensor]:
    drawn = torch.Generator().manual_seed(0)
    return {
        "lora_unet_b.lora_up.weight": torch.randn(width, 4, generator=drawn).to(dtype),
        "lora_unet_b.lora_down.weight": torch.randn(4, width, generator=drawn).to(dtype),
        "lora_unet_b.alpha": torch.tensor(2.0, dtype=dtype),
        "lora_unet_a.lora_up.weight": torch.randn(3, 4, 1, 1, generator=drawn).to(dtype),
    }


def read_by_hand(path: Path) -> tuple[dict[str, object], bytes]:
    """Header and tensor bytes, by the description of the format alone."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


@pytest.mark.parametrize("name", ["hat-1.5", "hat-1.5.safetensors", "{folder}/hat-1.5.safetensors"])
def test_a_file_is_found_by_its_path_or_its_name_in_the_folder(tmp_path: Path, name: str) -> None:
    kohya.save(tmp_path / "hat-1.5.safetensors", tensors(), {})
    found = kohya.find(name.format(folder=tmp_path), tmp_path)
    assert found == tmp_path / "hat-1.5.safetensors"


@pytest.mark.parametrize(
    "name", ["nowhere", "sub/nowhere.safetensors", "/", "..", "a\0b", "x" * 999]
)
def test_a_file_that_is_nowhere_is_what_was_written(tmp_path: Path, name: str) -> None:
    assert kohya.find(name, tmp_path) == Path(name)
    with pytest.raises(BadInput):
        kohya.load(kohya.find(name, tmp_path))


@pytest.mark.parametrize("dtype", list(DTYPES.values()))
def test_what_is_saved_is_loaded(tmp_path: Path, dtype: torch.dtype) -> None:
    path = tmp_path / "a.safetensors"
    kohya.save(path, tensors(dtype), METADATA)
    found, metadata = kohya.load(path)
    assert found.keys() == tensors().keys()
    for key, tensor in tensors(dtype).items():
        assert found[key].dtype == dtype
        assert torch.equal(found[key], tensor)
    assert metadata.items() >= METADATA.items()
    assert metadata.keys() - METADATA.keys() == {"sshs_model_hash", "sshs_legacy_hash"}


def test_other_programs_read_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    kohya.save(path, tensors(), METADATA)
    with safetensors.safe_open(path, framework="pt") as file:
        assert set(file.keys()) == set(tensors())
        assert file.metadata()["ss_output_name"] == METADATA["ss_output_name"]


def test_the_header_is_as_the_webui_wants_it(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    kohya.save(path, tensors(), METADATA)
    assert path.read_bytes()[8:10] == b'{"'
    header, _ = read_by_hand(path)
    assert header["__metadata__"]
    assert all(isinstance(value, str) for value in header["__metadata__"].values())


def test_model_hash_is_of_the_bytes_after_the_header(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    returned = kohya.save(path, tensors(), METADATA)
    header, body = read_by_hand(path)
    expected = hashlib.sha256(body).hexdigest()
    assert header["__metadata__"]["sshs_model_hash"] == expected == returned
    # A title may be changed later without the file becoming another one.
    assert kohya.save(path, tensors(), {**METADATA, "modelspec.title": "other"}) == expected


def test_legacy_hash_is_of_the_second_megabyte(tmp_path: Path) -> None:
    """Of the file as it would be with the ss_ metadata alone."""
    big = tensors(torch.float32, width=50_000)  # 1.6 MB
    path, plain = tmp_path / "a.safetensors", tmp_path / "plain.safetensors"
    kohya.save(path, big, METADATA)
    only_ss = {key: value for key, value in METADATA.items() if key.startswith("ss_")}
    safetensors.torch.save_file(big, plain, only_ss)
    expected = hashlib.sha256(plain.read_bytes()[0x100000 : 0x100000 + 0x10000]).hexdigest()[:8]
    header, _ = read_by_hand(path)
    assert header["__metadata__"]["sshs_legacy_hash"] == expected
    nothing = hashlib.sha256(b"").hexdigest()[:8]
    assert expected != nothing
    assert kohya.hashes(tensors(), METADATA)[1] == nothing


def test_a_file_is_readable_by_others(tmp_path: Path) -> None:
    """The webui may run as another user: permissions are those of any new file."""
    path, usual = tmp_path / "a.safetensors", tmp_path / "usual"
    kohya.save(path, tensors(), METADATA)
    usual.touch()
    assert path.stat().st_mode == usual.stat().st_mode


@pytest.mark.parametrize("broken", ["write", "fsync", "replace"])
def test_a_failure_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    path = tmp_path / "a.safetensors"
    kohya.save(path, tensors(), METADATA)
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    if broken == "write":
        monkeypatch.setattr(Path, "open", fail)
    else:
        monkeypatch.setattr(os if broken == "fsync" else Path, broken, fail)
    with pytest.raises(BadInput) as error:
        kohya.save(path, tensors(width=8), METADATA)
    monkeypatch.undo()
    assert str(path) in str(error.value)
    assert "No space left on device" in str(error.value)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.safetensors"]


def test_an_interruption_leaves_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        kohya.save(tmp_path / "a.safetensors", tensors(), METADATA)
    assert not list(tmp_path.iterdir())


def test_the_content_reaches_the_disk_before_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What replaces the old file is whole and in the same folder."""
    seen = []
    replace = Path.replace

    def watch(self: Path, target: Path) -> Path:
        seen.append((self.parent, torch.equal(*_weights(self)), self.suffix))
        return replace(self, target)

    def _weights(path: Path) -> tuple[torch.Tensor, torch.Tensor]:
        name = "lora_unet_b.lora_up.weight"
        return safetensors.torch.load(path.read_bytes())[name], tensors()[name]

    monkeypatch.setattr(Path, "replace", watch)
    kohya.save(tmp_path / "a.safetensors", tensors(), METADATA)
    # Not .safetensors: a webui that scans the folder meanwhile must not list it.
    assert seen == [(tmp_path, True, ".tmp")]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_infinity_are_not_saved(tmp_path: Path, value: float) -> None:
    path = tmp_path / "a.safetensors"
    kohya.save(path, tensors(), METADATA)
    before, broken = path.read_bytes(), tensors()
    broken["lora_unet_b.lora_down.weight"][2, 3] = value
    with pytest.raises(TrainyardError) as error:
        kohya.save(path, broken, METADATA)
    message = str(error.value)
    assert "1 of 4 tensors" in message
    assert "lora_unet_b.lora_down.weight" in message
    assert "fp16 ends at 65504" in message
    assert path.read_bytes() == before


def test_a_missing_folder_is_made(tmp_path: Path) -> None:
    path = tmp_path / "removed meanwhile" / "a.safetensors"
    kohya.save(path, tensors(), METADATA)
    assert set(kohya.load(path)[0]) == set(tensors())


def test_a_folder_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "a.safetensors"
    with pytest.raises(BadInput) as error:
        kohya.save(path, tensors(), METADATA)
    assert [problem.where for problem in error.value.problems] == [str(path)]


def complaint(path: Path) -> str:
    with pytest.raises(BadInput) as error:
        kohya.load(path)
    (problem,) = error.value.problems
    assert problem.where == str(path)
    return problem.what


@pytest.mark.parametrize("kept", [0, 5, 8, 9, 60, 300, -1])
def test_truncated_files_are_refused(tmp_path: Path, kept: int) -> None:
    whole, path = tmp_path / "whole.safetensors", tmp_path / "cut.safetensors"
    kohya.save(whole, tensors(), METADATA)
    path.write_bytes(whole.read_bytes()[:kept])
    assert "truncated" in complaint(path)


def test_a_file_with_too_many_bytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    kohya.save(path, tensors(), METADATA)
    path.write_bytes(path.read_bytes() + b"\0" * 8)
    assert "damaged" in complaint(path)


@pytest.mark.parametrize(
    "content",
    [
        b"this is a text and no tensors at all",
        struct.pack("<Q", 4) + b"[12]",
        struct.pack("<Q", 7) + b'{"a":1}',
        struct.pack("<Q", 8) + b'{"a":{}}',
        struct.pack("<Q", 4) + b"\xff\xfe\xfd\xfc",
        struct.pack("<Q", 2) + b"{}",
    ],
)
def test_other_content_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    assert complaint(path)


def test_a_checkpoint_is_refused_without_reading_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.safetensors"
    name = "model.diffusion_model.input_blocks.0.0.weight"
    safetensors.torch.save_file({name: torch.zeros(4)}, path)
    monkeypatch.setattr(safetensors.torch, "load", pytest.fail)
    assert complaint(path) == "is a checkpoint, not a LoRA"


def test_a_file_of_other_tensors_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    safetensors.torch.save_file({"emb_params": torch.zeros(2, 4)}, path)
    assert complaint(path) == "holds no LoRA, its first tensor is emb_params"


def test_missing_files_folders_and_pickles_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "b.safetensors"
    folder.mkdir()
    assert "No such file" in complaint(tmp_path / "a.safetensors")
    assert "cannot be read" in complaint(folder)
    pickle = tmp_path / "c.pt"
    torch.save(tensors(), pickle)
    assert complaint(pickle) == "is not a .safetensors file"


def test_a_loaded_file_can_be_replaced(tmp_path: Path) -> None:
    """What was loaded is a copy: it neither changes nor holds the file open."""
    path = tmp_path / "a.safetensors"
    kohya.save(path, tensors(), METADATA)
    found, _ = kohya.load(path)
    path.write_bytes(b"\0" * path.stat().st_size)
    assert torch.equal(found["lora_unet_b.lora_up.weight"], tensors()["lora_unet_b.lora_up.weight"])
