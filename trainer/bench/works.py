"""What is measured: a row each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from PIL import Image

from ..settings.groups import ConceptPoolSettings
from ..settings.groups.network import BLOCKS
from ..settings.schema import JobSettings, parse

UNET_BLOCKS = ",".join(block for block in BLOCKS if block != "BASE")
OUT_BLOCKS = ",".join(block for block in BLOCKS if block.startswith("OUT"))
ACTIVATIONS_PX = 256
"""From here on they take more memory than what convolutions need on the side."""
PICTURES = 4
POOL_SIZE, WHOLE_POOL = 128, ConceptPoolSettings().pool_size
"""Labels that iLECO's pool is measured on, and those of a job, which take time in proportion."""


@dataclass(frozen=True)
class Work:
    """A job that is measured."""

    name: str
    title: str
    method: str = "lora"
    values: Mapping[str, object] = field(default_factory=dict)
    passes: int = 1
    """Of the method; the last is measured."""
    against: str = ""
    """Another work that it is compared with."""
    least_px: int = 0
    """Smaller sizes would show nothing of it."""
    when_named: bool = False
    """Takes minutes before it begins, and is measured only when it is asked for."""


WORKS: dict[str, Work] = {
    work.name: work
    for work in (
        Work("lora", "LoRA, rank 16"),
        Work("lora-r128", "LoRA, rank 128", values={"rank": 128, "alpha": 128}),
        Work("lora-c3lier", "LoRA with convolutions", values={"network": "c3lier"}),
        Work("lora-loha", "LoHa", values={"network": "loha", "rank": 8, "alpha": 8}),
        Work("lora-text", "LoRA, text encoder too", values={"blocks": f"BASE,{UNET_BLOCKS}"}),
        Work("lora-out", "LoRA, OUT blocks only", values={"blocks": OUT_BLOCKS}),
        Work(
            "lora-checkpointing",
            "LoRA, gradient checkpointing",
            values={"gradient_checkpointing": True},
            against="lora",
            least_px=ACTIVATIONS_PX,
        ),
        Work(
            "lora-compiled",
            "LoRA, compiled",
            values={"torch_compile": True},
            against="lora",
            when_named=True,
        ),
        Work(
            "lora-compiled-whole",
            "LoRA, compiled as a whole",
            values={"torch_compile": True, "compiled_parts": "whole"},
            against="lora",
            when_named=True,
        ),
        Work(
            "ileco",
            "iLECO",
            "ileco",
            {"original_prompt": "a red circle", "target_prompt": "a blue circle"},
        ),
        Work(
            "difference",
            "Difference, second pass",
            "difference",
            {"second_pass": {}},
            passes=2,
        ),
        Work("addift", "ADDifT", "addift"),
    )
}


def job(
    work: Work,
    folder: Path,
    *,
    checkpoint: str,
    size_px: int,
    batch: int,
    steps: int,
    precision: str,
    pictures: int = PICTURES,
) -> JobSettings:
    """The job's settings; the pictures that it asks for are written into `folder`."""
    values: dict[str, object] = {
        "method": work.method,
        "checkpoint": checkpoint,
        "base_precision": precision,
        "name": work.name,
        "image_size_px": size_px,
        "batch_size": batch,
        "steps": steps,
        "seed": 1,
        "rank": 16,
        "alpha": 16,
        "blocks": UNET_BLOCKS,
        "save_preview": False,
        **work.values,
    }
    if work.passes == 2:
        values |= {"steps": 1, "second_pass": {"steps": steps}}
    paths = _pictures(folder, size_px, pictures)
    if work.method == "lora":
        values |= {"images": str(folder), "bucket_step_px": 0}
    elif work.method == "ileco":
        values["pool_size"] = POOL_SIZE
    else:
        before, after, *_ = map(str, paths)
        values |= {"original_image": before, "target_image": after, "bucket_step_px": 0}
    return parse(values)


def _pictures(folder: Path, size_px: int, count: int) -> list[Path]:
    """Captioned pictures of noise."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number}.png" for number in range(count)]
    for number, path in enumerate(paths):
        generator = torch.Generator().manual_seed(number)
        pixels = torch.randint(0, 256, (size_px, size_px, 3), generator=generator)
        Image.fromarray(pixels.to(torch.uint8).numpy()).save(path)
        path.with_suffix(".txt").write_text(f"picture {number}", "utf-8")
    return paths
