from __future__ import annotations

import csv
import sys

import pytest

from trainer.events import PhaseStarted, StepDone
from trainer.training.csv_log import COLUMNS, CsvLog


def step(number: int, te: float | None = None) -> StepDone:
    return StepDone(number, 10, 1, 0.5 / number, 0.5, 1e-4, te, 1.5 * number, 2.0, 3.0)


def read(path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_one_row_a_step_at_once(tmp_path):
    log = CsvLog(tmp_path / "logs" / "x.csv")
    log(PhaseStarted("Training", 10))
    assert not log.path.exists()
    log(step(1))
    assert [row["step"] for row in read(log.path)] == ["1"]
    log(step(2, te=5e-5))
    first, second = read(log.path)
    assert tuple(first) == COLUMNS
    assert first["text_encoder_learning_rate"] == ""
    assert float(second["text_encoder_learning_rate"]) == 5e-5
    assert float(second["loss"]) == 0.25
    assert float(second["seconds"]) == 3.0


def test_a_new_run_replaces_and_a_resumed_one_continues(tmp_path):
    path = tmp_path / "x.csv"
    CsvLog(path)(step(1))
    CsvLog(path, goes_on=True)(step(2))
    assert [row["step"] for row in read(path)] == ["1", "2"]
    CsvLog(path)(step(1))
    assert [row["step"] for row in read(path)] == ["1"]


def test_steps_that_are_made_again_are_listed_once(tmp_path):
    path = tmp_path / "x.csv"
    log = CsvLog(path)
    for number in (1, 2, 3, 4):
        log(step(number))
    CsvLog(path, goes_on=True)(step(3))  # the last state was that of step 2
    assert [row["step"] for row in read(path)] == ["1", "2", "3"]


@pytest.mark.parametrize("died_after", [0, 1, 2])
def test_a_second_pass_that_begins_again_leaves_the_first(tmp_path, died_after):
    path = tmp_path / "x.csv"
    log = CsvLog(path)
    for number in (1, 2, 3, *range(1, died_after + 1)):
        log(step(number))
    CsvLog(path, goes_on=True)(step(1))
    assert [row["step"] for row in read(path)] == ["1", "2", "3", "1"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
def test_a_row_for_which_there_is_too_little_space_is_left_out_whole(tmp_path, caplog):
    import resource

    log = CsvLog(tmp_path / "x.csv")
    log(step(1))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (log.path.stat().st_size + 5, before[1]))
    try:
        log(step(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    log(step(3))
    assert [row["step"] for row in read(log.path)] == ["1", "3"]
    assert "cannot be written" in caplog.text
