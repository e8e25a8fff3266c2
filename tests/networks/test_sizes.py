"""Rank and alpha of single layers, from the settings to the file."""

from __future__ import annotations

import pytest

from tests.networks.small_models import Model
from trainer.errors import BadInput
from trainer.networks.build import build_network, sizes_of
from trainer.networks.kinds import KINDS
from trainer.networks.sizes import Sizes
from trainer.settings.groups import NetworkSettings
from trainer.settings.groups.network import CONVOLUTIONAL, block_values
from trainer.settings.schema import PARAMETERS, parse

JOB = {"method": "lora", "checkpoint": "model.safetensors", "images": "pictures"}
DORA = {"network": "dora_conv", "rank": 4, "alpha": 4}


def test_every_kind_can_be_chosen() -> None:
    assert PARAMETERS["network"].choices == tuple(KINDS)
    assert tuple(name for name, kind in KINDS.items() if kind.convolutions) == CONVOLUTIONAL


def test_blocks_are_named_one_by_one_or_by_a_pattern() -> None:
    assert block_values("in04=8; M00 = 2") == {"IN04": 8, "M00": 2}
    assert block_values("OUT*=32, OUT03=4") == {
        f"OUT{index:02}": 4.0 if index == 3 else 32.0 for index in range(12)
    }
    assert len(block_values("*=3")) == 26
    assert block_values(" ") == {}


def test_a_block_keeps_the_scale_unless_it_has_an_alpha() -> None:
    sizes = Sizes(16, 8.0, block_ranks={"M00": 4, "IN01": 4}, block_alphas={"IN01": 1.0})
    found = {block: sizes.of(block, convolution=False) for block in ("M00", "IN01", "OUT00")}
    assert {block: (size.rank, size.alpha) for block, size in found.items()} == {
        "M00": (4, 2.0),
        "IN01": (4, 1.0),
        "OUT00": (16, 8.0),
    }


def test_convolutions_have_their_own_size_or_their_blocks() -> None:
    own = Sizes(16, 8.0, conv_rank=2, conv_alpha=3.0, block_ranks={"M00": 4})
    inherited = Sizes(16, 8.0, block_ranks={"M00": 4})
    for sizes, expected in ((own, (2, 3.0)), (inherited, (4, 2.0))):
        size = sizes.of("M00", convolution=True)
        assert (size.rank, size.alpha) == expected


def test_the_settings_reach_every_layer(model: Model) -> None:
    wanted = NetworkSettings(
        network="c3lier", rank=4, alpha=2.0, conv_rank=3, conv_alpha=1.0, block_ranks="OUT*=6"
    )
    network = build_network(wanted, model.unet, model.text_encoders, family="sd1")
    down = {name: tensor for name, tensor in network.tensors().items() if "lora_down" in name}
    ranks = {
        target.block: {
            len(down[f"{one.name}.lora_down.weight"])
            for one in network.targets
            if one.block == target.block
        }
        for target in network.targets
    }
    assert ranks["BASE"] == {4}
    assert ranks["IN01"] == {4, 3}
    assert ranks["OUT05"] == {6, 3}


def test_the_factor_of_lokr_bounds_its_small_matrix(model: Model) -> None:
    wanted = NetworkSettings(network="lokr", rank=2, lokr_factor=4)
    network = build_network(wanted, model.unet, [], family="sd1")
    small = [t.shape for name, t in network.tensors().items() if name.endswith("lokr_w1")]
    assert {max(shape) for shape in small} == {4}
    assert sizes_of(NetworkSettings()).factor == -1


@pytest.mark.parametrize(
    ("changes", "where", "what"),
    [
        ({"block_ranks": "IN12=4"}, "block_ranks", "no block"),
        ({"block_ranks": "IN04"}, "block_ranks", "not block=number"),
        ({"block_ranks": "IN04=1.5"}, "block_ranks", "no whole number"),
        ({"block_ranks": "IN04=0"}, "block_ranks", "no whole number from 1 to 1024"),
        ({"block_alphas": "IN04=-1"}, "block_alphas", "out of bounds"),
        ({"block_ranks": "IN04=4", "blocks": "M00"}, "block_ranks", "names IN04"),
        ({"conv_rank": 4}, "conv_rank", "no effect with lierla"),
        ({"network": "loha", "conv_alpha": 4}, "conv_alpha", "no effect with loha"),
        ({"network": "c3lier", "element": "SelfAttention"}, "element", "leaves out"),
        ({"lokr_factor": 4}, "lokr_factor", "no effect with lierla"),
        ({"network": "lokr", "lokr_factor": 0}, "lokr_factor", "divides no layer"),
        ({"network": "dora"}, "alpha", "8 differs from the rank"),
        ({"network": "dora", "alpha": 16, "block_alphas": "M00=1"}, "block_alphas", "differs"),
        ({**DORA, "conv_rank": 1}, "conv_alpha", "is as alpha and differs from the rank"),
        ({**DORA, "conv_rank": 2, "conv_alpha": 4}, "conv_alpha", "4 differs from the rank"),
        ({**DORA, "conv_alpha": 2}, "conv_alpha", "2 differs from the rank"),
        ({**DORA, "conv_alpha": 4, "block_ranks": "M00=8"}, "conv_alpha", "4 differs"),
        ({**DORA, "conv_rank": 4, "block_ranks": "M00=8"}, "conv_alpha", "differs"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, object], where: str, what: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse({**JOB, **changes})
    (problem,) = caught.value.problems
    assert problem.where == where
    assert what in problem.what
    assert problem.cure


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"conv_rank": 1, "conv_alpha": 1},
        {"conv_rank": 4},
        {"conv_alpha": 4},
        {"block_ranks": "M00=8"},
        {"conv_rank": 2, "conv_alpha": 2, "block_ranks": "M00=8"},
    ],
)
def test_every_layer_of_a_dora_has_its_rank_as_alpha(changes: dict[str, object]) -> None:
    sizes = sizes_of(parse({**JOB, **DORA, **changes})[NetworkSettings])
    for block in ("M00", "OUT01"):
        for convolution in (False, True):
            size = sizes.of(block, convolution=convolution)
            assert size.alpha == size.rank
