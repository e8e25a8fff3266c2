"""The run of `python -m trainer bench --quality`, and its results in words and in rows."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from ..evaluate.measures import Dose
from .quality import Kept, Peer, Result, measure
from .task import CASES, Task


def measure_all(
    tasks: Sequence[Task],
    checkpoint: Path,
    out: Path,
    *,
    seeds: Sequence[int],
    peers: Mapping[str, Peer],
    changes: Mapping[str, object],
    cases: int = CASES,
    strengths: Sequence[float] = (),
    json_file: Path | None,
    show: Callable[[str], None],
) -> list[Result]:
    """Every task with every seed, and beside it the peer's way where there is one.

    Args:
        peers: by method.
        changes: settings for Trainyard's own trainings.
        cases: as in `measure`.
        strengths: as in `measure`.
        json_file: is rewritten after every training.
        show: is told each result in words.
    """
    kept: Kept = {}
    results: list[Result] = []
    for task in tasks:
        for seed in seeds:
            judge = partial(measure, cases=cases, strengths=strengths)
            runs = [judge(task, checkpoint, out, seed, kept, changes=changes)]
            if task.method in peers:
                peer = peers[task.method]
                runs.append(
                    judge(
                        *(task, checkpoint, out / "peer", seed, kept),
                        who=peer.name,
                        method=peer.train,
                        changes={**peer.settings, **task.one_prompt},
                    )
                )
            for result in runs:
                results.append(result)
                show(words(result))
            if json_file is not None:
                json_file.parent.mkdir(parents=True, exist_ok=True)
                rows = [as_json(result) for result in results]
                json_file.write_text(json.dumps(rows, indent=1), "utf-8")
    return results


def words(result: Result) -> str:
    """One training in a line."""
    reached = result.reached
    in_time = f"{reached.seconds:.1f} s, step {reached.step}" if reached else "never"
    parts = [
        f"{result.task} {result.who} seed {result.seed}: effect {result.effect:.1%}"
        f" (before {result.effect_before:.1%}, at best {_share(result.effect_at_best)}),"
        f" lost {result.collateral:.1%}, change {result.change:.3f}",
        f"{result.seconds:.1f} s, {result.passes} passes; 90 % / 5 %: {in_time}",
    ]
    if result.removal is not None:
        parts.append(f"removed at -1 {result.removal:.1%}")
    if result.slider is not None:
        parts.append("slider " + " ".join(f"{mean:.3f}" for mean in result.slider))
    parts.append(
        "course " + " ".join(f"{p.step}:{p.effect:.0%}/{p.collateral:.0%}" for p in result.course)
    )
    if result.doses:
        parts.append("strength " + " ".join(map(_dose, result.doses)))
    return "\n    ".join(parts)


def _share(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _dose(dose: Dose) -> str:
    """Effect, collateral, and removal at the same strength below 0."""
    shares = (dose.effect, dose.collateral, dose.removal)
    return f"{dose.strength:g}:" + "/".join(f"{one:.0%}" for one in shares if one is not None)


def table(results: Sequence[Result]) -> str:
    """Median and worst of each task, one row each; then what other strengths did."""
    head = "effect (worst)  at best    lost (worst)  change  removed (worst)  slider"
    rows = [f"{'task':15} {'by':10} seeds  {head}  seconds  passes  to effect"]
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.task, result.who), []).append(result)
    rows += [_row(f"{task:15} {who:10}", some) for (task, who), some in groups.items()]
    for (task, who), some in groups.items():
        at_each = zip(*(one.doses for one in some), strict=True)
        curve = "  ".join(_dose(_median(alike)) for alike in at_each)
        if curve:
            rows.append(f"{task:15} {who:10} by strength, median: {curve}")
    return "\n".join(rows)


def _row(name: str, some: Sequence[Result]) -> str:
    effects, lost = [one.effect for one in some], [one.collateral for one in some]
    removal = [one.removal for one in some if one.removal is not None]
    removed = f"{statistics.median(removal):.1%} ({min(removal):.1%})" if removal else "-"
    sliders = [one.monotone for one in some if one.slider is not None]
    times = [point.seconds for one in some if (point := one.reached) is not None]
    in_time = f"{statistics.median(times):.1f} s" if times else "never"
    if 0 < len(times) < len(some):
        in_time += f" ({len(times)} of {len(some)})"
    return (
        f"{name} {len(some):5}"
        f"  {statistics.median(effects):6.1%} ({min(effects):6.1%})"
        f"  {_share(some[0].effect_at_best):>7}"
        f"  {statistics.median(lost):6.1%} ({max(lost):5.1%})"
        f"  {statistics.median(one.change for one in some):6.3f}"
        f"  {removed:>15}"
        f"  {f'{sum(sliders)}/{len(sliders)}' if sliders else '-':>6}"
        f"  {statistics.median(one.seconds for one in some):7.1f}"
        f"  {round(statistics.median(one.passes for one in some)):6}  {in_time}"
    )


def _median(alike: Sequence[Dose]) -> Dose:
    """Of several trainings at one strength."""
    removal = [one.removal for one in alike if one.removal is not None]
    return Dose(
        alike[0].strength,
        statistics.median(one.effect for one in alike),
        statistics.median(one.collateral for one in alike),
        statistics.median(removal) if removal else None,
    )


def as_json(result: Result) -> dict[str, object]:
    """A result for a file."""
    row = asdict(result)
    reached = result.reached
    row["to_effect"] = asdict(reached) if reached else None
    return row
