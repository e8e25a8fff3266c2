"""Reading jobs: what is accepted, what is refused, and with which words."""

from __future__ import annotations

import json
from operator import attrgetter

import pytest

from trainer.errors import BadInput, Problem
from trainer.settings.groups import (
    BLOCKS,
    DataSettings,
    LossSettings,
    NetworkSettings,
    OptimizerSettings,
    TrainingSettings,
)
from trainer.settings.methods import METHODS
from trainer.settings.schema import PARAMETERS, check, listing, parameters_of, parse

JOB = {"method": "lora", "checkpoint": "model.safetensors", "images": "pictures"}


def problems(**changes: object) -> dict[str, Problem]:
    with pytest.raises(BadInput) as caught:
        parse({**JOB, **changes})
    found = {problem.where: problem for problem in caught.value.problems}
    assert len(found) == len(caught.value.problems)
    return found


def test_defaults_are_those_of_traintrain() -> None:
    # facts/traintrain.md, table of parameters
    job = parse(JOB)
    network, training = job[NetworkSettings], job[TrainingSettings]
    assert (network.network, network.rank, network.alpha) == ("lierla", 16, 8)
    assert (network.element, network.network_strength) == ("Full", 1)
    assert network.blocks == BLOCKS
    assert (training.steps, training.batch_size, training.seed) == (1000, 2, -1)
    data, loss = job[DataSettings], job[LossSettings]
    assert data.image_size_px == (512, 512)
    assert (data.bucket_step_px, data.min_length_px, data.max_ratio) == (256, 512, 2)
    assert (loss.loss, loss.min_snr_gamma) == ("MSE", 5)
    assert (loss.min_timestep, loss.max_timestep) == (0, 1000)
    optimizer = job[OptimizerSettings]
    assert (optimizer.optimizer, optimizer.learning_rate) == ("AdamW", 1e-4)
    assert optimizer.lr_scheduler == "cosine"


def test_blocks_are_the_26_names() -> None:
    assert len(BLOCKS) == len(set(BLOCKS)) == 26
    assert BLOCKS[:2] == ("BASE", "IN00")
    assert BLOCKS[12:15] == ("IN11", "M00", "OUT00")


@pytest.mark.parametrize(
    ("name", "raw", "value"),
    [
        ("rank", "16", 16),
        ("rank", " 16 ", 16),
        ("rank", 16.0, 16),
        ("steps", "1e3", 1000),
        ("learning_rate", "1e-4", 1e-4),
        ("learning_rate", ".5", 0.5),
        ("learning_rate", 1, 1.0),
        ("image_size_px", "768,512", (768, 512)),
        ("image_size_px", "768, 512", (768, 512)),
        ("image_size_px", 768, (768, 768)),
        ("image_size_px", "512", (512, 512)),
        ("image_size_px", [768, 512], (768, 512)),
        ("mirror", "true", True),
        ("mirror", "Off", False),
        ("mirror", 1, True),
        ("optimizer", "adamw", "AdamW"),
        ("blocks", ["OUT03", "base"], ("BASE", "OUT03")),
        ("blocks", "IN01, M00", ("IN01", "M00")),
        ("text_encoder_learning_rate", "", None),
        ("text_encoder_learning_rate", None, None),
        ("description", "one\r\ntwo", "one\ntwo"),
        ("trigger_word", "", ""),
        ("name", "naïve 花 v1.5 (test)", "naïve 花 v1.5 (test)"),
    ],
)
def test_unambiguous_values_are_accepted(name: str, raw: object, value: object) -> None:
    read = parse({**JOB, name: raw}).values[name]
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("name", "raw", "what", "cure"),
    [
        ("rank", 0, "0 is below", "1 to 1024"),
        ("rank", 2000, "2000 is above", "1 to 1024"),
        ("rank", "16.5", "not a whole number", "16"),
        ("rank", True, "true is not a number", "number"),
        ("rank", "", '"" is not a number', "number"),
        ("rank", "١٦", "not a number", "number"),
        ("rank", "1_6", "not a number", "number"),
        ("rank", None, "null is not a number", "number"),
        ("rank", "9" * 5000, "not a finite number", "number"),
        ("steps", -5, "-5 is below", "1 to"),
        ("steps", 10**400, "is above the largest value 10000000", "1 to"),
        ("learning_rate", "0,0001", '"0,0001" is not a number', "point"),
        ("learning_rate", float("nan"), "not a finite number", "number"),
        ("learning_rate", "1e999", "not a finite number", "number"),
        ("learning_rate", 0, "below", "1e-09 to 10"),
        ("text_encoder_learning_rate", 0, "below", "BASE"),
        ("image_size_px", "768x512", "not a size", "height,width"),
        ("image_size_px", [1, 2, 3], "not a size", "height,width"),
        ("image_size_px", "500,512", "not a multiple of 8", "use 496"),
        ("image_size_px", 32, "below", "64 to"),
        ("bucket_step_px", 60, "not a multiple of 8", "use 64"),
        ("mirror", "maybe", "neither true nor false", "true or false"),
        ("mirror", 2, "neither true nor false", "true or false"),
        ("optimizer", "AdanW", "not one of the choices", "did you mean AdamW?"),
        ("unreadable", [], "not one of the choices", "stop or skip"),
        ("blocks", [], "no network block is chosen", "all 26"),
        ("blocks", "IN12", '"IN12" is not one of the choices', "did you mean IN"),
        ("blocks", 3, "not a list", "BASE"),
        ("name", "../evil", "folder separator", '"evil"'),
        ("name", 3, "not a text", "quotation"),
        ("trigger_word", "a\nb", "a line break", "remove"),
        ("trigger_word", "a\x00b", "control character", "remove"),
        ("trigger_word", "\ud800", "control character", "remove"),
        ("trigger_word", "a" * 1_000_000, "1000000 characters", "at most"),
        ("optimizer_args", "weight_decay", "is not name=value", "weight_decay=0.01"),
        ("lr_step_rules", "1:a", "no list of factor:step", "1:100"),
        ("network_strength", 0, "without any effect", "use 1"),
        ("images", "", "is missing", "folder"),
    ],
)
def test_wrong_values_are_refused_with_field_value_and_cure(
    name: str, raw: object, what: str, cure: str
) -> None:
    found = problems(**{name: raw})
    assert list(found) == [name]
    assert what in found[name].what
    assert cure in found[name].cure
    assert len(str(found[name])) < 500


