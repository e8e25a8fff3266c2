"""A grid of files and strengths: which pictures it shows, and that it can be stopped."""

from __future__ import annotations

import errno
import os
import platform
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from trainer.control import Control
from trainer.errors import BadInput
from trainer.evaluate import draw
from trainer.events import Event, Notice, PhaseProgress, Saved
from trainer.grid import draw_grid
from trainer.hosts.standalone import StandaloneHost
from trainer.lock import FileLock
from trainer.networks import kohya
from trainer.networks.lora import Lora
from trainer.networks.network import Network
from trainer.networks.opening import open_network
from trainer.networks.sizes import Sizes
from trainer.networks.targets import find_targets
from trainer.settings.grid import GridSettings, parse_grid
from trainer.settings.groups import BLOCKS

from .modules import tiny_modules

SMALL = {"size_px": 64, "denoise_steps": 2, "prompts": "a hat\na coat", "seeds": "1"}


def lora_file(path: Path, kind: str, seed: int, rank: int = 2) -> Path:
    """A network of random weights that changes every picture much."""
    unet, _, text_encoders = tiny_modules()
    convolutions = kind == "c3lier"
    targets = find_targets(
        unet, text_encoders, family="sd1", blocks=BLOCKS, convolutions=convolutions
    )
    generator = torch.Generator().manual_seed(seed)
    network = Network(targets, kind, Sizes(rank, rank), generator=generator)
    with torch.no_grad():
        for weight in network.parameters():
            weight.normal_(0, 0.3, generator=generator)
    kohya.save(path, network.tensors(), {})
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("loras")
    kinds = {"one": "lierla", "two": "c3lier"}
    return [
        lora_file(folder / f"{name}.safetensors", kind, seed)
        for seed, (name, kind) in enumerate(kinds.items())
    ]


def settings(checkpoint: Path, files: list[Path], **values: Any) -> GridSettings:
    loras = "\n".join(map(str, files))
    given = {"checkpoint": str(checkpoint), "loras": loras, "name": "grid", **SMALL, **values}
    return parse_grid(given)


def run(given: GridSettings, out: Path, control: Control | None = None) -> list[Event]:
    events: list[Event] = []
    host = StandaloneHost(Path(given.checkpoint).parent, out, "cpu")
    draw_grid(given, host, control=control or Control(), sink=events.append)
    return events


