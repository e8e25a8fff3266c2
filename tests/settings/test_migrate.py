"""Settings of older versions."""

from __future__ import annotations

import pytest

from trainer.errors import BadInput
from trainer.settings.migrate import SETTINGS_VERSION, VERSION_KEY, migrate
from trainer.settings.schema import parse


def _rename(settings: dict[str, object]) -> dict[str, object]:
    return {("rank" if name == "dim" else name): value for name, value in settings.items()}


def _double(settings: dict[str, object]) -> dict[str, object]:
    return {**settings, "rank": 2 * int(str(settings["rank"]))}


STEPS = (_rename, _double)


@pytest.mark.parametrize(
    ("raw", "migrated"),
    [
        ({VERSION_KEY: 1, "dim": 4}, {"rank": 8}),
        ({VERSION_KEY: "2", "rank": 4}, {"rank": 8}),
        ({VERSION_KEY: 3, "rank": 4}, {"rank": 4}),
        ({"rank": 4}, {"rank": 4}),
    ],
)
def test_each_version_goes_through_the_steps_after_it(
    raw: dict[str, object], migrated: dict[str, object]
) -> None:
    assert migrate(raw, STEPS) == (migrated, [])


@pytest.mark.parametrize(("version", "cure"), [(99, "update"), (0, "remove"), ("x", "number")])
def test_an_unknown_version_is_a_problem(version: object, cure: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse({"method": "lora", "checkpoint": "c", "images": "i", VERSION_KEY: version})
    (problem,) = caught.value.problems
    assert problem.where == VERSION_KEY
    assert cure in problem.cure


def test_the_current_version_is_written() -> None:
    job = parse({"method": "lora", "checkpoint": "c", "images": "i"})
    assert job.as_dict()[VERSION_KEY] == SETTINGS_VERSION
