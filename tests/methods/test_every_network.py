"""What holds for every kind of network, trained by a method."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from trainer.events import Event, StepDone
from trainer.networks import kohya
from trainer.networks.kinds import KINDS
from trainer.networks.network import Network
from trainer.training.loop import Outcome

Run = Callable[..., tuple[Path, Outcome, list[Event]]]


@pytest.mark.parametrize("kind", list(KINDS))
def test_it_trains_and_goes_on_from_its_file(kind: str, run: Run) -> None:
    """Two steps and two more; at a learning rate of nearly 0 the file is the same again."""
    sizes = {"network": kind, "blocks": "BASE,IN01,OUT05", "steps": 2, "lr_scheduler": "constant"}
    file, outcome, events = run("lora", name="first", learning_rate=1e-2, **sizes)
    losses = [event.loss for event in events if isinstance(event, StepDone)]
    assert (outcome.steps, len(losses)) == (2, 2)
    assert all(map(math.isfinite, losses))
    first, metadata = kohya.load(file)
    assert metadata["ss_network_module"] == KINDS[kind].module
    again, _, _ = run("lora", name="again", learning_rate=1e-9, resume_from=str(file), **sizes)
    second, _ = kohya.load(again)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=0, atol=1e-7)
    names = {key.partition(".")[2] for key in first} - {"alpha"}
    assert names <= set(KINDS[kind].tensor_names)


@pytest.mark.parametrize(
    ("kind", "precision"),
    [
        ("c3lier", "int8"),
        ("loha_conv", "bf16"),
        ("lokr_conv", "int8"),
        ("dora_conv", "bf16"),
        ("dora_conv", "int8"),
    ],
)
def test_it_trains_in_less_than_full_precision(kind: str, precision: str, run: Run) -> None:
    file, _, events = run(
        "lora", network=kind, blocks="IN01,OUT05", steps=2, base_precision=precision
    )
    assert all(math.isfinite(event.loss) for event in events if isinstance(event, StepDone))
    tensors, _ = kohya.load(file)
    assert all(torch.isfinite(tensor).all() for tensor in tensors.values())


def test_a_copier_is_whole_while_the_difference_is_trained(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Network] = []
    draw = Network.draw_dropout

    def note(network: Network, seed: str) -> None:
        draw(network, seed)
        if not drawn or drawn[-1] is not network:
            drawn.append(network)
        for other in drawn[:-1]:
            assert all(adapter.mask is None for adapter in other.adapters.values())

    monkeypatch.setattr(Network, "draw_dropout", note)
    run("difference", module_dropout=0.5)
    copier, difference = drawn
    assert copier is not difference
    assert all(adapter.mask is None for adapter in difference.adapters.values())
