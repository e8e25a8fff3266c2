"""A second pass's own settings: nested, inherited from the first, checked like it."""

from __future__ import annotations

import pytest

from trainer.errors import BadInput
from trainer.settings.groups import NetworkSettings, OptimizerSettings, TrainingSettings
from trainer.settings.presets import apply
from trainer.settings.schema import check, parse
from trainer.settings.traintrain import import_traintrain

JOB: dict[str, object] = {
    "method": "difference",
    "checkpoint": "model",
    "original_image": "a.png",
    "target_image": "b.png",
}


def problems(**changes: object) -> dict[str, str]:
    with pytest.raises(BadInput) as caught:
        parse({**JOB, **changes})
    return {problem.where: problem.what for problem in caught.value.problems}


def test_what_is_not_set_comes_from_the_first_pass() -> None:
    job = parse({**JOB, "rank": 32, "steps": 70, "second_pass": {"rank": "4", "alpha": None}})
    second = job.for_second_pass()
    assert (job[NetworkSettings].rank, job[NetworkSettings].alpha) == (32, 16)
    assert (second[NetworkSettings].rank, second[NetworkSettings].alpha) == (4, 16)
    assert second[TrainingSettings].steps == 70


def test_a_rate_that_inherits_follows_the_second_pass() -> None:
    job = parse({**JOB, "learning_rate": 1e-3, "second_pass": {"learning_rate": 1e-4}})
    assert job[OptimizerSettings].text_encoder_learning_rate == 1e-3
    assert job.for_second_pass()[OptimizerSettings].text_encoder_learning_rate == 1e-4


def test_dotted_names_and_the_object_mean_the_same() -> None:
    nested = parse({**JOB, "second_pass": {"rank": 4}})
    assert parse({**JOB, "second_pass.rank": "4"}) == nested
    assert parse(nested.as_dict()) == nested
    assert nested.replace(**{"second_pass.steps": 9}).second == {"rank": 4, "steps": 9}


def test_every_problem_is_named_with_its_pass() -> None:
    found = problems(
        rank=0,
        second_pass={"rank": 0, "original_image": "c.png", "stps": 3, "lr_warmup_steps": 900},
    )
    assert set(found) == {
        "rank",
        "second_pass.rank",
        "second_pass.original_image",
        "second_pass.stps",
        "second_pass.lr_warmup_steps",
    }


def test_the_seed_is_that_of_both_passes() -> None:
    found = problems(seed=7, second_pass={"seed": 99, "pool_size": 8, "original_image": "a.png"})
    assert found["second_pass.seed"] == "is the same in both passes"
    assert set(found) == {"second_pass.seed", "second_pass.pool_size"}
    for first in ({"seed": 7}, {}):  # as forms, presets and states of former versions have it
        value = first.get("seed", -1)
        job = parse({**JOB, **first, "second_pass": {"seed": str(value), "rank": 4}})
        assert job.second == {"rank": 4}
        given = {"method": "difference", **first, "second_pass": {"seed": value}}
        assert check(given) == ({"method": "difference", **first}, ())


def test_a_method_of_one_pass_has_no_second() -> None:
    with pytest.raises(BadInput, match="LoRA has one pass"):
        parse({"method": "lora", "checkpoint": "c", "images": "i", "second_pass": {"rank": 4}})
    assert problems(second_pass=3) == {"second_pass": "unknown"}


def test_presets_carry_it() -> None:
    values, found = check({"method": "difference", "second_pass": {"rank": "4"}})
    assert (values, found) == ({"method": "difference", "second_pass": {"rank": 4}}, ())
    assert apply(JOB, values)["second_pass"] == {"rank": 4}
    assert "second_pass" not in apply({**JOB, **values}, {"method": "lora"})


def test_traintrain_preset_with_a_second_pass() -> None:
    # facts/traintrain.md: 16/16 then 4/4, 5e-4 then 1e-4
    first = {"network_rank": "16", "network_alpha": "16", "train_learning_rate": "5e-4"}
    second = {"network_rank": "4", "network_alpha": "4", "train_learning_rate": "1e-4"}
    raw = {
        "mode": "Difference",
        "train_iterations": "500",
        "use_2nd_pass_settings": True,
        **first,
        "2nd pass": {**second, "train_iterations": "500", "save_lora_name": ""},
    }
    imported = import_traintrain(raw)
    assert imported.lost == ()
    assert imported.values["second_pass"] == {"rank": 4, "alpha": 4.0, "learning_rate": 1e-4}
    seeds = {"train_seed": "1", "2nd pass": {**second, "train_seed": "2"}}
    other_seed = import_traintrain({**raw, **seeds})
    assert other_seed.values["second_pass"] == imported.values["second_pass"]
    assert [problem.where for problem in other_seed.lost] == ["2nd pass, train_seed"]
    assert "second_pass" not in import_traintrain({**raw, "use_2nd_pass_settings": False}).values


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"target_image": "b.png\nc.png"}, "target_image"),
        ({"mask": "drawn"}, "mask_image"),
        ({"mask_image": "m.png"}, "mask_image"),
        ({"copier_file": "c.safetensors", "copier_only": True}, "copier_only"),
        ({"min_timestep": 500, "max_timestep": 500}, "min_timestep"),
    ],
)
def test_values_that_do_not_go_together(changes: dict[str, object], where: str) -> None:
    assert list(problems(**changes)) == [where]


@pytest.mark.parametrize(
    ("original", "target", "where"),
    [
        ("", "", "original_prompt"),
        ("  ", "blue", "original_prompt"),
        ("red", "red", "target_prompt"),
        ("red\ngreen", "a\nb\nc", "target_prompt"),
    ],
)
def test_concepts_that_cannot_be_changed(original: str, target: str, where: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse(
            {
                "method": "ileco",
                "checkpoint": "c",
                "original_prompt": original,
                "target_prompt": target,
            }
        )
    assert [problem.where for problem in caught.value.problems] == [where]


def test_one_target_serves_several_concepts() -> None:
    parse({"method": "ileco", "checkpoint": "c", "original_prompt": "red\ngreen"})


@pytest.mark.parametrize(
    ("values", "steps"),
    [({}, [70, 30]), ({"copier_file": "a"}, [30]), ({"copier_only": True}, [70])],
)
def test_only_what_is_trained_is_a_pass(values: dict[str, object], steps: list[int]) -> None:
    job = parse({**JOB, **values, "steps": 70, "second_pass": {"steps": 30}})
    assert [one[TrainingSettings].steps for one in job.passes()] == steps
    assert job.steps_of_all_passes == sum(steps)
