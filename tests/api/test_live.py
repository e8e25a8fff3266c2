from __future__ import annotations

import itertools

import pytest

from trainer.api import live as live_module
from trainer.api.live import MAX_POINTS, SPEED_WINDOW, Live
from trainer.events import Notice, PhaseProgress, PhaseStarted, StepDone
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


def test_a_phase_that_is_counted_has_a_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(live_module.time, "monotonic", lambda: now[0])
    live = Live()
    live(job(1), PhaseStarted("Encoding pictures", 100))
    assert live.phase_left_s() is None, "nothing is known yet"
    live(job(1), PhaseProgress(60))  # they lay in the cache
    for done in range(61, 61 + SPEED_WINDOW):
        now[0] += 2
        live(job(1), PhaseProgress(done))
    assert live.phase_left_s() == (100 - done) * 2
    live(job(1), PhaseStarted("Training", 100))
    live(job(1), step(1, 100))
    assert live.phase_left_s() is None, "its steps tell it"


def test_lines_are_kept_in_order() -> None:
    live = Live()
    live(job(1), Notice("first"))
    live.note("second\nthird")
    assert [line.split("  ", 1)[1] for line in live.lines()[-3:]] == ["first", "second", "third"]
