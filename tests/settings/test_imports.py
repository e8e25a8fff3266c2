"""The settings need the standard library alone."""

from __future__ import annotations

import json
import subprocess
import sys

SCRIPT = """
import json, sys
before = set(sys.modules)
import trainer.settings.presets, trainer.settings.schema, trainer.settings.tables
import trainer.settings.traintrain
print(json.dumps(sorted(set(sys.modules) - before)))
"""


def test_only_the_standard_library_is_loaded() -> None:
    output = subprocess.run(
        [sys.executable, "-c", SCRIPT], check=True, capture_output=True, text=True, timeout=60
    ).stdout
    loaded = set(json.loads(output))
    ours = {name for name in loaded if name.split(".")[0] == "trainer"}
    assert {name.split(".")[0] for name in loaded - ours} <= sys.stdlib_module_names
    allowed = ("trainer.settings", "trainer.errors", "trainer.atomic", "trainer.paths")
    assert {name for name in ours if not name.startswith(allowed)} == {"trainer"}
