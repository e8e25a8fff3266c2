"""The measuring on a tiny checkpoint: who takes part, how often, and what a row says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from trainer import cli
from trainer.bench import run as bench
from trainer.bench.clock import MB, PeakMemory
from trainer.bench.report import Row, as_json, table
from trainer.bench.rivals import Floor, plain_unet, same_weights
from trainer.bench.run import Place, Setup, measure
from trainer.bench.works import WORKS
from trainer.cli import status
from trainer.hosts.standalone import StandaloneHost
from trainer.models.model import DiffusionModel
from trainer.networks.network import Network
from trainer.networks.sizes import Sizes
from trainer.networks.targets import find_targets
from trainer.settings.groups import ModelSettings
from trainer.settings.groups.network import BLOCKS

CPU = torch.device("cpu")
ASKED_FOR = {"work", "checkpoint", "size_px", "batch", "seconds", "floor_seconds", "ratio"}


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> DiffusionModel:
    host = StandaloneHost(tiny_checkpoint.parent, tmp_path_factory.mktemp("out"), "cpu")
    with host.borrow(ModelSettings(checkpoint=str(tiny_checkpoint))) as model:
        return model


def network(model: DiffusionModel, blocks: tuple[str, ...] = BLOCKS[1:]) -> Network:
    targets = find_targets(model.unet, model.text_encoders, family="sd1", blocks=blocks)
    return Network(targets, "lierla", Sizes(2, 2.0))


@pytest.mark.parametrize("work", ["lora", "lora-text", "lora-checkpointing", "ileco", "difference"])
def test_a_row_holds_every_figure(model, work, monkeypatch):
    monkeypatch.setattr("trainer.bench.works.POOL_SIZE", 4)
    place = Place("tiny", "fp32", 64)
    row = measure(WORKS[work], model, plain_unet(model.unet), place, Setup(CPU, rounds=1))
    assert ASKED_FOR | {"peak_mb"} <= set(as_json([row])[0])
    assert (row.work, row.checkpoint, row.size_px, row.batch) == (work, "tiny", 64, 1)
    assert row.ratio == row.seconds / row.floor_seconds
    assert row.peak_mb > row.floor_peak_mb * (work != "lora-checkpointing") > -1
    assert (row.run_ratio is not None) == (work == "ileco")
    for seconds in (row.forward_s, row.backward_s, row.optimizer_s):
        assert seconds > 0
    assert work in table([row])


def test_the_command_prints_and_writes_rows(model, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(bench.MODELS, "world", lambda device, precision: model)
    path = tmp_path / "rows.json"
    given = ["--checkpoint", "world", "--only", "addift", "--rounds", "1", "--device", "cpu"]
    assert cli.main(["bench", *given, "--json", str(path)]) == status.DONE
    (row,) = json.loads(path.read_text())
    assert (row["work"], row["precision"]) == ("addift", "fp32")
    assert "busy" in capsys.readouterr().out


def test_precisions_are_compared(tiny_checkpoint, tmp_path, monkeypatch, capsys):
    host = StandaloneHost(tiny_checkpoint.parent, tmp_path, "cpu")

    def borrowed(device: torch.device, precision: str) -> DiffusionModel:
        settings = ModelSettings(checkpoint=str(tiny_checkpoint), base_precision=precision)
        with host.borrow(settings) as model:
            return model

    monkeypatch.setitem(bench.MODELS, "world", borrowed)
    given = ["--checkpoint", "world", "--only", "lora", "--rounds", "1", "--device", "cpu"]
    assert cli.main(["bench", *given, "--precision", "fp32", "--precision", "bf16"]) == status.DONE
    out = capsys.readouterr().out
    assert "world 64 px fp32 lora: " in out
    assert "world 64 px bf16 lora: " in out
    (compared,) = (line for line in out.splitlines() if line.startswith("lora in bf16 / fp32, "))
    assert "x the floor in fp32" in compared


def test_the_rivals_have_torchs_own_convolutions(model):
    plain, own = plain_unet(model.unet), model.unet
    assert type(own.conv_in) is not torch.nn.Conv2d
    assert type(plain.conv_in) is torch.nn.Conv2d
    assert plain.conv_in.weight.is_contiguous()
    # where the deepest layers have a single cell, a norm may divide by nearly nothing
    noise = torch.Generator().manual_seed(0)
    latents, told = torch.randn(1, 4, 16, 16, generator=noise), model.encode_prompts([""])
    with torch.no_grad():
        found, expected = (unet(latents, 500, told.context)[0] for unet in (plain, own))
    # by the order in which a processor adds up, which its layout of the weights decides
    assert (found - expected).norm() < 1e-4 * expected.norm()


def test_checkpointing_is_compared_with_a_plain_step_where_activations_count(
    model, monkeypatch, capsys
):
    monkeypatch.setitem(bench.MODELS, "world", lambda device, precision: model)
    given = ["--checkpoint", "world", "--only", "lora-checkpointing", "--rounds", "1"]
    assert cli.main(["bench", *given, "--size", "64", "--size", "128", "--device", "cpu"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    measured = [line[:2] for line in lines if line[1:3] == ["world", "256"]]
    assert measured == [["lora", "world"], ["lora-checkpointing", "world"]]
    (compared,) = (line for line in lines if line[:3] == ["lora-checkpointing", "/", "lora,"])
    assert compared[3:5] == ["world", "256"]
    assert float(compared[7]) > 0  # x the computing time
    assert 0.1 < float(compared[12]) < 0.9  # x the peak memory


@pytest.mark.parametrize(("given", "compiles"), [([], False), (["--only", "lora-compiled"], True)])
def test_what_takes_minutes_to_begin_is_measured_only_when_named(monkeypatch, given, compiles):
    asked = []
    monkeypatch.setattr(bench, "measure_all", lambda works, *_: asked.extend(works) or [])
    assert cli.main(["bench", *given]) == 0
    assert ("lora-compiled" in asked) is compiles


def test_a_work_that_is_unknown_is_refused(capsys):
    assert cli.main(["bench", "--only", "lorra"]) == status.BAD_INPUT
    assert "there is no lorra" in capsys.readouterr().err


def test_the_floor_shares_the_weights_and_nothing_else(model):
    trained = network(model)
    with trained:
        copied = same_weights(model.unet)
    assert all(a is b for a, b in zip(model.unet.parameters(), copied.parameters(), strict=True))
    assert not any(part._forward_hooks or "forward" in vars(part) for part in copied.modules())


@pytest.mark.parametrize(
    ("blocks", "kept"), [(BLOCKS[1:], True), (("OUT11",), False), (("BASE", *BLOCKS[1:]), True)]
)
def test_the_floors_graph_begins_at_the_first_trained_layer(model, blocks, kept):
    floor = Floor(model, model.unet, network(model, blocks), torch.randn(1, 4, 8, 8))
    first = floor._model.unet.down_blocks[0].attentions[0].transformer_blocks[0].ff.net[2]
    outputs = []
    first.register_forward_hook(lambda _layer, _inputs, output: outputs.append(output))
    floor.step()
    assert outputs[0].requires_grad == kept
    assert all(parameter.grad is None for parameter in floor._model.unet.parameters())


def test_peak_memory_is_what_was_held_at_once():
    memory = PeakMemory(CPU)
    memory.start()
    first = torch.zeros(MB)  # 4 MB
    second = torch.ones(MB)
    del first
    third = torch.ones(MB // 2)
    peak = memory.stop()
    assert peak == pytest.approx(8, abs=0.5)
    assert second[0] == third[0]


def test_a_table_has_a_line_for_each_row_and_a_mark_for_what_is_missing():
    row = Row("a", "b", 64, "fp32", 1, 1.0, 2.0, 0.5, 3, 4, None, None, None, 0.1, 1, 1, 1, 1)
    lines = table([row, row]).splitlines()
    assert len(lines) == 3
    assert lines[1].split()[:9] == ["a", "b", "64", "fp32", "1", "1.000", "2.000", "0.500", "-"]
