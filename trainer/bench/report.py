"""The rows of a measurement, as a table and as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from .works import WORKS


@dataclass(frozen=True)
class Row:
    """One job on one model at one size.

    Attributes:
        seconds: of a step of ours, on the clock; `floor_seconds` and `plain_seconds` likewise.
        ratio: seconds / floor_seconds.
        busy_ratio: the same in the time that the process computed, which other programs disturb
            less; on a GPU as `ratio`.
        plain_seconds: of peft's loop; None where it is not measured.
        run_ratio: a run of 500 steps with all labels, to one that asks the frozen model at every
            step; None for a method without labels.
        peak_mb: the most that network, optimizer and step take at once, without frozen weights.
        start_steps: from the job's start to its first step, in steps, without encoding and labels.
        forward_s, backward_s, optimizer_s, data_s: the parts of one step.
    """

    work: str
    checkpoint: str
    size_px: int
    precision: str
    batch: int
    seconds: float
    floor_seconds: float
    ratio: float
    peak_mb: float
    floor_peak_mb: float
    busy_ratio: float
    plain_seconds: float | None
    run_ratio: float | None
    start_steps: float
    forward_s: float
    backward_s: float
    optimizer_s: float
    data_s: float


COLUMNS = (
    ("work", "work", "{}"),
    ("model", "checkpoint", "{}"),
    ("px", "size_px", "{}"),
    ("in", "precision", "{}"),
    ("batch", "batch", "{}"),
    ("step s", "seconds", "{:.3f}"),
    ("floor s", "floor_seconds", "{:.3f}"),
    ("ratio", "ratio", "{:.3f}"),
    ("busy", "busy_ratio", "{:.3f}"),
    ("peft s", "plain_seconds", "{:.3f}"),
    ("500 steps", "run_ratio", "{:.3f}"),
    ("peak MB", "peak_mb", "{:.0f}"),
    ("floor MB", "floor_peak_mb", "{:.0f}"),
    ("start", "start_steps", "{:.1f}"),
    ("forward", "forward_s", "{:.3f}"),
    ("backward", "backward_s", "{:.3f}"),
    ("optimizer", "optimizer_s", "{:.3f}"),
    ("data", "data_s", "{:.3f}"),
)
"""Heading, field, format."""

NOTES = """\
ratio: step / floor, the floor being the bare UNet's forward and backward from the first trained
layer on. busy: the same in computing time. 500 steps: a run with its labels, to one that asks
the frozen model at every step. peak MB: of network, optimizer and step, without frozen weights.
start: from the start to the first step, in steps, without encoding. The rest: seconds of a step."""


def table(rows: Iterable[Row]) -> str:
    """All rows as text, aligned."""
    lines = [[heading for heading, _, _ in COLUMNS], *map(cells, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(COLUMNS))]
    return "\n".join(aligned(line, widths) for line in lines)


def comparisons(rows: Sequence[Row]) -> Iterator[str]:
    """A line for each row that has another one to be compared with.

    That is the work which it names, and the same work in the precision that came first.
    """
    found = {(row.checkpoint, row.size_px, row.precision, row.work): row for row in rows}
    for row in rows:
        where = f"{row.checkpoint} {row.size_px} px"
        other = found.get((row.checkpoint, row.size_px, row.precision, WORKS[row.work].against))
        if other is not None:
            yield (
                f"{row.work} / {other.work}, {where} {row.precision}:"
                f" {row.busy_ratio / other.busy_ratio:.2f} x the computing time,"
                f" {row.peak_mb / other.peak_mb:.2f} x the peak memory"
            )
        first = found.get((row.checkpoint, row.size_px, rows[0].precision, row.work), row)
        if first is not row:
            yield (
                f"{row.work} in {row.precision} / {first.precision}, {where}:"
                f" {row.seconds / first.seconds:.2f} x the time,"
                f" {row.seconds / first.floor_seconds:.2f} x the floor in {first.precision}"
            )


def cells(row: Row) -> list[str]:
    """A row's texts; - where there is no value."""
    values = ((getattr(row, name), form) for _, name, form in COLUMNS)
    return ["-" if value is None else form.format(value) for value, form in values]


def aligned(texts: list[str], widths: list[int]) -> str:
    """The first two columns to the left, numbers to the right."""
    return "  ".join(
        text.ljust(width) if column < 2 else text.rjust(width)
        for column, (text, width) in enumerate(zip(texts, widths, strict=True))
    ).rstrip()


def as_json(rows: Iterable[Row]) -> list[dict[str, object]]:
    """The rows as JSON objects."""
    return [dataclasses.asdict(row) for row in rows]