def test_all_problems_come_at_once() -> None:
    with pytest.raises(BadInput) as caught:
        parse({"method": "lora", "images": "x", "rank": 0, "steps": "many", "loss": "L3", "zz": 1})
    found = {problem.where for problem in caught.value.problems}
    assert found == {"checkpoint", "rank", "steps", "loss", "zz"}


@pytest.mark.parametrize(
    ("unknown", "meant"),
    [
        ("train_iterations", "steps"),
        ("max_train_steps", "steps"),
        ("network_dim", "rank"),
        ("train_fixed_timsteps_in_batch", "fixed_timesteps_in_batch"),
        ("learnin_rate", "learning_rate"),
        ("Steps", "steps"),
        ("image_size(height, width)", "image_size_px"),
        ("train_iteration", "steps"),
        ("mode", "method"),
    ],
)
def test_unknown_keys_are_errors_with_a_proposal(unknown: str, meant: str) -> None:
    found = problems(**{unknown: "5"})
    assert list(found) == [unknown]
    assert found[unknown].what == "unknown"
    assert found[unknown].cure == f"did you mean {meant}?"


def test_an_unknown_key_that_resembles_nothing_has_no_proposal() -> None:
    assert problems(qqqq=1)["qqqq"].cure == "remove it"


@pytest.mark.parametrize(("raw", "what"), [(None, "is missing"), ("lara", "not one of")])
def test_method_is_required_and_known_and_the_rest_is_checked_all_the_same(
    raw: object, what: str
) -> None:
    found = problems(method=raw, rank=0)
    assert set(found) == {"method", "rank"}
    assert what in found["method"].what
    assert "lora" in found["method"].cure


def test_text_encoder_learning_rate_inherits() -> None:
    job = parse({**JOB, "learning_rate": 3e-4})
    assert job[OptimizerSettings].text_encoder_learning_rate == 3e-4
    # Inheriting outlives a change: the value was never copied.
    assert job.replace(learning_rate=2e-4)[OptimizerSettings].text_encoder_learning_rate == 2e-4
    set_apart = job.replace(text_encoder_learning_rate=1e-5)
    assert set_apart[OptimizerSettings].text_encoder_learning_rate == 1e-5
    assert set_apart[OptimizerSettings].learning_rate == 3e-4


def test_inheritance_names_parameters_of_every_method_that_inherits() -> None:
    for one in PARAMETERS.values():
        if one.inherits:
            assert one.optional
            assert one.default is None
            assert set(one.methods) <= set(PARAMETERS[one.inherits].methods)


def test_as_dict_round_trips() -> None:
    job = parse({**JOB, "image_size_px": "768,512", "blocks": "BASE,M00", "mirror": "yes"})
    flat = job.as_dict()
    assert flat["image_size_px"] == [768, 512]
    assert flat["blocks"] == ["BASE", "M00"]
    assert flat["method"] == "lora"
    assert parse(flat) == job


def test_replace_checks() -> None:
    with pytest.raises(BadInput, match="rank"):
        parse(JOB).replace(rank=0)


def test_a_group_that_the_method_does_not_use_is_an_error() -> None:
    with pytest.raises(KeyError, match="int"):
        parse(JOB)[int]


def test_a_part_of_a_job_is_checked_without_defaults() -> None:
    values, found = check({"rank": "4", "steps": "x", "save_every_steps": 5000})
    assert values == {"rank": 4, "save_every_steps": 5000}
    assert [problem.where for problem in found] == ["steps"]


def test_every_declaration_is_complete_and_its_default_is_valid() -> None:
    taken: dict[str, str] = {}
    for one in PARAMETERS.values():
        assert len(one.help) > 40, one.name
        assert one.help.endswith("."), one.name
        assert one.methods, one.name
        if not one.required:
            assert one.read(one.default) == one.default, one.name
        for name in (one.name, *one.aliases):
            assert taken.setdefault(name, one.name) == one.name, name
    assert {name for one in METHODS for name in map(attrgetter("name"), parameters_of(one))} == set(
        PARAMETERS
    )


def test_listing_is_json() -> None:

    rows = {str(row["name"]): row for row in json.loads(json.dumps(listing()))}
    assert list(rows) == list(PARAMETERS)
    rank = rows["rank"]
    assert (rank["type"], rank["default"], rank["minimum"], rank["maximum"]) == ("int", 16, 1, 1024)
    assert rank["group"] == "network"
    assert rank["methods"] == list(METHODS)
    assert rank["defaults"] == {"ileco": 4, "addift": 4, "multi_addift": 4}
    assert rank["second_pass"]
    assert "network_dim" in rank["aliases"]
    assert rows["blocks"]["choices"] == list(BLOCKS)
    assert rows["text_encoder_learning_rate"]["inherits"] == "learning_rate"
    assert rows["image_size_px"]["unit"] == "px"
    assert rows["checkpoint"]["required"] is True
