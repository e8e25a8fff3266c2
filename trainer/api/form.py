"""Answers to a form while it is filled in: what is wrong, what would happen, what was found."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from ..errors import BadInput, Problem
from ..hosts.protocol import Host
from ..jobs.job import PENDING, Job, JobState, free_name
from ..paths import is_there
from ..settings.groups import DataSettings, OptimizerSettings, OutputSettings, TrainingSettings
from ..settings.methods import METHODS
from ..settings.schema import PARAMETERS, JobSettings, default_of, parse, second_pass_of
from ..settings.values import BadValueError
from .answers import problems_json
from .material import named_pictures, prompt_tokens, tokens
from .thumbnails import Thumbnails

Raw = Mapping[str, object]

SHOWN_PICTURES = 60
RATE_POINTS = 500
"""Of the course of the learning rate, as it is shown."""
RATE_STEPS = 100_000
"""More would keep the server busy for too long."""
STANDING = {
    JobState.RUNNING: "runs now",
    JobState.PAUSED: "is paused",
    JobState.QUEUED: "waits in the queue",
    JobState.DONE: "is saved",
}
"""Jobs that have a name, and how they are told."""
MATTERS = (
    *("method", "checkpoint", "image_size_px", "batch_size", "gradient_accumulation_steps"),
    *("base_precision", "gradient_checkpointing", "checkpointed_parts", "network", "blocks"),
)
"""What makes a step slow or fast."""


def check(raw: Raw) -> list[dict[str, str]]:
    """What is wrong with the form by itself; looks at no file."""
    try:
        parse(raw)
    except BadInput as error:
        return problems_json(error.problems)
    return []


def plan(
    raw: Raw,
    host: Host,
    thumbnails: Thumbnails,
    jobs: Sequence[Job] = (),
    taken: Collection[str] = (),
) -> dict[str, object]:
    """What the job would do, or why it cannot; and what its pictures folder holds.

    Args:
        jobs: all of the queue; the plan for the name of one that writes or wrote its file is that
            for the next name.
        taken: other names that no new job can have.
    """
    from ..training.plan import make_plan

    try:
        settings = parse(raw)
        named = _named(settings, jobs, taken)
        if named:
            settings = settings.replace(name=named.instead)
        made = make_plan(settings, host)
    except BadInput as error:
        found = problems_json(error.problems)
        return {"problems": found, "plan": None, **_material(raw, thumbnails)}
    saves = len(made.save_points)
    facts = [
        f"{made.model_title}",
        *_amounts(settings, len(made.images), len(made.views), made.steps_per_epoch),
        *([f"{saves} {'copy' if saves == 1 else 'copies'} saved on the way"] if saves else []),
        *_memory(made.estimated_mb),
    ]
    told = {
        "facts": facts,
        "file": str(made.output_file),
        "warnings": list(made.warnings),
        "cost": from_history(settings, jobs),
        "blocks": list(made.blocks),
        "named": problems_json([named])[0] if named else None,
    }
    return {"problems": [], "plan": told, **_material(raw, thumbnails)}


def _named(settings: JobSettings, jobs: Sequence[Job], taken: Collection[str]) -> Problem | None:
    """That a job of the queue has the name; to the one who just trained it, this is no fault."""
    output = settings[OutputSettings]
    name = output.name.casefold()
    same = [job for job in jobs if job.name.casefold() == name and job.state in STANDING]
    there = [job for job in same if job.state in PENDING or any(map(is_there, job.files))]
    if output.overwrite or not there:
        return None
    job = min(there, key=lambda one: list(STANDING).index(one.state))
    free = free_name(job.name, [job.name, *taken, *(one.name for one in jobs)])
    what = f"{job.name} {STANDING[job.state]}"
    return Problem("name", what, "the next one takes another name", free)


def _material(raw: Raw, thumbnails: Thumbnails) -> dict[str, object]:
    """What the form learns from: its folder, the pictures that it names, the prompts' lengths."""
    return {
        "data": pictures(raw, thumbnails),
        "named": named_pictures(raw, thumbnails),
        "tokens": prompt_tokens(raw),
    }


def measure(raw: Raw, host: Host) -> str:
    """What the job will cost, from a few steps of a throw-away network.

    Raises:
        BadInput: the job cannot be done as it stands.
        OutOfMemory: a smaller job is needed.
    """
    from ..measure import measure_step
    from ..training.plan import make_plan

    settings = parse(raw)
    cost = measure_step(settings, make_plan(settings, host), host)
    total_s = cost.seconds_per_step * settings.steps_of_all_passes
    parts = [f"{cost.seconds_per_step:.2f} s a step", f"{duration(total_s)} in all"]
    if cost.peak_mb is not None:
        parts.append(f"{cost.peak_mb / 1024:.1f} GB of memory at the peak")
    return f"Measured: {', '.join(parts)}."


