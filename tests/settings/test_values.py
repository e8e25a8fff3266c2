"""Arguments as text, proposals, and values as they are quoted."""

from __future__ import annotations

import pytest

from trainer.settings.values import BadValueError, parse_arguments, proposal, shown


def test_arguments_are_literals_or_text() -> None:
    text = "weight_decay=0.01; betas=(0.9, 0.99)\n use_bias_correction=true;\nname = adam w;d=None"
    assert parse_arguments(text) == {
        "weight_decay": 0.01,
        "betas": (0.9, 0.99),
        "use_bias_correction": True,
        "name": "adam w",
        "d": None,
    }


def test_no_arguments() -> None:
    assert parse_arguments(" ;\n") == {}


@pytest.mark.parametrize("text", ["a", "a=", "=1", "1a=2", "a b=2", "a=1; a=2"])
def test_malformed_arguments_are_refused(text: str) -> None:
    with pytest.raises(BadValueError):
        parse_arguments(text)


def test_arguments_run_nothing() -> None:
    assert parse_arguments("a=__import__('os').getcwd()") == {"a": "__import__('os').getcwd()"}


def test_proposal_forgives_letter_case_and_slips() -> None:
    assert proposal("adamw", ["Lion", "AdamW"]) == "AdamW"
    assert proposal("AdmaW", ["Lion", "AdamW"]) == "AdamW"
    assert proposal("zzz", ["Lion", "AdamW"]) == ""


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a\nb", '"a\\nb"'),
        (1e-4, "0.0001"),
        (None, "null"),
        ("\ud800", "'\\ud800'"),
        ({1, 2}, "set"),
        ("花", '"花"'),
    ],
)
def test_values_are_quoted_on_one_printable_line(value: object, text: str) -> None:
    assert shown(value) == text


def test_long_values_are_shortened() -> None:
    assert len(shown("x" * 10_000)) == 60
