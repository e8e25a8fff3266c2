"""What a run notes when it begins, as files of it and of former versions are read."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from trainer.settings.groups import ModelSettings
from trainer.training.beginning import Beginning, Lent, as_lent
from trainer.training.state import StateFolder
from trainer.training.unfinished import BEGINNING_FILE

WANTED = ModelSettings(checkpoint="a")
LENT = Lent(
    asked=dataclasses.asdict(WANTED),
    family="sdxl",
    clip_skip=2,
    layers=(None, 2),
    prediction_type="v_prediction",
    zero_terminal_snr=True,
    emphasis="No norm",
    comma_reach=7,
    embeddings="",
    vae="ab",
)
OLD: dict[str, Any] = {"seed": 3, "session_id": 77, "started_s": 1.5e9}


def test_it_is_read_as_it_was_noted(tmp_path: Path) -> None:
    begun = Beginning(**OLD, owner="me", lent=LENT)
    folder = StateFolder(tmp_path)
    folder.begin(begun)
    assert folder.beginning() == begun
    assert begun.lent_for(WANTED) == LENT
    settings = as_lent(WANTED, LENT)
    assert (settings.clip_skip, settings.prediction_type) == (2, "v_prediction")
    assert settings.zero_terminal_snr == "on"


def test_one_of_a_former_version_leaves_all_to_the_host() -> None:
    begun = Beginning.read(OLD)
    assert begun == Beginning(**OLD)
    assert as_lent(WANTED, begun.lent_for(WANTED)) == WANTED


def test_a_model_that_was_lent_by_other_settings_says_nothing() -> None:
    begun = Beginning(**OLD, lent=LENT)
    assert begun.lent_for(dataclasses.replace(WANTED, checkpoint="b")) is None
    former = {name: value for name, value in LENT.asked.items() if name != "vae"}
    updated = dataclasses.replace(LENT, asked={**former, "gone": 1})
    assert Beginning(**OLD, lent=updated).lent_for(WANTED) == updated


@pytest.mark.parametrize("noted", [[], {}, {**OLD, "lent": {}}, {**OLD, "lent": {"layers": 3}}, 3])
def test_what_is_none_is_passed_over(noted: object, tmp_path: Path) -> None:
    (tmp_path / BEGINNING_FILE).write_text(json.dumps(noted), "ascii")
    assert StateFolder(tmp_path).beginning() is None
