"""What the README's section on security promises, where no other test holds it."""

from __future__ import annotations

import ast
import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from trainer.networks.facts import RunFacts
from trainer.networks.kinds import NetworkFacts
from trainer.networks.metadata import build_metadata
from trainer.settings.methods import METHODS
from trainer.settings.names import SETTINGS_KEY
from trainer.settings.schema import PARAMETERS, parameters_of, parse

PACKAGE = Path(__file__).parents[1] / "trainer"
UNPICKLERS = {
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "cPickle.load", "dill.load"),
    *("joblib.load", "shelve.open", "marshal.load", "marshal.loads", "yaml.load"),
    *("yaml.unsafe_load", "pandas.read_pickle", "torch.jit.load", "eval", "exec", "os.system"),
}
OWN_FILES = ("demo/train_denoiser.py", "demo/train_world.py")
"""Scripts that make the embedded checkpoint; they read nothing but what they wrote themselves."""


PARAMETERS_OF = {method: {one.name for one in parameters_of(method)} for method in METHODS}


def called(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Every call with the name of what is called, as it is written."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def sources() -> list[Path]:
    found = [path for path in PACKAGE.rglob("*.py") if not path.as_posix().endswith(OWN_FILES)]
    assert len(found) > 100
    return found


def test_nothing_is_unpickled_but_by_the_restricted_loader() -> None:
    loaders = []
    for path in sources():
        text = path.read_text("utf-8")
        assert "from torch import load" not in text, path
        for name, call in called(ast.parse(text)):
            keywords = {word.arg: ast.unparse(word.value) for word in call.keywords}
            assert name not in UNPICKLERS, f"{path}:{call.lineno}"
            if name == "torch.load":
                assert keywords.get("weights_only") == "True", f"{path}:{call.lineno}"
                loaders.append(path.name)
            if name.split(".")[-1] == "load" and name.startswith(("np.", "numpy.")):
                assert keywords.get("allow_pickle", "False") == "False", f"{path}:{call.lineno}"
    assert loaders == ["checkpoint.py"]


def test_programs_are_started_in_one_place_only() -> None:
    starts = {
        path.relative_to(PACKAGE).as_posix()
        for path in sources()
        for name, _ in called(ast.parse(path.read_text("utf-8")))
        if name.startswith(("subprocess.", "os.popen", "os.exec", "os.spawn"))
    }
    assert starts == {"api/run_routes.py"}, "it opens a result's folder"


def test_every_parameter_that_names_files_is_known_as_one() -> None:
    found = {
        name: one.picks
        for name, one in PARAMETERS.items()
        if one.kind == "text" and re.search(r"(^|_)(folder|images?|files?|from|path)$", name)
    }
    assert len(found) >= 8
    assert set(found.values()) <= {"folder", "picture", "lora", "vae", "checkpoint"}, found


@pytest.mark.parametrize("method", METHODS)
def test_a_file_tells_nobody_where_its_makers_files_lie(method: str) -> None:
    secret = "/home/ann-of-the-secret/files"
    files = ("folder", "picture", "lora", "vae", "checkpoint")
    own = {
        one.name: f"{secret}/x.safetensors" for one in parameters_of(method) if one.picks in files
    }
    texts = {
        "original_prompt": "x",
        "original_image": "a",
        "target_image": "b",
        "pair_suffix": "_b",
    }
    needs = {one.name: texts.get(one.name, "x") for one in parameters_of(method) if one.required}
    needs |= {name: text for name, text in texts.items() if name in PARAMETERS_OF[method]}
    settings = parse({"method": method, **needs})
    settings = dataclasses.replace(settings, values={**settings.values, **own})
    facts = RunFacts(
        family="sd1",
        network=NetworkFacts("lierla", 4, 4.0),
        text_encoder_trained=False,
        checkpoint_file="checkpoint.safetensors",
        resolution_px=(64, 64),
        seed=1,
        steps=1,
        started_at_s=0.0,
        finished_at_s=1.0,
    )
    written = build_metadata(settings, facts)
    assert secret not in json.dumps(written)
    assert json.loads(written[SETTINGS_KEY])["checkpoint"] == "x.safetensors"
