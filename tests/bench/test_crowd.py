"""What many pictures cost, measured on two and three."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from trainer import cli
from trainer.cli import status
from trainer.models.model import DiffusionModel


def test_a_row_for_each_number_of_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("trainer.bench.crowd.STEPS", 4)
    encoded, encode = [], DiffusionModel.encode_pixels

    def counted(self: DiffusionModel, pixels: torch.Tensor) -> torch.Tensor:
        encoded.append(len(pixels))
        return encode(self, pixels)

    monkeypatch.setattr(DiffusionModel, "encode_pixels", counted)
    path = tmp_path / "rows.json"
    given = ["bench", "--pictures", "3", "--pictures", "2", "--json", str(path)]
    assert cli.main(given) == status.DONE
    rows = json.loads(path.read_text())
    assert [row["pictures"] for row in rows] == [2, 3]
    assert sum(encoded) == 2 + 3  # the second run of each finds them in the cache
    for row in rows:
        assert min(row["encoding_s"], row["cached_s"], row["step_s"], row["checking_s"]) > 0
    assert capsys.readouterr().out.splitlines()[-1].split()[0] == "3"


def test_no_picture_is_no_number(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "--pictures", "0"]) == status.BAD_INPUT
    assert "--pictures" in capsys.readouterr().err
