"""The demonstration: `python -m trainer.demo [--out DIR]`.

Teaches the embedded checkpoint something that it does not know, draws the same prompts before
and after, and lets the judge say what was learnt and what was lost.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from ..cli.progress import show_progress
from ..cli.status import CANCELLED
from ..control import Control
from ..evaluate.draw import contact_sheet
from ..evaluate.measures import collateral, effect
from ..hosts.standalone import StandaloneHost
from ..run import run_job
from .checkpoint import CHECKPOINT
from .drawing import drawing
from .examples import EXAMPLES, Example
from .sheet import Band, enlarged, overview

SHEET = "all.png"
STRENGTHS_SHOWN = (0.0, 0.5, 1.0)
"""A row each of the contact sheet."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m trainer.demo", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("outputs/demo"))
    parser.add_argument("--only", choices=sorted(EXAMPLES), help="one method instead of all")
    options = parser.parse_args()
    try:
        show([options.only] if options.only else list(EXAMPLES), options.out)
    except KeyboardInterrupt:
        sys.exit(CANCELLED)


def show(examples: Sequence[str], out: Path) -> None:
    """Trains and draws these examples, and writes what each has come to as soon as it is known."""
    out.mkdir(parents=True, exist_ok=True)
    host = StandaloneHost(CHECKPOINT.parent, out)
    report: dict[str, dict[str, object]] = {}
    bands = []
    for name in examples:
        report[name], band = demonstrate(EXAMPLES[name], host, out)
        bands.append(band)
        (out / "report.json").write_text(json.dumps(report, indent=2), "utf-8")
        overview(bands).save(out / SHEET)
    print(f"\n{out / SHEET} shows what was learnt, {out / 'report.json'} says it in numbers.")


def demonstrate(
    example: Example, host: StandaloneHost, out: Path
) -> tuple[dict[str, object], Band]:
    """Trains one example, writes its contact sheet; gives its rows of the report and the sheet."""
    print(f"\n{example.title}")
    settings = example.prepare(out)
    started = time.monotonic()
    with show_progress() as sink:
        outcome = run_job(settings, host, control=Control(), sink=sink)
    seconds = time.monotonic() - started
    file = out / f"{example.name}.safetensors"
    with drawing(host, settings.for_second_pass(), file) as draw:
        learnt = effect(draw, example.held_out)
        lost = collateral(draw, example.unrelated)
        prompts = [case.prompt for case in example.shown]
        seeds = [case.seed for case in example.shown]
        rows = [draw(prompts, seeds, strength) for strength in STRENGTHS_SHOWN]
    sheet = out / f"{example.name}.png"
    enlarged(contact_sheet(rows)).save(sheet)
    print(f"effect      {learnt.share:.0%} of {learnt.count} held-out prompts show it")
    print(f"before      {learnt.before:.0%}")
    print(f"collateral  {lost.share:.1%} of {lost.count} unrelated prompts are lost")
    print(f"time        {seconds:.0f} s for {outcome.steps} steps")
    print(f"pictures    {sheet}: a row each before, at strength 0.5, at strength 1")
    row: dict[str, object] = {
        "effect": learnt.share,
        "effect_before": learnt.before,
        "collateral": lost.share,
        "seconds": round(seconds, 1),
        "steps": outcome.steps,
        "file": str(file),
        "sheet": str(sheet),
    }
    scores = f"effect {learnt.share:.0%}, before {learnt.before:.0%}, lost {lost.share:.1%}"
    shown = "  |  rows: before, at strength 0.5, at strength 1"
    return row, Band((example.title, scores + f", {seconds:.0f} s" + shown), tuple(rows))


if __name__ == "__main__":
    main()
