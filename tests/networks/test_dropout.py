"""What is left out of a batch, and where nothing is left out."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.networks.small_models import Model, small_model, trained
from tests.networks.test_kinds import WITH_CONVOLUTIONS
from trainer.networks.adapter import Size
from trainer.networks.dropout import Dropout, Mask
from trainer.networks.lora import build

PROBABILITY = 0.3
ALL = Dropout(0.2, 0.2, 0.2)


def test_values_are_dropped_and_the_others_make_up_for_them() -> None:
    """Within four standard deviations of a binomial distribution."""
    thinned = Mask(Dropout(network=PROBABILITY), seed=1, whole=False).thin(torch.ones(100, 200))
    dropped = int((thinned == 0).sum())
    count = thinned.numel()
    deviation = (count * PROBABILITY * (1 - PROBABILITY)) ** 0.5
    assert abs(dropped - count * PROBABILITY) < 4 * deviation
    assert thinned[thinned != 0].unique().tolist() == pytest.approx([1 / (1 - PROBABILITY)])


@pytest.mark.parametrize("axis", [-1, 1])
def test_ranks_are_dropped_as_a_whole(axis: int) -> None:
    mask = Mask(Dropout(rank=PROBABILITY), seed=2, whole=False)
    thinned = mask.thin_ranks(torch.ones(3, 50, 50), axis)
    flat = thinned.movedim(axis, -1).reshape(-1, 50)
    assert all(torch.equal(row, flat[0]) for row in flat)
    assert 0 < int((flat[0] == 0).sum()) < 50


def test_a_dropped_rank_is_a_lora_without_it() -> None:
    """Output and gradients are those of the ranks that stay, divided by 1 - p."""
    torch.manual_seed(0)
    layer, x = nn.Linear(6, 5).requires_grad_(False), torch.randn(4, 6)
    adapter = build(layer, Size(8, 8.0))
    adapter.up.data.normal_()
    adapter.mask = Mask(Dropout(rank=0.5), seed=3, whole=False)
    found = adapter(x, layer(x))
    stays = adapter.mask.thin_ranks(torch.ones(8)) > 0
    assert 0 < stays.sum() < 8
    product = adapter.up[:, stays] @ adapter.down[stays]
    torch.testing.assert_close(found, layer(x) + 2 * x @ product.T)
    found.sum().backward()
    assert not adapter.down.grad[~stays].any()
    assert adapter.down.grad[stays].any()


@pytest.mark.parametrize("kind", WITH_CONVOLUTIONS)
@pytest.mark.parametrize(
    "dropout", [Dropout(network=0.5), Dropout(rank=0.5), Dropout(module=0.5)], ids=str
)
def test_every_kind_drops_in_a_batch_and_nowhere_else(kind: str, dropout: Dropout) -> None:
    model = small_model("sd1")
    network = trained(model.network(kind, dropout=dropout))
    with network:
        whole = model.noise_pred()
        network.draw_dropout("1")
        thinned = model.noise_pred()
        assert not torch.equal(thinned, whole)
        assert torch.equal(model.noise_pred(), thinned), "the same within a batch"
        with network.at(1.0):
            assert torch.equal(model.noise_pred(), whole), "previews see it whole"
        assert torch.equal(model.noise_pred(), thinned)
        network.draw_dropout("2")
        assert not torch.equal(model.noise_pred(), thinned)
        network.draw_dropout("1")
        assert torch.equal(model.noise_pred(), thinned)
        network.end_dropout()
        assert torch.equal(model.noise_pred(), whole)


def test_without_dropout_nothing_is_drawn(model: Model) -> None:
    network = trained(model.network())
    network.draw_dropout("1")
    assert all(adapter.mask is None for adapter in network.adapters.values())


def test_a_module_that_is_dropped_adds_nothing(model: Model) -> None:
    network = trained(model.network(dropout=Dropout(module=0.999999)))
    bare = model.noise_pred()
    network.draw_dropout("1")
    for adapter in network.adapters.values():
        adapter.mask = replace(adapter.mask, whole=True)  # also the one that stays
    with network:
        assert torch.equal(model.noise_pred(), bare)


def test_one_module_at_least_stays_so_that_every_batch_has_a_gradient(model: Model) -> None:
    network = trained(model.network(dropout=Dropout(module=0.999999)))
    stays = set()
    for seed in range(20):
        network.draw_dropout(str(seed))
        (kept,) = (n for n, adapter in network.adapters.items() if not adapter.mask.whole)
        stays.add(kept)
    assert len(stays) > 10, "not always the same"


@pytest.mark.parametrize("kind", ["lierla", "loha_conv"])
def test_checkpointing_repeats_what_was_dropped(kind: str) -> None:
    model = small_model("sd1")
    network = trained(model.network(kind, dropout=ALL))
    network.draw_dropout("1")
    gradients = []
    for checkpointing in (False, True):
        model.unet.train(checkpointing)
        if checkpointing:
            model.unet.enable_gradient_checkpointing()
        network.zero_grad()
        with network:
            model.noise_pred(requires_grad=True).square().mean().backward()
        gradients.append([w.grad for w in network.unet_parameters() if w.grad is not None])
    for plain, repeated in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, repeated)
