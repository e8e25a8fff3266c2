from __future__ import annotations

import pytest

from trainer.jobs.job import FINISHED, LIVE, PENDING, JobState, Progress, free_name


@pytest.mark.parametrize(
    ("name", "taken", "expected"),
    [
        ("hat", [], "hat"),
        ("hat", ["cap"], "hat"),
        ("hat", ["hat"], "hat-2"),
        ("hat", ["hat", "hat-2", "hat-3"], "hat-4"),
        ("hat", ["HAT"], "hat-2"),  # one file on Windows and macOS
        ("hat-2", ["hat-2"], "hat-3"),
        ("styles/hat", ["styles/hat"], "styles/hat-2"),
        ("-2", ["-2"], "-2-2"),
    ],
)
def test_free_name_is_the_first_number_not_taken(
    name: str, taken: list[str], expected: str
) -> None:
    assert free_name(name, taken) == expected


def test_states_fall_into_groups_of_which_interrupted_is_in_none() -> None:
    assert set(JobState) - PENDING - FINISHED == {JobState.INTERRUPTED}
    assert not PENDING & FINISHED
    assert LIVE < PENDING


@pytest.mark.parametrize(("done", "total", "fraction"), [(1, 4, 0.25), (5, 4, 1.0), (3, 0, None)])
def test_fraction(done: int, total: int, fraction: float | None) -> None:
    assert Progress("Training", done, total).fraction == fraction
