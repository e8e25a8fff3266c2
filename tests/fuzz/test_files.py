"""Damaged files of every kind: each is read, or refused by name with a cure."""

from __future__ import annotations

import io
import pickle
import pickletools
import random
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save

from trainer.data.captions import MOST_CHARACTERS, read_caption
from trainer.data.images import read_picture, read_size
from trainer.errors import BadInput
from trainer.models.assemble import assemble_text_encoder, assemble_unet, assemble_vae
from trainer.models.checkpoint import read_tensors
from trainer.models.detect import detect
from trainer.models.families import SD1
from trainer.networks import kohya
from trainer.settings.files import parse_object, read_object
from trainer.training.state import HEADER, StateFolder

from .corpus import damaged, nonsense_headers


def answers(read: Callable[[], object], path: Path) -> bool:
    """Whether it was read; if not, the error says what is wrong with which file, and the cure."""
    try:
        read()
    except BadInput as refused:
        assert refused.problems
        for problem in refused.problems:
            assert path.name in str(problem), problem
            assert problem.what and problem.cure, problem
        return False
    return True


LORA = {
    "lora_unet_a.lora_up.weight": torch.zeros(4, 2),
    "lora_unet_a.lora_down.weight": torch.zeros(2, 4),
    "lora_unet_a.alpha": torch.tensor(2.0),
}


@pytest.mark.parametrize("kind", ["bytes", "header"])
def test_safetensors(kind: str, tmp_path: Path) -> None:
    good = save(LORA, {"ss_network_dim": "2", HEADER: '{"version": 1}'})
    make = damaged if kind == "bytes" else nonsense_headers
    path = tmp_path / "state-0-00000001.safetensors"
    read = 0
    for data in make(good, 1000, seed=1):
        path.write_bytes(data)
        read += answers(lambda: detect(read_tensors(path)), path)
        answers(lambda: kohya.load(path), path)
        StateFolder(tmp_path).newest()  # passes over what it cannot read
    assert read < 900


def _torch_file(value: object, *, old: bool = False) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=not old)
    return buffer.getvalue()


@pytest.mark.parametrize("old", [False, True])
def test_torch_files(old: bool, tmp_path: Path) -> None:
    good = _torch_file({"state_dict": {"a": torch.ones(3), "b": torch.zeros(2, 2)}}, old=old)
    path = tmp_path / "model.ckpt"
    path.write_bytes(good)
    assert set(read_tensors(path)) == {"a", "b"}
    for data in damaged(good, 500, seed=2):
        path.write_bytes(data)
        answers(lambda: read_tensors(path), path)


