"""What the README says must be so."""

from __future__ import annotations

import json
import re
from pathlib import Path

from trainer.settings.schema import parse
from trainer.settings.tables import with_tables

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")


def test_parameter_tables_are_current():
    assert with_tables(README) == README


def test_example_jobs_are_jobs():
    texts = re.findall(r"```json\n(.*?)```", README, re.DOTALL)
    assert [parse(json.loads(text)).method for text in texts] == ["lora", "ileco"]


def test_pictures_and_folders_exist():
    for name in re.findall(r"!\[[^\]]*\]\(([^)]+)\)|<img src=\"([^\"]+)\"", README):
        name = "".join(name)
        assert (ROOT / name).is_file(), name
    for cell in re.findall(r"^\| (`trainer/.*?) \|", README, re.MULTILINE):
        for name in re.findall(r"`([^`]+)`", cell):
            path = ROOT / name if name.startswith("trainer") else ROOT / "trainer" / name
            assert path.exists(), name
