"""Rules between parameters."""

from __future__ import annotations

import pytest

from trainer.errors import BadInput
from trainer.settings.checks import RULES, arguments_of
from trainer.settings.schema import PARAMETERS, check, parse

JOB = {"method": "lora", "checkpoint": "model.safetensors", "images": "pictures"}


@pytest.mark.parametrize(
    ("changes", "where", "what", "cure"),
    [
        (
            {"min_timestep": 400, "max_timestep": 400},
            "min_timestep",
            "400 is not below max_timestep, which is 400",
            "below 400",
        ),
        (
            {"steps": 500, "save_every_steps": 501},
            "save_every_steps",
            "501 never fires in a training of 500 steps",
            "use 100",
        ),
        ({"save_every_steps": 1001}, "save_every_steps", "never fires", "use 200"),
        ({"lr_warmup_steps": 1000}, "lr_warmup_steps", "does not end", "use at most 500"),
        ({"lr_scheduler": "piecewise_constant"}, "lr_step_rules", "is missing", "1:100"),
        ({"lr_step_rules": "1:10,0.1"}, "lr_step_rules", "has no effect", "empty it"),
        (
            {"torch_compile": True, "rank_dropout": 0.1, "module_dropout": 0.1},
            "torch_compile",
            "is on beside rank_dropout and module_dropout",
            "the dropouts to 0",
        ),
    ],
)
def test_values_that_do_not_go_together(
    changes: dict[str, object], where: str, what: str, cure: str
) -> None:
    with pytest.raises(BadInput) as caught:
        parse({**JOB, **changes})
    (problem,) = caught.value.problems
    assert problem.where == where
    assert what in problem.what
    assert cure in problem.cure


@pytest.mark.parametrize(
    "changes",
    [
        {"min_timestep": 399, "max_timestep": 400},
        {"steps": 500, "save_every_steps": 500},
        {"lr_warmup_steps": 999},
        {"steps": 1, "lr_warmup_steps": 0},
        {"torch_compile": True},
        {"network_dropout": 0.1},
        {"lr_scheduler": "piecewise_constant", "lr_step_rules": "1:100, 0.1:400, 0.01"},
    ],
)
def test_values_that_just_go_together(changes: dict[str, object]) -> None:
    parse({**JOB, **changes})


def test_a_rule_is_silent_about_values_that_are_wrong_by_themselves() -> None:
    with pytest.raises(BadInput) as caught:
        parse({**JOB, "steps": "many", "save_every_steps": 5000})
    assert [problem.where for problem in caught.value.problems] == ["steps"]


def test_a_part_of_a_job_is_judged_by_what_it_holds() -> None:
    assert check({"save_every_steps": 5000})[1] == ()
    (problem,) = check({"steps": 10, "save_every_steps": 5000})[1]
    assert problem.where == "save_every_steps"


def test_rules_look_at_parameters_that_exist() -> None:
    for rule in RULES:
        assert set(arguments_of(rule)) <= set(PARAMETERS)