class Runs:
    """A pickle that calls something when it is loaded."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def _hostile(marker: Path) -> Iterator[bytes]:
    import builtins
    import os
    import subprocess

    order = f"open({str(marker)!r}, 'w')"
    for value in (
        Runs(os.system, f"touch {marker}"),
        Runs(builtins.eval, order),
        Runs(builtins.exec, order),
        Runs(subprocess.Popen, ["touch", str(marker)]),
        Runs(getattr, "os", "system"),
        Runs(torch.load, str(marker)),
        Runs(open, str(marker), "w"),
    ):
        for wrapped in (
            value,
            {"state_dict": {"a": value}},
            [value],
            {"a": torch.ones(1), "b": value},
        ):
            yield pickle.dumps(wrapped, protocol=2)
            buffer = io.BytesIO(_torch_file({"a": torch.ones(1)}))
            with zipfile.ZipFile(buffer, "a") as archive:
                name = next(n for n in archive.namelist() if n.endswith("data.pkl"))
                archive.writestr(name, pickle.dumps(wrapped, protocol=2))
            yield buffer.getvalue()


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_pickles_that_try_to_run_code(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    path = tmp_path / "model.pt"
    for data in _hostile(marker):
        path.write_bytes(data)
        assert not answers(lambda: read_tensors(path), path)
        assert not marker.exists()


def test_random_opcodes(tmp_path: Path) -> None:
    draw = random.Random(3)
    codes = [code.code.encode("latin-1") for code in pickletools.opcodes]
    path = tmp_path / "model.pt"
    for _ in range(400):
        parts = (draw.choice(codes) + draw.randbytes(draw.randrange(6)) for _ in range(30))
        path.write_bytes(b"\x80\x02" + b"".join(parts) + b".")
        answers(lambda: read_tensors(path), path)


def test_a_checkpoint_that_wraps_itself(tmp_path: Path) -> None:
    loop: dict[str, object] = {"a": torch.ones(1)}
    loop["state_dict"] = loop
    path = tmp_path / "loop.ckpt"
    path.write_bytes(_torch_file(loop))
    assert set(read_tensors(path)) == {"a"}


def _checkpoint(path: Path) -> dict[str, torch.Tensor]:
    return {name: torch.empty_like(t, device="meta") for name, t in read_tensors(path).items()}


def test_checkpoints_of_nonsense_shapes(tiny_checkpoint: Path) -> None:
    good = _checkpoint(tiny_checkpoint)
    draw = random.Random(4)
    names = list(good)
    parts: tuple[Callable[[dict[str, torch.Tensor]], object], ...] = (
        lambda tensors: assemble_unet(tensors, SD1),
        lambda tensors: assemble_vae(tensors, SD1),
        lambda tensors: assemble_text_encoder(tensors, SD1.text_encoders[0]),
    )
    shapes = ((), (0,), (1,), (7, 3), (2**20, 2**20), (5, 5, 5, 5, 5))
    refused = 0
    for number in range(90):
        tensors = dict(good)
        for name in draw.sample(names, draw.choice((1, 5, 300))):
            if draw.random() < 0.3:
                del tensors[name]
            else:
                tensors[name] = torch.empty(draw.choice(shapes), device="meta")
        tensors[names[0].replace(".0.", ".99999999.")] = tensors.get(names[0], torch.empty(1))
        detect(tensors)
        try:
            parts[number % 3](tensors)
        except BadInput as error:
            refused += 1
            assert all(problem.what and problem.cure for problem in error.problems)
    assert refused > 30


def _pictures() -> dict[str, bytes]:
    """Small good pictures in every format and mode."""
    exif = Image.Exif()
    exif[274] = 6
    frames = [Image.new("P", (24, 16), colour) for colour in (1, 2, 3)]
    made: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "rgb.png": (Image.effect_noise((24, 16), 50).convert("RGB"), {"exif": exif}),
        "alpha.png": (Image.new("RGBA", (24, 16), (9, 8, 7, 100)), {}),
        "palette.png": (Image.new("P", (24, 16), 3), {"transparency": 3}),
        "deep.png": (Image.new("I;16", (24, 16), 40_000), {}),
        "bits.png": (Image.new("1", (24, 16), 1), {}),
        "rgb.jpg": (Image.effect_noise((24, 16), 50).convert("RGB"), {"exif": exif}),
        "cmyk.jpg": (Image.new("CMYK", (24, 16), (9, 8, 7, 100)), {}),
        "grey.jpg": (Image.new("L", (24, 16), 77), {}),
        "animated.gif": (frames[0], {"save_all": True, "append_images": frames[1:]}),
        "plain.tif": (Image.effect_noise((24, 16), 50).convert("RGB"), {}),
        "packed.tif": (Image.new("CMYK", (24, 16), 5), {"compression": "tiff_lzw"}),
        "rgb.bmp": (Image.new("RGB", (24, 16), (9, 8, 7)), {}),
        "lossy.webp": (Image.effect_noise((24, 16), 50).convert("RGB"), {}),
        "icon.ico": (Image.new("RGBA", (16, 16), (9, 8, 7, 100)), {}),
        "old.pcx": (Image.new("RGB", (24, 16), (9, 8, 7)), {}),
    }
    found = {}
    for name, (image, options) in made.items():
        buffer = io.BytesIO()
        image.save(
            buffer,
            {"jpg": "JPEG", "tif": "TIFF"}.get(name[-3:], name[name.index(".") + 1 :]),
            **options,
        )
        found[name] = buffer.getvalue()
    return found


PICTURES = _pictures()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", PICTURES)
def test_pictures(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(PICTURES[name])
    picture = read_picture(path)
    assert (picture.rgb.mode, picture.size_px) == ("RGB", read_size(path))
    for data in damaged(PICTURES[name], 100, seed=5):
        path.write_bytes(data)
        answers(lambda: read_size(path), path)
        answers(lambda: read_picture(path), path)


def _patched(data: bytes, offset: int, *values: int, order: Any, size: int = 4) -> bytes:
    patch = b"".join(value.to_bytes(size, order) for value in values)
    return data[:offset] + patch + data[offset + len(patch) :]


def test_bombs_and_odd_sizes(tmp_path: Path) -> None:
    png, bmp = PICTURES["bits.png"], PICTURES["rgb.bmp"]
    bombs = {
        "bomb.png": _patched(png, 16, 60_000, 60_000, order="big"),
        "bomb.bmp": _patched(bmp, 18, 60_000, 60_000, order="little"),
        "bomb.gif": _patched(PICTURES["animated.gif"], 6, 65_535, 65_535, order="little", size=2),
    }
    for name, data in bombs.items():
        path = tmp_path / name
        path.write_bytes(data)
        assert not answers(lambda path=path: read_picture(path), path)  # type: ignore[misc]
    for size in ((1, 1), (20_000, 3), (3, 20_000)):
        path = tmp_path / "odd.png"
        Image.new("L", size).save(path)
        assert read_picture(path).size_px == read_size(path) == size[::-1]


def test_the_limit_holds_when_the_host_has_switched_pillows_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    path = tmp_path / "bomb.png"
    path.write_bytes(_patched(PICTURES["bits.png"], 16, 60_000, 60_000, order="big"))
    assert not answers(lambda: read_size(path), path)
    assert not answers(lambda: read_picture(path), path)


def test_captions(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    for data in damaged("a red Würfel, 花 🙂, on a table".encode(), 400, seed=6):
        path.write_bytes(data)
        if answers(lambda: read_caption(path), path):
            assert "\n" not in read_caption(path) and "\0" not in read_caption(path)
    for data in (b"x" * 2**20, "花".encode() * 2**20, b"a\0b", "hat".encode("utf-16"), b"\xff"):
        path.write_bytes(data)
        assert not answers(lambda: read_caption(path), path)
    path.write_text("花" * MOST_CHARACTERS, "utf-8")
    assert len(read_caption(path)) == MOST_CHARACTERS


JOB = b'{"method": "lora", "checkpoint": "a", "rank": 4, "blocks": ["M00"], "second_pass": {}}'


def test_json_texts(tmp_path: Path) -> None:
    path = tmp_path / "job.json"
    for number, data in enumerate(damaged(JOB, 1500, seed=7)):
        if number % 10:
            text = data.decode("latin-1")
            answers(lambda text=text: parse_object(text, path.name), path)  # type: ignore[misc]
        else:
            path.write_bytes(data)
            answers(lambda: read_object(path), path)
    for text in (
        "[" * 10**5,
        '{"a":' * 10**5,
        "9" * 10**5,
        '{"a": NaN}',
        '{"a": 1e999}',
        '"\ud800"',
    ):
        answers(lambda text=text: parse_object(text, path.name), path)  # type: ignore[misc]
