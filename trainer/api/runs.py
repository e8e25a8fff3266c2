"""The history of runs: their logs as curves, as a CSV file and as one picture."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import BadInput, Problem
from ..evaluate.fonts import fonts_for
from ..settings.names import check_name
from ..settings.values import BadValueError, shown
from ..training.csv_log import COLUMNS

SUFFIX = ".csv"
SAMPLE = re.compile(r"(\d{8})-(\d{2})\.png")
"""A sample picture's file: step, and number of its prompt; as `trainer.samples` names it."""
MOST_POINTS = 1500
"""Of a curve that is sent to a page."""
MOST_RUNS = 12
"""That are drawn over each other."""

Point = tuple[int, float, float, float]
"""Step, loss, smoothed loss, learning rate; as in `live`."""


@dataclass(frozen=True)
class RunLog:
    """The log of one run."""

    name: str
    path: Path
    changed_s: float
    """Unix time of its last row."""


def runs(log_dir: Path) -> list[RunLog]:
    """The logs in a folder, the newest first."""
    if not log_dir.is_dir():
        return []
    found = [
        RunLog(path.stem, path, path.stat().st_mtime)
        for path in log_dir.glob(f"*{SUFFIX}")
        if path.is_file() and not path.name.startswith(".")
    ]
    return sorted(found, key=lambda run: run.changed_s, reverse=True)


def log_file(log_dir: Path, name: str) -> Path:
    """The log of a run.

    Raises:
        BadInput: the name is none, leaves the folder, or there is no such log.
    """
    check_run_name(name)
    path = log_dir / f"{name}{SUFFIX}"
    if not path.is_file():
        raise BadInput([Problem("name", f"there is no log of {shown(name)}", "choose another")])
    return path


def check_run_name(name: str) -> None:
    """Checks that a run's name stays in its folder.

    Raises:
        BadInput: it does not.
    """
    try:
        check_name(name)
    except BadValueError as refused:
        raise BadInput([Problem("name", refused.what, refused.cure)]) from None


def sample_files(folder: Path) -> list[tuple[Path, int, int]]:
    """The pictures that a run drew on its way: path, step, number of the prompt."""
    if not folder.is_dir():
        return []
    names = ((path, SAMPLE.fullmatch(path.name)) for path in folder.iterdir())
    found = [(path, int(name[1]), int(name[2])) for path, name in names if name is not None]
    return sorted(found, key=lambda sample: sample[1:])


def drawn_prompt(path: Path) -> str:
    """The prompt that a sample picture was drawn from; empty where the file does not say."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path, formats=("PNG",)) as picture:
            said = picture.info.get("parameters", "")
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError):
        return ""
    return str(said).partition("\n")[0]


def curve(path: Path) -> list[Point]:
    """The points of a log; rows that cannot be read, such as a half-written last one, are left out.

    A second pass, which counts from 1 again, follows the first.

    Raises:
        BadInput: the file is no log of a training.
    """
    cure = f"choose one with the columns {', '.join(COLUMNS)}"
    points: list[Point] = []
    before = last = 0
    try:
        with path.open(newline="", encoding="utf-8", errors="replace") as file:
            rows = csv.DictReader(file)
            if not rows.fieldnames or not {"step", "loss"} <= set(rows.fieldnames):
                raise BadInput([Problem(path.name, "is no log of a training", cure)])
            for row in rows:
                point = _point(row)
                if point is None:
                    continue
                if point[0] <= last:
                    before += last
                last = point[0]
                points.append((before + last, *point[1:]))
    except (OSError, csv.Error) as error:
        raise BadInput([Problem(path.name, f"cannot be read: {error}", cure)]) from error
    return points


def thinned(points: Sequence[Point], most: int = MOST_POINTS) -> list[Point]:
    """Every so many-th point, and the last one."""
    stride = max(1, math.ceil(len(points) / most))
    kept = list(points[::stride])
    if points and kept[-1] != points[-1]:
        kept.append(points[-1])
    return kept


def picture(curves: Sequence[tuple[str, Sequence[Point]]]) -> bytes:
    """The curves over each other as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    loss, rate = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    for name, points in curves:
        steps = [point[0] for point in points]
        (line,) = loss.plot(steps, [point[2] for point in points], label=_label(name))
        loss.plot(steps, [point[1] for point in points], color=line.get_color(), alpha=0.2, lw=0.7)
        rate.plot(steps, [point[3] for point in points], color=line.get_color())
    loss.set_ylabel("loss")
    rate.set_ylabel("learning rate")
    rate.set_xlabel("step")
    for axes in (loss, rate):
        axes.grid(alpha=0.3)
    if curves:
        fonts = fonts_for("".join(name for name, _ in curves))
        loss.legend(prop={"family": [font.family for font in fonts]})
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _label(name: str) -> str:
    """A name as matplotlib shows it: not as a formula, and also where it would be passed over."""
    plain = name.replace("$", r"\$")
    return f" {plain}" if plain.startswith("_") else plain


def _point(row: dict[str, str | None]) -> Point | None:
    try:
        loss = float(row["loss"] or "")
        smoothed = float(row.get("smoothed_loss") or loss)
        rate = float(row.get("learning_rate") or "nan")
        return int(row["step"] or ""), loss, smoothed, rate
    except ValueError:
        return None
