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


def test_example_job_is_a_job():
    (text,) = re.findall(r"```json\n(.*?)```", README, re.DOTALL)
    assert parse(json.loads(text)).method == "lora"


def test_pictures_and_folders_exist():
    for name in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README):
        assert (ROOT / name).is_file(), name
    for cell in re.findall(r"^\| (`trainer/.*?) \|", README, re.MULTILINE):
        for name in re.findall(r"`([^`]+)`", cell):
            path = ROOT / name if name.startswith("trainer") else ROOT / "trainer" / name
            assert path.exists(), name
