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
    trained_s=200.0,
)


def test_the_time_is_that_of_the_last_training_like_it() -> None:
    assert from_history(SETTINGS, [WHOLE]) == "About 10 min of training, as fast as whole was."
    assert from_history(SETTINGS, []) == ""


def test_a_job_that_went_on_does_not_tell_how_long_its_steps_took() -> None:
    second = replace(WHOLE, id=2, name="on", resume=True, trained_s=10.0)
    assert (
        from_history(SETTINGS, [WHOLE, second]) == "About 10 min of training, as fast as whole was."
    )
