"""Every method in a real webui: trained through the API, drawn by the webui, read by the judge.

`real.py` says what must be set.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from PIL import Image

from tests.hosts.real import MARKS, RealWebui
from trainer.demo.checkpoint import CHECKPOINT
from trainer.demo.examples import EXAMPLES, prepare_lora
from trainer.demo.tasks import TASKS
from trainer.evaluate.measures import Case, Draw, collateral, effect

pytestmark = [*MARKS, pytest.mark.slow]
log = logging.getLogger(__name__)
CASES = 12
Cases = Sequence[Case]


@dataclasses.dataclass(frozen=True)
class Lesson:
    """A job, and how the pictures after it are judged."""

    job: Callable[[Path], dict[str, object]]
    effect: Cases
    collateral: Cases


def lora_job(folder: Path) -> dict[str, object]:
    return {**prepare_lora(folder).as_dict(), "steps": 200}


LESSONS = {
    "lora": Lesson(lora_job, EXAMPLES["lora"].held_out, EXAMPLES["lora"].unrelated),
    **{
        name: Lesson(
            lambda folder, task=TASKS[name]: {**task.job(folder), "method": task.method},
            TASKS[name].effect,
            TASKS[name].collateral,
        )
        for name in ("ileco", "difference", "addift", "multi_addift")
    },
}


def drawing(webui: RealWebui, name: str) -> Draw:
    """Draws with the webui's own sampler, and with the LoRA in the prompt as a user has it."""

    def draw(prompts: Sequence[str], seeds: Sequence[int], strength: float) -> list[Image.Image]:
        lora = f" <lora:{name}:{strength:g}>" if strength else ""
        settings = {"sampler_name": "DDIM", "steps": 20, "cfg_scale": 5.0}
        return [webui.image(p + lora, s, **settings) for p, s in zip(prompts, seeds, strict=True)]

    return draw


@pytest.mark.parametrize("name", list(LESSONS))
def test_what_was_trained_shows_and_the_rest_stays(webui, tmp_path, name) -> None:
    lesson = LESSONS[name]
    webui.picture()  # Forge has no model before the first one, and the last LoRA in it
    before = webui.ask("probe")
    job = {**lesson.job(tmp_path), "checkpoint": CHECKPOINT.name, "name": f"t-{name}", "seed": 1}
    done = webui.result(webui.train(**job))
    assert (done["state"], done["error"]) == ("done", "")
    assert webui.ask("probe") == before
    draw = drawing(webui, f"t-{name}")
    shown = effect(draw, lesson.effect[:CASES])
    harm = collateral(draw, lesson.collateral[:CASES])
    seconds = done["finished_s"] - done["started_s"]
    told = dataclasses.asdict(shown), dataclasses.asdict(harm)
    log.info("%s", json.dumps({"method": name, "seconds": round(seconds), "told": told}))
    assert shown.share - shown.before >= 0.5
    assert harm.share <= 0.35
