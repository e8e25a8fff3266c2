"""A real webui's model after a stop in every part of a job; `real.py` says what it needs."""

from __future__ import annotations

import json
import time
from urllib.parse import urlencode

import pytest

from tests.hosts.real import MARKS, RealWebui, short_job
from trainer.demo.checkpoint import CHECKPOINT

pytestmark = MARKS
AT_ONCE_S = 30
"""A picture takes a tenth of a second on an idle machine."""
PLACES = {
    # part of the job: (where it is stopped, whether there is anything to save by then)
    "the check": ("run:make_plan", False),
    "borrowing": ("hosts.loan:assembled", False),
    "encoding pictures": ("models.model:DiffusionModel.encode_pixels", False),
    "encoding captions": ("models.text:PromptEncoder.encode_windows", False),
    "the first step": ("training.loop:Loop.run", False),
    "a step": ("models.model:DiffusionModel.denoise", True),
    "a state": ("training.state:StateFolder.write", True),
    "a picture on the way": ("samples:Sampler._draw", True),
}
LATE = {"saving": "networks.kohya:save", "the preview": "result:draw_preview"}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """A job that does everything that a job can do."""
    pictures = {
        "sample_prompts": "a red circle",
        "sample_every_steps": 2,
        "sample_denoise_steps": 2,
    }
    return {
        **short_job(tmp_path_factory.mktemp("pictures")),
        **pictures,
        "blocks": "IN01,M00,OUT05",  # a text encoder that is not trained encodes in advance
        "steps": 6,
        "save_preview": True,
        "save_state_every_steps": 2,
    }


def stopped(
    webui: RealWebui, job: dict[str, object], place: str, *, save: bool
) -> dict[str, object]:
    """The job after a stop in that place; the webui must draw at once, and its model be whole."""
    plain, before = webui.picture(), webui.ask("probe")
    webui.ask("probe/stop_in?" + urlencode({"place": place, "save": save}))
    number = webui.train(**job)
    ended = webui.result(number)
    begun = time.monotonic()
    assert webui.picture() == plain
    assert time.monotonic() - begun < AT_ONCE_S
    assert webui.ask("probe") == before
    assert ended["error"] == ""
    assert not webui.ask("trainyard/v1/status")["running"]
    return ended


@pytest.mark.parametrize("save", [False, True], ids=["stop", "stop-and-save"])
@pytest.mark.parametrize("part", list(PLACES))
def test_a_stop_in(webui, settings, part, save) -> None:
    place, learned = PLACES[part]
    name = f"{part.replace(' ', '-')}-{save}"
    ended = stopped(webui, {**settings, "name": name}, place, save=save)
    kept = save and learned
    assert ended["state"] == ("done" if kept else "cancelled")
    assert (webui.loras / f"{name}.safetensors").is_file() is kept


@pytest.mark.parametrize("save", [False, True], ids=["stop", "stop-and-save"])
@pytest.mark.parametrize("part", list(LATE))
def test_a_stop_that_comes_too_late_changes_nothing(webui, settings, part, save) -> None:
    name = f"{part.replace(' ', '-')}-{save}"
    ended = stopped(webui, {**settings, "name": name}, LATE[part], save=save)
    assert ended["state"] == "done"
    files = {f"{name}.{kind}" for kind in ("safetensors", "png", "json")}
    assert {path.name for path in webui.loras.glob(f"{name}.*")} == files
    assert json.loads((webui.loras / f"{name}.json").read_text("utf-8"))["activation text"]


@pytest.mark.parametrize("save", [False, True], ids=["stop", "stop-and-save"])
@pytest.mark.parametrize(
    "place",
    ["training.holding:ask", "models.model:DiffusionModel.denoise"],
    ids=["begin", "middle"],
)
def test_a_stop_while_the_frozen_model_is_asked(webui, place, save) -> None:
    words = {"original_prompt": "red", "target_prompt": "blue", "image_size_px": 64}
    job = {"method": "ileco", **words, "checkpoint": CHECKPOINT.name, "pool_size": 64, "steps": 6}
    name = f"pool-{place[-3:]}-{save}"
    ended = stopped(webui, {**job, "name": name}, place, save=save)
    assert ended["state"] == "cancelled"
    assert not (webui.loras / f"{name}.safetensors").exists()
