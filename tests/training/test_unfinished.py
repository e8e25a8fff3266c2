from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from trainer.training.unfinished import (
    belongs,
    clear,
    owner_of,
    state_file,
    state_files,
    state_folder,
    stopped_at,
)


def test_the_newest_state_is_that_of_the_last_pass(tmp_path: Path) -> None:
    folder = state_folder(tmp_path, "hat")
    assert stopped_at(folder) is None
    folder.mkdir(parents=True)
    for part, step in ((1, 7), (0, 120), (0, 30)):
        state_file(folder, part, step).touch()
    (folder / "state-x.safetensors").touch()
    assert [path.name[6:16] for path in state_files(folder)] == [
        "0-00000030",
        "0-00000120",
        "1-00000007",
    ]
    assert stopped_at(folder) == 7


@pytest.mark.parametrize(
    ("text", "owner"),
    [
        ('{"owner": "3-1.5"}', "3-1.5"),
        ('{"owner": ""}', ""),
        ("{}", None),
        ("[]", None),
        ("{", None),
    ],
)
def test_the_owner_is_read_where_it_is_noted(tmp_path: Path, text: str, owner: str | None) -> None:
    assert owner_of(tmp_path) is None
    (tmp_path / "beginning.json").write_text(text)
    assert owner_of(tmp_path) == owner


@pytest.mark.parametrize(
    ("noted", "owner", "whether"),
    [
        ("1-a", "1-a", True),
        ("1-a", "2-b", False),
        ("", "2-b", False),  # begun on the command line
        (None, "2-b", True),  # an older version noted nothing
        ("1-a", "", True),
    ],
)
def test_whose_states_a_job_may_take(noted: str | None, owner: str, whether: bool) -> None:
    assert belongs(noted, owner) is whether


def test_clear_leaves_what_is_no_state(tmp_path: Path) -> None:
    folder = tmp_path / "hat"
    folder.mkdir()
    state_file(folder, 0, 3).touch()
    (folder / "beginning.json").write_text(json.dumps({"owner": "x"}))
    (folder / "notes.txt").touch()
    clear(folder)
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
    (folder / "notes.txt").unlink()
    clear(folder)
    assert not folder.exists()
    clear(folder)


def test_it_needs_no_torch() -> None:
    code = "import sys, trainer.training.unfinished; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