def learning_rate(raw: Raw) -> list[tuple[int, float]]:
    """Step and learning rate over the pass whose network is the result, at most so many points.

    Raises:
        BadInput: the settings are wrong by themselves, the schedule refuses them, or there are
            too many steps to go through.
    """
    from ..optim.schedules import learning_rates

    last = parse(raw).passes()[-1]
    steps = last[TrainingSettings].steps
    if steps > RATE_STEPS:
        what = f"{steps} are too many to show the learning rate of each"
        raise BadInput([Problem("steps", what, f"look at it with {RATE_STEPS} or fewer")])
    rates = learning_rates(last[OptimizerSettings], steps)
    stride = -(-len(rates) // RATE_POINTS)
    kept = [*range(0, len(rates) - 1, stride), len(rates) - 1]
    return [(i + 1, rates[i]) for i in kept]


def from_history(settings: JobSettings, jobs: Sequence[Job]) -> str:
    """How long it takes if it goes as fast as the last training like it; empty without one."""
    wanted = _what_matters(settings.as_dict())
    for job in reversed(jobs):
        if _what_matters(job.settings) == wanted and job.state is JobState.DONE and job.step_s:
            about = duration(job.step_s * settings.steps_of_all_passes)
            return f"About {about} of training, as fast as {job.name} was."
    return ""


def _what_matters(settings: Mapping[str, object]) -> list[object]:
    """What makes the steps of the first pass, and of the second, slow or fast."""
    second = {**settings, **second_pass_of(settings)}
    return [one.get(name) for one in (settings, second) for name in MATTERS]


def duration(seconds: float) -> str:
    """A time for people: "40 s", "12 min", "3 h 5 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def _memory(estimated_mb: float | None) -> list[str]:
    """The estimated peak, in the words of the plan."""
    if estimated_mb is None:
        return []
    amount = f"{estimated_mb / 1024:.1f} GB" if estimated_mb >= 1024 else f"{estimated_mb:.0f} MB"
    return [f"about {amount} of memory at the peak (estimated)"]


def _amounts(settings: JobSettings, images: int, samples: int, steps_per_epoch: float) -> list[str]:
    passes = [one[TrainingSettings] for one in settings.passes()]
    facts = [" and then ".join(f"{one.steps} steps of {one.batch_size}" for one in passes)]
    if images:
        facts.insert(0, "1 picture" if images == 1 else f"{images} pictures")
        if samples != images:
            facts.insert(1, f"{samples} samples with repeats, mirrored and sub images")
    if math.isfinite(steps_per_epoch) and steps_per_epoch > 0:
        epochs = passes[-1].steps / steps_per_epoch
        facts.append(f"{epochs:.0f} epochs" if epochs >= 10 else f"{epochs:.1f} epochs")
    return facts


def pictures(raw: Raw, thumbnails: Thumbnails) -> dict[str, object] | None:
    """What lies in the folder of pictures; None where there is none to look at."""
    data = _data_settings(raw)
    if data is None or not data.images.strip():
        return None
    from ..data.folder import inspect
    from ..data.views import views

    report = inspect(data)
    frames: Counter[tuple[int, int]] = Counter()
    if report.images and not report.obstacles:
        frames.update(view.frame_px for view in views(report.images, data))
    captions = [image.caption for image in report.images]
    shown = report.images[:SHOWN_PICTURES]
    return {
        "count": len(report.images),
        "captioned": sum(1 for image in report.images if _has_own_caption(image.caption, data)),
        "longest_tokens": max(map(tokens, captions), default=0),
        "frames": [
            {"height": height, "width": width, "samples": count}
            for (height, width), count in sorted(frames.items())
        ],
        "pictures": [
            {
                "name": image.path.name,
                "caption": image.caption,
                "height": image.size_px[0],
                "width": image.size_px[1],
                "thumbnail": thumbnails.identify(image.path),
            }
            for image in shown
        ],
        "problems": problems_json([*report.obstacles, *report.problems]),
        "warnings": list(report.warnings),
    }


def _has_own_caption(caption: str, data: DataSettings) -> bool:
    return caption.strip(" ,") != data.trigger_word.strip(" ,")


def _data_settings(raw: Raw) -> DataSettings | None:
    """The data part of a form, whatever is wrong with its other parts."""
    method = raw.get("method")
    if not isinstance(method, str) or method not in METHODS:
        return None
    if not METHODS[method].uses(DataSettings):
        return None
    values: dict[str, object] = {}
    for field in dataclasses.fields(DataSettings):
        one = PARAMETERS[field.name]
        try:
            values[field.name] = one.read(raw.get(field.name, default_of(one, method)))
        except BadValueError:
            return None
    return DataSettings(**values)  # type: ignore[arg-type]
