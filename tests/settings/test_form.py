"""The form follows from the declarations; nothing of it is written down twice."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from trainer.settings.form import default, facts, layout, shown_value, shown_values
from trainer.settings.methods import METHODS
from trainer.settings.presets import PresetStore
from trainer.settings.schema import PARAMETERS, Parameter, parse

SHIPPED = PresetStore(PresetStore.shipped)
FIELDS = {field.key: field for field in layout().fields}


def test_every_parameter_has_exactly_one_field() -> None:
    count = Counter(field.parameter.name for field in layout().fields if not field.second)
    assert count == Counter(dict.fromkeys(PARAMETERS, 1))
    assert len({field.elem_id for field in layout().fields}) == len(layout().fields)


def test_what_is_required_is_asked_for_first() -> None:
    first = {field.key for field in layout().what}
    assert {one.name for one in PARAMETERS.values() if one.required} <= first


@pytest.mark.parametrize("method", METHODS)
def test_few_numbers_matter_most(method: str) -> None:
    shown = [field.key for field in layout().how if method in field.methods]
    assert {"steps", "learning_rate", "rank"} <= set(shown)
    assert len(shown) <= 8


def test_a_second_pass_has_fields_only_in_methods_that_have_one() -> None:
    for field in layout().fields:
        if field.second:
            assert all(METHODS[method].second_pass for method in field.methods)
            assert field.methods, field.key
    assert "second_pass.seed" not in [field.key for field in layout().fields]


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [
        ("learning_rate", 1e-4, "0.0001"),
        ("learning_rate", 0.1 + 0.2, "0.3"),
        ("text_encoder_learning_rate", None, ""),
        ("steps", 1000, "1000"),
        ("image_size_px", [512, 512], "512"),
        ("image_size_px", (768, 512), "768,512"),
        ("mirror", True, True),
        ("blocks", ("BASE", "M00"), ["BASE", "M00"]),
        ("network", "lierla", "lierla"),
        ("second_pass.gradient_checkpointing", True, "on"),
        ("second_pass.gradient_checkpointing", None, ""),
        ("second_pass.blocks", ("BASE", "M00"), "BASE,M00"),
    ],
)
def test_values_as_components_hold_them(key: str, value: object, shown: object) -> None:
    assert shown_value(FIELDS[key], value) == shown


@pytest.mark.parametrize("method", METHODS)
def test_the_form_as_it_opens_is_read_back_to_the_defaults(method: str) -> None:
    """What the fields hold, sent back as it is, means the declared defaults."""
    mine = [f for f in layout().fields if method in f.methods and not f.second]
    required = {f.key: "something" for f in mine if f.parameter.required}
    sent = {f.key: shown_value(f, default(f, method)) for f in mine} | required
    if "original_prompt" in sent and method == "ileco":
        required["original_prompt"] = sent["original_prompt"] = "red"
    assert parse({"method": method, **sent}) == parse({"method": method, **required})


@pytest.mark.parametrize("one", [one for one in PARAMETERS.values() if one.only_with])
def test_what_a_field_depends_on_can_be_chosen(one: Parameter) -> None:
    other, *values = one.only_with
    asked = PARAMETERS[other]
    assert set(values) <= set(asked.choices)
    assert set(one.methods) & set(asked.methods), "else it is never put away"
    assert asked.name != one.name


def test_facts_are_json() -> None:
    rows = {row["key"]: row for row in json.loads(json.dumps(facts()))}
    assert rows["rank"]["defaults"]["lora"] == "16"
    assert rows["rank"]["defaults"]["ileco"] == "4"
    assert rows["second_pass.rank"]["defaults"] == {"difference": ""}
    assert "train_iterations" in rows["steps"]["words"], "found under other tools' names too"


@pytest.mark.parametrize(
    "name", [preset.name for preset in PresetStore(PresetStore.shipped).list()]
)
def test_every_shipped_preset_fits_the_form(name: str) -> None:
    values = PresetStore(PresetStore.shipped).load(name)
    shown = shown_values(values)
    given = set(values) - {"settings_version", "second_pass"}
    assert given <= set(shown)
    for key in set(shown) - {"method"}:
        assert values["method"] in FIELDS[key].methods


def test_a_problem_of_the_second_pass_names_that_pass() -> None:
    titles = {str(one["key"]): one["title"] for one in facts()}
    assert (titles["rank"], titles["second_pass.rank"]) == ("Rank", "Second pass: Rank")
