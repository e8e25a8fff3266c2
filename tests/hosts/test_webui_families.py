"""A real webui that has loaded a Stable Diffusion 2 or XL checkpoint; `real.py` says what it needs.

The checkpoints are tiny, with random weights; the yaml files beside them make the webui build its
own objects for them: ldm's with an OpenCLIP text encoder, and sgm's with two.  Forge and reForge
are told the sizes by `probe/scripts/small.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from urllib.parse import urlencode

import pytest
import torch
from safetensors.torch import save_file

from tests.hosts.real import CONDITIONED, MARKS, RealWebui, short_job
from trainer.models.families import SD2, SDXL

pytestmark = MARKS
EMPHASIS = ("Original", "No norm", "Ignore", "None")
FAMILIES = (SD2, SDXL)


@pytest.fixture(scope="module")
def webui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealWebui]:
    real = RealWebui(tmp_path_factory.mktemp("webui"))
    for family in FAMILIES:
        real.add(family)
    parts = {"clip_l": torch.randn(2, 64), "clip_g": torch.randn(2, 128)}
    save_file(parts, real.data / "embeddings/mypair.safetensors")
    try:
        real.start()
        real.options(live_previews_enable=False)  # for SDXL they would download a model
        yield real
    finally:
        real.kill()


@pytest.fixture(params=FAMILIES, ids=lambda family: family.name)
def family(webui: RealWebui, request: pytest.FixtureRequest) -> str:
    """The short name of the family whose checkpoint is loaded now."""
    webui.options(sd_model_checkpoint=f"{request.param.name}.safetensors")
    webui.picture()
    webui.ask("sdapi/v1/refresh-embeddings", {})  # reForge looks only then which fit it
    assert webui.ask("probe")["checkpoint"] == f"{request.param.name}.safetensors"
    return str(request.param.name)


def test_a_training_leaves_the_model_as_it_was_and_its_lora_works(
    webui: RealWebui, family: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    job = {
        **short_job(tmp_path_factory.mktemp("pictures")),
        "checkpoint": f"{family}.safetensors",
        "steps": 4,
    }
    plain, before = webui.picture(), webui.ask("probe")
    done = webui.result(webui.train(**job, name=family))
    assert (done["state"], done["error"]) == ("done", "")
    assert webui.ask("probe") == before
    assert webui.picture() == plain
    card = json.loads((webui.loras / f"{family}.json").read_text("utf-8"))
    assert card["sd version"] == family.upper()
    prompt = f"a red circle on a white background <lora:{family}:1>"
    assert webui.picture(prompt) != plain
    layers = {name.partition(".")[0] for name in webui.tensors(family)}
    assert webui.ask("probe/networks") == {family: len(layers)}
    done = webui.result(webui.train(**job, name=f"{family}-again"))
    assert done["state"] == "done", "with a LoRA in the weights"
    assert all(
        torch.equal(tensor, webui.tensors(family)[name])
        for name, tensor in webui.tensors(f"{family}-again").items()
    )
    assert webui.picture(prompt) != plain
    assert webui.picture() == plain


def test_prompts_become_what_the_webui_makes_of_them(webui: RealWebui, family: str) -> None:
    word = "mypair" if family == "sdxl" else "mychar"
    try:
        for emphasis in EMPHASIS:
            webui.options(emphasis=emphasis)
            for prompt in CONDITIONED:
                check(webui, prompt.replace("mychar", word), word)
    finally:
        webui.options(emphasis="Original")


@pytest.mark.parametrize("skip", [1, 2, 3])
def test_clip_skip_of_the_settings_is_followed(webui: RealWebui, family: str, skip: int) -> None:
    webui.options(CLIP_stop_at_last_layers=skip, sdxl_clip_l_skip=True)
    try:
        check(webui, "a (red:1.3) circle", "mypair")
        webui.options(sdxl_clip_l_skip=False)
        check(webui, "a (red:1.3) circle", "mypair")
    finally:
        webui.options(CLIP_stop_at_last_layers=1, sdxl_clip_l_skip=False)


def check(webui: RealWebui, prompt: str, embedding: str) -> None:
    found = webui.ask("probe/conditioning?" + urlencode({"prompt": prompt}))
    assert found["far"] is not None, (prompt, found)
    assert found["far"] < 1e-4, (prompt, found)
    assert found["moved"] or embedding not in prompt
