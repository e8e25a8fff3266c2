"""What many pictures cost, measured on two and three."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trainer import cli
from trainer.cli import status


def test_a_row_for_each_number_of_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("trainer.bench.crowd.STEPS", 4)
    path = tmp_path / "rows.json"
    given = ["bench", "--pictures", "3", "--pictures", "2", "--json", str(path)]
    assert cli.main(given) == status.DONE
    rows = json.loads(path.read_text())
    assert [row["pictures"] for row in rows] == [2, 3]
    for row in rows:
        assert row["cached_s"] < 0.5 * row["encoding_s"]  # nothing is encoded twice
        assert row["step_s"] > 0
        assert row["checking_s"] > 0
    assert capsys.readouterr().out.splitlines()[-1].split()[0] == "3"


def test_no_picture_is_no_number(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "--pictures", "0"]) == status.BAD_INPUT
    assert "--pictures" in capsys.readouterr().err
