"""`bench`: speed and quality, measured."""

from __future__ import annotations

import argparse
import json
from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path

from ..errors import BadInput, Problem
from ..events import Notice
from .job_files import changed
from .status import DONE


def add_options(bench: argparse.ArgumentParser) -> None:
    bench.add_argument("--only", action="append", default=[], help="a work or task; several times")
    bench.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    speed = bench.add_argument_group("speed")
    speed.add_argument("--checkpoint", choices=("world", "full"), help="one of the two models only")
    speed.add_argument("--size", type=int, action="append", help="side in px; several times")
    speed.add_argument("--batch", type=int, default=1)
    speed.add_argument("--rounds", type=int, default=5, help="steps of each that are counted")
    speed.add_argument(
        "--precision",
        action="append",
        choices=("fp32", "bf16", "fp16"),
        help="of the frozen model; fp32 if not given; several times",
    )
    speed.add_argument("--threads", type=int, help="of the CPU; torch's choice if not given")
    speed.add_argument("--device", help="cpu, cuda, cuda:1, ...; the GPU if there is one")
    speed.add_argument(
        "--pictures",
        metavar="N",
        type=int,
        action="append",
        default=[],
        help="what a folder of so many pictures costs instead; several times",
    )
    quality = bench.add_argument_group("quality")
    quality.add_argument(
        "--quality",
        action="store_true",
        help="effect, collateral, slider and time to effect of every method instead",
    )
    quality.add_argument("--seeds", type=int, default=5, help="trainings of each task")
    quality.add_argument("--cases", type=int, default=40, help="pictures that judge a training")
    quality.add_argument(
        "--strength",
        type=float,
        action="append",
        default=[],
        help="judge them at this strength too: effect against collateral; several times",
    )
    quality.add_argument("--out", type=Path, default=Path("outputs/bench"), help="files and rows")
    quality.add_argument(
        "--set",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="change a parameter of every task; may be given several times",
    )


def bench(options: argparse.Namespace) -> int:
    if options.quality:
        return _bench_quality(options)
    return _bench_pictures(options) if options.pictures else _bench_speed(options)


def _bench_speed(options: argparse.Namespace) -> int:
    import torch

    from ..bench.report import NOTES, as_json, comparisons, table
    from ..bench.run import SIZES_PX, Setup, measure_all
    from ..bench.works import WORKS

    _check_only(options.only, WORKS)
    if options.threads:
        torch.set_num_threads(options.threads)
    setup = Setup(
        torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu")),
        precisions=tuple(options.precision or ["fp32"]),
        batch=options.batch,
        rounds=options.rounds,
        sink=lambda event: print(event.text, flush=True) if isinstance(event, Notice) else None,
    )
    rows = []
    usual = [work.name for work in WORKS.values() if not work.when_named]
    names = [options.checkpoint] if options.checkpoint else list(SIZES_PX)
    for row in measure_all(
        options.only or usual, [(name, options.size or SIZES_PX[name]) for name in names], setup
    ):
        rows.append(row)
        where = f"{row.checkpoint} {row.size_px} px {row.precision}"
        print(f"{where} {row.work}: {row.ratio:.3f}", flush=True)
        if options.json:
            options.json.write_text(json.dumps(as_json(rows), indent=1), "utf-8")
    print("\n".join([table(rows), *comparisons(rows), NOTES]))
    return DONE


def _bench_pictures(options: argparse.Namespace) -> int:
    import torch

    from ..bench.crowd import crowd_table, measure_crowds

    if min(options.pictures) < 1:
        raise BadInput([Problem("--pictures", "is less than 1", "give a number of pictures")])
    if options.threads:
        torch.set_num_threads(options.threads)
    rows = []
    for row in measure_crowds(options.pictures):
        rows.append(row)
        print(f"{row.pictures} pictures: {row.encoding_s:.1f} s of encoding", flush=True)
        if options.json:
            options.json.write_text(json.dumps([asdict(one) for one in rows], indent=1), "utf-8")
    print(crowd_table(rows))
    return DONE


def _bench_quality(options: argparse.Namespace) -> int:
    from ..demo.checkpoint import CHECKPOINT
    from ..demo.quality import baselines
    from ..demo.quality_report import measure_all, table
    from ..demo.tasks import TASKS

    _check_only(options.only, TASKS)
    results = measure_all(
        [TASKS[name] for name in options.only or TASKS],
        CHECKPOINT,
        options.out,
        seeds=range(1, options.seeds + 1),
        peers=baselines(),
        changes=changed(options.set),
        cases=options.cases,
        strengths=options.strength,
        json_file=options.json,
        show=lambda line: print(line, flush=True),
    )
    print(table(results))
    return DONE


def _check_only(given: Sequence[str], known: Collection[str]) -> None:
    """Raises: BadInput: a name is not known."""
    unknown = [name for name in given if name not in known]
    if unknown:
        cure = f"known: {', '.join(known)}"
        raise BadInput([Problem("--only", f"there is no {name}", cure) for name in unknown])
