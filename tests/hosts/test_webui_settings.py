"""A training beside what the webui's settings do to its live model: none of it is trained on.

`real.py` says what it needs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from tests.hosts.real import KIND, MARKS, OTHER, WIDTH, RealWebui, same, short_job, started
from trainer.demo.checkpoint import CHECKPOINT

pytestmark = MARKS
UNDISTURBED = "undisturbed"


@pytest.fixture(scope="module")
def webui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealWebui]:
    real = RealWebui(tmp_path_factory.mktemp("webui"))
    write_hypernetwork(real, "tiny")
    try:
        real.start()
        yield real
    finally:
        real.kill()


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, webui: RealWebui) -> dict[str, object]:
    """A job; what it trains when nothing is set lies in the file `UNDISTURBED`."""
    job = {**short_job(tmp_path_factory.mktemp("pictures")), "steps": 4}
    assert webui.result(webui.train(**job, name=UNDISTURBED))["state"] == "done"
    return job


@contextmanager
def options(webui: RealWebui, **values: object) -> Iterator[None]:
    before = {name: webui.ask("sdapi/v1/options")[name] for name in values}
    webui.options(**values)
    try:
        yield
    finally:
        webui.options(**before)


def trained(webui: RealWebui, job: dict[str, object], name: str, prompt: str) -> None:
    """Trains after a picture; the next one is the same, and so is the model."""
    picture, before = webui.picture(prompt), webui.ask("probe")
    done = webui.result(webui.train(**job, name=name))
    assert (done["state"], done["error"]) == ("done", "")
    assert webui.ask("probe") == before
    assert webui.picture(prompt) == picture


def write_hypernetwork(webui: RealWebui, name: str) -> None:
    """A file as the webui saves them: two layers for the keys and two for the values."""
    folder = webui.data / "models/hypernetworks"
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    layers = [
        {
            f"linear.{layer}.{part}": torch.randn(size) * 0.3
            for layer, (rows, columns) in enumerate(((2 * WIDTH, WIDTH), (WIDTH, 2 * WIDTH)))
            for part, size in (("weight", (rows, columns)), ("bias", (rows,)))
        }
        for _ in range(2)
    ]
    told = {"layer_structure": [1, 2, 1], "activation_func": "linear", "name": name, "step": 1}
    file = folder / f"{name}.pt"  # in the form that the webui's restricted reader takes
    torch.save({WIDTH: tuple(layers), **told}, file, _use_new_zipfile_serialization=False)


@pytest.mark.skipif(KIND != "A1111", reason="Forge's attention has no place for hypernetworks")
def test_a_hypernetwork(webui, settings) -> None:
    plain = webui.picture("a circle")
    prompt = "a circle <hypernet:tiny:1>"
    assert webui.picture(prompt) != plain
    assert webui.ask("probe/changed")["hypernetworks"] == 1
    trained(webui, settings, "beside-a-hypernetwork", prompt)
    assert webui.ask("probe/changed")["hypernetworks"] == 1
    assert same(webui.tensors("beside-a-hypernetwork"), webui.tensors(UNDISTURBED))
    assert webui.picture("a circle") == plain


def test_merged_tokens(webui, settings) -> None:
    plain = webui.picture("a circle")
    with options(webui, token_merging_ratio=0.5):
        assert webui.picture("a circle") != plain
        assert webui.ask("probe/changed")["tokens_merged"] == 0, "for a picture's time only"
        trained(webui, settings, "beside-merged-tokens", "a circle")
    assert same(webui.tensors("beside-merged-tokens"), webui.tensors(UNDISTURBED))
    assert webui.picture("a circle") == plain


@pytest.mark.skipif(KIND == "Forge", reason="tiles are 'under maintenance and unavailable' there")
def test_tiles(webui, settings) -> None:
    plain = webui.picture("a circle")
    assert webui.picture("a circle", tiling=True) != plain
    before = webui.ask("probe")
    done = webui.result(webui.train(**settings, name="beside-tiles"))
    assert done["state"] == "done"
    assert webui.ask("probe") == before, "padded for tiles as the last picture left it"
    assert same(webui.tensors("beside-tiles"), webui.tensors(UNDISTURBED))
    assert webui.picture("a circle") == plain


@pytest.mark.skipif(KIND != "A1111", reason="the others have this setting without any effect")
@pytest.mark.parametrize("exact", [True, False], ids=["with exact weights beside", "alone"])
def test_weights_in_8_bits(webui, settings, exact) -> None:
    if "fp8_storage" not in webui.ask("sdapi/v1/options"):
        pytest.skip("the webui has it from 1.8")
    with options(webui, fp8_storage="Enable"):  # the first time changes the pictures for good
        webui.picture("a circle")
    plain = webui.picture("a circle")
    name = f"on-8-bits-{exact}"
    with options(webui, cache_fp16_weight=exact, fp8_storage="Enable"):
        webui.picture("a circle")
        assert webui.ask("probe/changed")["in_8_bits"] > 0
        trained(webui, settings, name, "a circle")
        assert webui.ask("probe/changed")["in_8_bits"] > 0
        assert webui.picture(f"a circle <lora:{name}:1>") != webui.picture("a circle")
    assert same(webui.tensors(name), webui.tensors(UNDISTURBED)) is exact
    assert webui.picture("a circle") == plain


@pytest.mark.skipif(KIND != "Forge", reason="only Forge has its menu 'Diffusion in Low Bits'")
@pytest.mark.parametrize("stored", ["float8-e4m3fn", "float8-e5m2 (fp16 LoRA)"])
def test_a_model_that_forge_stores_in_8_bits(webui, settings, stored) -> None:
    def store(chosen: str) -> None:
        """The menu tells at once; a setting tells with the next choice of a checkpoint."""
        webui.options(forge_unet_storage_dtype=chosen)
        for name in (f"{OTHER}.safetensors", CHECKPOINT.name):
            webui.options(sd_model_checkpoint=name)

    plain = webui.picture("a circle")
    name = stored[:11]
    store(stored)
    try:
        webui.picture("a circle")
        assert webui.ask("probe/changed")["in_8_bits"] > 0
        trained(webui, settings, name, "a circle")
        assert webui.ask("probe/changed")["in_8_bits"] > 0
        assert webui.picture(f"a circle <lora:{name}:1>") != webui.picture("a circle")
    finally:
        store("Automatic")
    assert not same(webui.tensors(name), webui.tensors(UNDISTURBED))
    assert webui.picture("a circle") == plain


@pytest.mark.skipif(KIND != "reForge", reason="only reForge has this flag")
def test_a_model_that_reforge_stores_in_8_bits(settings, tmp_path) -> None:
    with started(tmp_path, ("--unet-in-fp8-e4m3fn",)) as webui:
        webui.picture("a circle")
        assert webui.ask("probe/changed")["in_8_bits"] > 0
        trained(webui, settings, "eighth", "a circle")
        assert webui.picture("a circle <lora:eighth:1>") != webui.picture("a circle")
