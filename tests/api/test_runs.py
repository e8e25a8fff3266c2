from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import pytest

from trainer.api.run_routes import _download
from trainer.api.runs import curve, log_file, picture, runs, thinned
from trainer.errors import BadInput
from trainer.events import StepDone
from trainer.training.csv_log import CsvLog


def write(path: Path, steps: int) -> None:
    log = CsvLog(path)
    for n in range(1, steps + 1):
        log(StepDone(n, steps, 1, 1 / n, 2 / n, 1e-4 * n, None, 1.0, 1.0, 0.0))


def test_a_log_is_read_back(tmp_path: Path) -> None:
    write(tmp_path / "hat.csv", 3)
    points = curve(tmp_path / "hat.csv")
    assert [point[0] for point in points] == [1, 2, 3]
    assert points[1] == pytest.approx((2, 0.5, 1.0, 2e-4))
    assert [run.name for run in runs(tmp_path)] == ["hat"]


def test_a_second_pass_follows_the_first(tmp_path: Path) -> None:
    path = tmp_path / "pair.csv"
    write(path, 3)
    second = CsvLog(tmp_path / "second.csv")
    for n in (1, 2):
        second(StepDone(n, 2, 1, 9 / n, 9.0, 1e-5, None, 1.0, 1.0, 0.0))
    with path.open("a", newline="") as file:
        file.write("".join((tmp_path / "second.csv").read_text().splitlines(True)[1:]))
    assert [point[:2] for point in curve(path)][3:] == [(4, 9.0), (5, 4.5)]


def test_a_half_written_row_and_a_log_of_another_tool(tmp_path: Path) -> None:
    path = tmp_path / "hat.csv"
    write(path, 2)
    with path.open("a") as file:
        file.write("3,0.")
    assert len(curve(path)) == 3, "0. is a number; the row lacks only what may be missing"
    path.write_text("step,loss\n1,0.25\n2\n,1\n3,nan\n", "utf-8")
    points = curve(path)
    assert points[0][:3] == (1, 0.25, 0.25)
    assert math.isnan(points[1][1])
    path.write_text("name,value\na,1\n", "utf-8")
    with pytest.raises(BadInput, match="no log of a training"):
        curve(path)


def test_only_logs_of_the_folder_can_be_named(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    write(tmp_path / "secret.csv", 1)
    for name in ("../secret", "/etc/passwd", "", "..", "a/b", "absent"):
        with pytest.raises(BadInput):
            log_file(tmp_path / "logs", name)


def test_thinning_keeps_both_ends() -> None:
    points = [(n, 1.0, 1.0, 1.0) for n in range(1, 10_001)]
    kept = thinned(points, most=100)
    assert len(kept) <= 101
    assert (kept[0][0], kept[-1][0]) == (1, 10_000)
    assert thinned([]) == []


def test_the_picture_is_a_png(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    write(tmp_path / "hat.csv", 5)
    drawn = picture([("hat", curve(tmp_path / "hat.csv")), ("coat", [])])
    assert drawn.startswith(b"\x89PNG\r\n")


def test_names_are_no_formulas(monkeypatch: pytest.MonkeyPatch) -> None:
    legend = pytest.importorskip("matplotlib.legend").Legend
    shown = []
    draw = legend.draw

    def look(self: Any, *given: Any) -> None:
        shown.extend(text.get_text() for text in self.get_texts())
        draw(self, *given)

    monkeypatch.setattr(legend, "draw", look)
    points = [(1, 1.0, 1.0, 1.0), (2, 1.0, 1.0, 1.0)]
    picture([("cash$_$", points), ("_hat", points)])
    assert [text.strip().replace("\\", "") for text in shown[:2]] == ["cash$_$", "_hat"]


def test_a_name_is_drawn_in_its_own_script(flower_font: str) -> None:
    points = [(1, 1.0, 1.0, 1.0), (2, 1.0, 1.0, 1.0)]
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Glyph")  # which matplotlib says of a letter it lacks
        picture([("花", points)])


def test_what_is_downloaded_has_its_own_name() -> None:
    header = _download(b"", "text/csv", "雪 hat.csv").headers["content-disposition"]
    assert header == "attachment; filename=\"_ hat.csv\"; filename*=UTF-8''%E9%9B%AA%20hat.csv"
