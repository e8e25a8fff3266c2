from __future__ import annotations

import itertools

from trainer.api.live import MAX_POINTS, Live
from trainer.events import Notice, StepDone
from trainer.jobs.job import Job, JobState


def job(number: int) -> Job:
    return Job(number, "hat", "lora", {}, JobState.RUNNING)


def step(number: int, total: int) -> StepDone:
    return StepDone(number, total, 1, 1 / number, 0.5, 1e-4, None, 1.0, 1.0, 0.0)


def test_a_long_curve_is_thinned_evenly_and_keeps_its_last_point() -> None:
    live = Live()
    total = 4 * MAX_POINTS + 1
    for number in range(1, total + 1):
        live(job(1), step(number, total))
    steps = [point[0] for point in live.curve()]
    assert len(steps) <= MAX_POINTS
    assert steps[-1] == total
    gaps = {after - before for before, after in itertools.pairwise(steps)}
    assert max(gaps) <= 8, "no hole in the middle"


def test_another_job_begins_another_curve() -> None:
    live = Live()
    live(job(1), step(1, 9))
    live(job(2), step(1, 9))
    live(job(2), step(2, 9))
    assert live.job_id == 2
    assert [point[0] for point in live.curve()] == [1, 2]
    assert [point[0] for point in live.curve(since=1)] == [2]


def test_a_second_pass_begins_the_curve_again_and_says_so() -> None:
    live = Live()
    for number in (1, 2, 3):
        live(job(1), step(number, 3))
    before = live.began
    live(job(1), step(1, 3))
    assert live.began > before
    assert [point[0] for point in live.curve()] == [1]


def test_what_is_made_anew_after_a_saved_state_is_not_drawn_twice() -> None:
    live = Live()
    for number in (1, 2, 3, 4):
        live(job(1), step(number, 9))
    before = live.began
    live(job(1), step(3, 9))
    live(job(1), step(4, 9))
    assert [point[0] for point in live.curve()] == [1, 2, 3, 4]
    assert live.began == before + 1


def test_lines_are_kept_in_order() -> None:
    live = Live()
    live(job(1), Notice("first"))
    live.note("second\nthird")
    assert [line.split("  ", 1)[1] for line in live.lines()[-3:]] == ["first", "second", "third"]
