"""What the tests share: a tiny checkpoint with random weights, and a folder of pictures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.modules import tiny_modules
from trainer.models.export import ldm_tensors, write_checkpoint
from trainer.models.families import FAMILIES, SD1, Family

torch.set_num_threads(1)


def tiny_tensors(
    family: Family, seed: int = 0, dtype: torch.dtype = torch.float32
) -> dict[str, torch.Tensor]:
    """A checkpoint of a family in its file layout, with random weights."""
    return ldm_tensors(*tiny_modules(seed, family.name), family, dtype)


def adapted_layers(*modules: torch.nn.Module | None) -> int:
    """How many layers diffusers adapted with a LoRA file; skips the test where it cannot."""
    reason = "diffusers adapts layers by peft, and only with transformers newer than 4.33"
    tuners = pytest.importorskip("peft.tuners.tuners_utils", reason=reason)
    parts = [part for module in modules if module is not None for part in module.modules()]
    return sum(isinstance(part, tuners.BaseTunerLayer) for part in parts)


@pytest.fixture
def loads_lora() -> None:
    """Skips a test where diffusers has no `load_lora_weights`, before it works for it."""
    adapted_layers()


@pytest.fixture(scope="session")
def tiny_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint file of every family, by its name."""
    folder = tmp_path_factory.mktemp("checkpoints")
    files = {family.name: folder / f"{family.name}.safetensors" for family in FAMILIES}
    for family in FAMILIES:
        write_checkpoint(files[family.name], tiny_tensors(family))
    return files


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint file in SD1's layout with random weights."""
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    write_checkpoint(path, tiny_tensors(SD1))
    return path


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of four captioned pictures in two shapes."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, (width, height) in enumerate(((64, 64), (64, 64), (96, 64), (64, 64))):
        Image.new("RGB", (width, height), (60 * number, 90, 200)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"picture number {number}", "utf-8")
    return folder


@pytest.fixture
def flower_font(tmp_path: Path) -> Iterator[str]:
    """The family of a font that has one letter, 花, as a full square; installed for the test."""
    font_manager = pytest.importorskip("matplotlib.font_manager")
    from fontTools.fontBuilder import FontBuilder
    from fontTools.pens.ttGlyphPen import TTGlyphPen

    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for corner in ((0, 1000), (1000, 1000), (1000, 0)):
        pen.lineTo(corner)
    pen.closePath()
    square = pen.glyph()
    made = FontBuilder(1000, isTTF=True)
    made.setupGlyphOrder([".notdef", "flower"])
    made.setupCharacterMap({ord("花"): "flower"})
    made.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "flower": square})
    made.setupHorizontalMetrics({".notdef": (1000, 0), "flower": (1100, 0)})
    made.setupHorizontalHeader(ascent=1000, descent=0)
    made.setupNameTable({"familyName": "Trainyard Flower", "styleName": "Regular"})
    made.setupOS2(usWeightClass=400)
    made.setupPost()
    path = tmp_path / "flower.ttf"
    made.save(path)
    manager = font_manager.fontManager
    before = list(manager.ttflist)
    manager.addfont(str(path))
    yield "Trainyard Flower"
    manager.ttflist[:] = before
