"""Names of files, counted on and cut."""

from __future__ import annotations

import pytest

from trainer.paths import LONGEST_NAME_BYTES, next_name, unquoted
from trainer.settings.names import check_name


@pytest.mark.parametrize(
    ("name", "taken", "expected"),
    [
        ("hat", set(), "hat-2"),
        ("hat", {"hat-2", "hat-3"}, "hat-4"),
        ("hat-2", set(), "hat-3"),
        ("hat-9", {"hat-10"}, "hat-11"),
        ("x" * LONGEST_NAME_BYTES, set(), "x" * (LONGEST_NAME_BYTES - 2) + "-2"),
        ("花" * (LONGEST_NAME_BYTES // 3), set(), "花" * (LONGEST_NAME_BYTES // 3 - 1) + "-2"),
        ("x" * (LONGEST_NAME_BYTES - 2) + "-9", set(), "x" * (LONGEST_NAME_BYTES - 3) + "-10"),
    ],
)
def test_the_next_name_is_free_and_a_name(name: str, taken: set[str], expected: str) -> None:
    found = next_name(name, taken.__contains__)
    assert found == expected
    check_name(found)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ('"C:\\a b\\c.png" ', "C:\\a b\\c.png"),
        ("'/a b/c'", "/a b/c"),
        ("it's", "it's"),
        ("'", "'"),
        ("", ""),
        ('"/half', "/half"),
    ],
)
def test_quotes_that_were_copied_along_are_no_part_of_a_path(typed: str, meant: str) -> None:
    assert unquoted(typed) == meant
