"""The estimate's table, counted on full-size models without memory, and what it adds up."""

from __future__ import annotations

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import nn

from tests.models.counting import kept_bytes
from tests.modules import FULL_UNETS
from tests.networks.small_models import full_model
from trainer.models.detect import Detection
from trainer.models.families import FAMILIES, SD1, SDXL
from trainer.networks.adapter import Size, convolves
from trainer.networks.kinds import KINDS
from trainer.networks.naming import BASE
from trainer.settings.groups import BLOCKS, NetworkSettings
from trainer.settings.schema import parse
from trainer.training.estimate import COSTS, MARGIN, _trained_weights, peak_mb

CELLS = 64
NAMES = [family.name for family in FAMILIES]


@pytest.mark.parametrize(
    ("family", "half"), [("sd1", False), ("sd1", True), ("sd2", True), ("sdxl", True)]
)
def test_what_a_step_keeps(family: str, half: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel(**FULL_UNETS[family])
    unet = unet.to(torch.bfloat16 if half else torch.float32)
    kept = kept_bytes(unet, family, CELLS, monkeypatch)
    costs = COSTS[family]
    assert kept[""] / CELLS**2 == pytest.approx(costs.kept_bytes[half], rel=0.02)
    for parts, expected in costs.kept_bytes_checkpointed.items():
        assert kept[parts] / CELLS**2 == pytest.approx(expected[half], rel=0.02)
        assert kept[parts] < 0.5 * kept[""]


@pytest.mark.parametrize("family", NAMES)
def test_weights(family: str) -> None:
    model, costs = full_model(family), COSTS[family]
    assert sum(p.numel() for p in model.unet.parameters()) == costs.unet_weights
    convolutions = (m for m in model.unet.modules() if isinstance(m, nn.Conv2d))
    plain = sum(m.weight.numel() for m in convolutions if m.stride == (1, 1))
    assert plain == costs.convolution_weights
    text = sum(p.numel() for encoder in model.text_encoders for p in encoder.parameters())
    assert text == costs.text_weights


PLAIN = ("lierla", "loha")


@pytest.mark.parametrize("family", NAMES)
@pytest.mark.parametrize("kind", [*PLAIN, "c3lier", "loha_conv"])
def test_weights_of_a_network(family: str, kind: str) -> None:
    model, costs = full_model(family), COSTS[family]
    rank, conv_rank = 2, 3
    found = {True: 0, False: 0}
    for target in model.targets(blocks=BLOCKS, convolutions=kind not in PLAIN):
        layer = target.module
        size = Size(conv_rank if convolves(layer) else rank, 1.0)
        with torch.device("meta"):
            weights = KINDS[kind].build(layer, size).weights()
        found[target.block == BASE] += sum(weight.numel() for weight in weights.values())
    wanted = {"network": kind, "rank": rank, "alpha": rank}
    if kind not in PLAIN:
        wanted |= {"conv_rank": conv_rank, "conv_alpha": conv_rank}
    for blocks, expected in ((BLOCKS[1:], found[False]), (BLOCKS, sum(found.values()))):
        settings = job(**wanted, blocks=",".join(blocks))[NetworkSettings]
        assert _trained_weights(costs, settings) == expected


def job(**changes: object):
    return parse(
        {
            "method": "ileco",
            "checkpoint": "x",
            "original_prompt": "a",
            "blocks": "M00",
            "rank": 16,
            "image_size_px": 1024,
            "batch_size": 1,
            "base_precision": "bf16",
            **changes,
        }
    )


@pytest.mark.parametrize("reorders", [True, False])
def test_what_it_adds_up(reorders: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """SDXL in bf16 at 1024 px: 4.8 GiB of weights, 0.6 of the network, 7.9 of activations.

    Where a CPU has its convolutions in its own order, 0.6 more of weights.
    """
    monkeypatch.setattr("trainer.training.estimate.reordering_pays", lambda: reorders)
    found = Detection(SDXL, SDXL.title)
    whole = peak_mb(job(), found)
    weights = 2_567_463_684 + reorders * 328_624_640
    expected = (weights * 2 + 2_659_840 * 16 * 16 + 514_800 * 128 * 128) / 2**20
    assert whole == pytest.approx(MARGIN * expected)
    assert peak_mb(job(batch_size=2), found) - whole == pytest.approx(
        MARGIN * 514_800 * 128**2 / 2**20
    )
    assert peak_mb(job(optimizer="Prodigy"), found) - whole == pytest.approx(
        MARGIN * 2_659_840 * 16 * 8 / 2**20
    )
    assert peak_mb(job(), found, [(512, 512), (512, 768)]) < whole
    some = peak_mb(job(gradient_checkpointing=True), found)
    assert peak_mb(job(gradient_checkpointing=True, checkpointed_parts="all"), found) < some
    assert some < 0.7 * whole
    assert peak_mb(job(base_precision="fp32"), found) > 1.5 * whole
    eight = MARGIN * 2_567_463_684 / 2**20
    assert whole - peak_mb(job(base_precision="fp8"), found) < eight  # a CPU keeps more in fp32


def test_a_narrow_model_takes_less() -> None:
    whole = peak_mb(job(), Detection(SD1, SD1.title))
    narrow = peak_mb(job(), Detection(SD1, SD1.title, unet_weights=859_520_964 // 16))
    assert 0.06 * whole < narrow < 0.26 * whole


def test_nobody_knows_what_a_lora_takes() -> None:
    with pytest.raises(ValueError, match="a LoRA file"):
        peak_mb(job(), Detection(None, "a LoRA file"))
