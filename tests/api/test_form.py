from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("fastapi")
from trainer.api.form import from_history
from trainer.jobs.job import Job, JobState, Progress
from trainer.settings.schema import parse

SETTINGS = parse({"method": "lora", "checkpoint": "a", "images": "b", "steps": 300})
WHOLE = Job(
    id=1,
    name="whole",
    method="lora",
    settings=SETTINGS.as_dict(),
    state=JobState.DONE,
    progress=Progress("Training", 100, 100),
    started_s=1000.0,
    finished_s=2000.0,
    step_s=2.0,
)


def test_the_time_is_that_of_the_last_training_like_it() -> None:
    assert from_history(SETTINGS, [WHOLE]) == "About 10 min of training, as fast as whole was."
    assert from_history(SETTINGS, []) == ""


def test_one_without_steps_of_its_own_tells_no_time() -> None:
    second = replace(WHOLE, id=2, name="on", resume=True, step_s=None)
    assert "as fast as whole was" in from_history(SETTINGS, [WHOLE, second])


def test_the_steps_of_every_pass_take_time() -> None:
    pair = {"method": "difference", "checkpoint": "a", "original_image": "b", "target_image": "c"}
    settings = parse({**pair, "steps": 30, "second_pass": {"steps": 270}})
    job = replace(WHOLE, method="difference", settings=settings.as_dict())
    assert from_history(settings, [job]).startswith("About 10 min ")
    larger = settings.replace(**{"second_pass.batch_size": 8})
    assert from_history(larger, [job]) == ""
