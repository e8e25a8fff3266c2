"""Names that become file names."""

from __future__ import annotations

import pytest

from trainer.settings.names import LONGEST_NAME_BYTES, _tamed, check_name
from trainer.settings.values import BadValueError

REFUSED = [
    "",
    "   ",
    ".",
    "..",
    "../evil",
    "a/b",
    "a\\b",
    "/etc/passwd",
    "C:evil",
    ".hidden",
    "a..b",
    "trailing.",
    "trailing ",
    " leading",
    "what?",
    "a*b",
    "<lora:x:1>",
    "a|b",
    'a"b',
    "tab\tbed",
    "null\x00",
    "right\u202eleft",
    "\ud800",
    "CON",
    "nul.txt",
    "lpt1",
    "x" * (LONGEST_NAME_BYTES + 1),
    "花" * (LONGEST_NAME_BYTES // 3 + 1),
]


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_file_name_everywhere_is_refused(name: str) -> None:
    with pytest.raises(BadValueError) as caught:
        check_name(name)
    assert caught.value.cure


@pytest.mark.parametrize("name", [name for name in REFUSED if name.strip()])
def test_the_proposed_name_passes(name: str) -> None:
    check_name(_tamed(name))


PLAIN = ["untitled", "a-2", "red dress v1.5 (test)", "花", "console", "🙂"]


@pytest.mark.parametrize("name", PLAIN)
def test_plain_names_pass(name: str) -> None:
    check_name(name)