def test_every_cell_is_what_its_file_draws_at_its_strength(
    tiny_checkpoint: Path, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sheets = []
    monkeypatch.setattr(
        "trainer.grid.labelled_sheet",
        lambda blocks, size: sheets.append(blocks) or Image.new("L", (1, 1)),
    )
    given = settings(tiny_checkpoint, files, strengths="0, 1")
    events = run(given, tmp_path)
    (saved,) = (event for event in events if isinstance(event, Saved))
    assert saved.path == tmp_path / "logs" / "grids" / "grid.png"
    assert [e.done for e in events if isinstance(e, PhaseProgress)] == list(range(1, 9))
    (blocks,) = sheets
    assert [block.title for block in blocks] == ["a hat   seed 1", "a coat   seed 1"]
    assert (blocks[0].rows, blocks[0].columns) == (["one", "two"], ["0", "1"])
    host = StandaloneHost(tiny_checkpoint.parent, tmp_path, "cpu")
    with host.borrow(given) as model:
        targets = find_targets(
            model.unet, model.text_encoders, family="sd1", blocks=BLOCKS, convolutions=True
        )
        with open_network(files[1], targets):
            (wanted,) = draw.draw_pictures(model, ["a coat"], [1], steps=2, guidance_scale=7.0)
        (bare,) = draw.draw_pictures(model, ["a coat"], [1], steps=2, guidance_scale=7.0)
    shown = [[picture.tobytes() for picture in row] for row in blocks[1].pictures]
    assert shown[1][1] == wanted.tobytes()
    assert shown[0][0] == shown[1][0] == bare.tobytes()
    assert len({*shown[0], *shown[1]}) == 3, "no two files draw alike"


def test_files_may_be_named_by_their_names_in_the_folder_of_results(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    lora_file(tmp_path / "hat-1.5.safetensors", "lierla", 1)
    left = tmp_path / "logs/grids/.killed.lock"  # by a program that was killed while it drew
    left.parent.mkdir(parents=True)
    left.write_text(f"1234567 {platform.node()}")
    unfinished = left.with_name(f".killed.{'0' * 32}.tmp")
    unfinished.touch()
    os.utime(unfinished, (1.0, 1.0))
    given = settings(tiny_checkpoint, [Path("hat-1.5")], strengths="1", prompts="a hat")
    assert any(isinstance(event, Saved) for event in run(given, tmp_path))
    assert not left.exists()
    assert not unfinished.exists()
    with Image.open(tmp_path / "logs/grids/grid.png") as sheet:
        told = sheet.text["trainyard_grid"]
    assert "loras: hat-1.5.safetensors" in told.splitlines()
    for folder in (tmp_path, tiny_checkpoint.parent):
        assert str(folder) not in told, "a picture that is shared tells no folder"
    with pytest.raises(BadInput, match="^loras: nowhere cannot be read"):
        run(settings(tiny_checkpoint, [Path("nowhere")], name="other"), tmp_path)


def test_a_stop_saves_what_is_there_or_nothing(
    tiny_checkpoint: Path, files: list[Path], tmp_path: Path
) -> None:
    given = settings(tiny_checkpoint, files[:1], strengths="1", prompts="a hat\na coat")
    for name in ("stop", "stop_and_save"):
        control, calls = Control(), []

        def end_after_the_first(
            control: Control = control, calls: list[int] = calls, name: str = name
        ) -> None:
            calls.append(1)
            if len(calls) == 2:
                getattr(control, name)()

        control.give_way = end_after_the_first
        events = run(given, tmp_path, control)
        kept = (tmp_path / "logs" / "grids" / "grid.png").is_file()
        assert kept is (name == "stop_and_save")
    (notice,) = (event for event in events if isinstance(event, Notice))
    assert notice.text == "Stopped after 1 of 2 pictures"


def test_files_and_name_are_checked_before_anything_is_loaded(
    tiny_checkpoint: Path, files: list[Path], tmp_path: Path
) -> None:
    taken = tmp_path / "logs" / "grids" / "grid.png"
    taken.parent.mkdir(parents=True)
    taken.write_bytes(b"")
    gone = tmp_path / "gone.safetensors"
    with pytest.raises(BadInput) as caught:
        run(settings(Path("no checkpoint"), [*files, gone, tiny_checkpoint]), tmp_path)
    problems = caught.value.problems
    assert [problem.where for problem in problems] == ["checkpoint", "loras", "loras", "name"]
    assert problems[1].what.startswith(str(gone))
    assert problems[2].what == f"{tiny_checkpoint} is a checkpoint, not a LoRA"
    assert "grid-2" in caught.value.problems[-1].cure


def test_a_file_of_another_model_is_found_before_anything_is_drawn(
    tiny_checkpoint: Path, files: list[Path], tmp_path: Path
) -> None:
    tensors, _ = kohya.load(files[0])
    other = tmp_path / "other.safetensors"
    kohya.save(other, {name.replace("_blocks_", "_bricks_"): t for name, t in tensors.items()}, {})
    events: list[Event] = []
    host = StandaloneHost(tiny_checkpoint.parent, tmp_path, "cpu")
    given = settings(tiny_checkpoint, [files[0], other])
    with pytest.raises(BadInput, match="other.safetensors"):
        draw_grid(given, host, control=Control(), sink=events.append)
    assert not [event for event in events if isinstance(event, PhaseProgress)]


def test_a_file_is_opened_with_its_own_kind_and_rank(files: list[Path]) -> None:
    unet, _, text_encoders = tiny_modules()
    targets = find_targets(unet, text_encoders, family="sd1", blocks=BLOCKS, convolutions=True)
    one, two = (open_network(file, targets) for file in files)
    assert one.facts().rank == two.facts().conv_rank == 2
    assert len(one.targets) < len(two.targets) == len(targets)
    assert not any(weight.requires_grad for weight in one.parameters())
    assert isinstance(one.adapters[one.targets[0].name], Lora)


def test_a_grid_is_drawn_by_one_program_at_a_time(
    tiny_checkpoint: Path, files: list[Path], tmp_path: Path
) -> None:
    told = f"process {os.getpid()} is already drawing 'grid' - use another name"
    lock = FileLock(tmp_path / "logs/grids/.grid.lock", "drawing 'grid'")
    with lock, pytest.raises(BadInput, match=told):
        run(settings(tiny_checkpoint, files), tmp_path)


def test_a_full_disk_is_told(
    tiny_checkpoint: Path, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr("trainer.grid.write_bytes", full)
    with pytest.raises(BadInput, match=r"grid.png: cannot be written: No space left .* again"):
        run(settings(tiny_checkpoint, files, strengths="1"), tmp_path)


def test_a_prompt_that_stands_there_twice_is_drawn_once(
    tiny_checkpoint: Path, files: list[Path], tmp_path: Path
) -> None:
    given = settings(tiny_checkpoint, files[:1], strengths="1", prompts="a hat\na coat\na hat")
    events = run(given, tmp_path)
    assert not [event for event in events if isinstance(event, Notice)], "nothing stopped it"
    assert [e.done for e in events if isinstance(e, PhaseProgress)] == [1, 2]


def test_files_of_one_name_are_told_apart_by_their_folders(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sheets = []
    monkeypatch.setattr(
        "trainer.grid.labelled_sheet",
        lambda blocks, size: sheets.append(blocks) or Image.new("L", (1, 1)),
    )
    (tmp_path / "styles").mkdir()
    lora_file(tmp_path / "styles/hat.safetensors", "lierla", 1)
    lora_file(tmp_path / "hat.safetensors", "lierla", 2)
    lora_file(tmp_path / "coat.safetensors", "lierla", 3)
    names = [Path("hat"), Path("styles/hat"), Path("coat")]
    run(settings(tiny_checkpoint, names, strengths="0", prompts="a"), tmp_path)
    assert sheets[0][0].rows == [f"{tmp_path.name}/hat", "styles/hat", "coat"]
