"""Against a real webui on the CPU: what the stand-in claims, and what only the real one can show.

`real.py` says what must be set.
"""

from __future__ import annotations

import json
import shutil
import threading
import urllib.request
from urllib.parse import urlencode

import pytest

from tests.hosts.real import (
    CONDITIONED,
    KIND,
    MARKS,
    OTHER,
    same,
    short_job,
)
from trainer.demo.checkpoint import CHECKPOINT
from trainer.networks.kinds import KINDS

pytestmark = MARKS


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    return short_job(tmp_path_factory.mktemp("pictures"))


def test_a_training_leaves_the_model_as_it_was_and_its_lora_works(webui, settings) -> None:
    plain = webui.picture()
    before = webui.ask("probe")
    done = webui.result(webui.train(**settings, name="alone"))
    assert (done["state"], done["error"]) == ("done", "")
    assert webui.ask("probe") == before
    assert webui.picture() == plain
    listed = {one["name"]: one for one in webui.ask("sdapi/v1/loras")}
    assert listed["alone"]["metadata"]["ss_network_dim"] == "4"
    card = json.loads((webui.loras / "alone.json").read_text("utf-8"))
    assert (card["activation text"], card["sd version"]) == ("ohwx", "SD1")
    assert webui.picture("a red circle on a white background <lora:alone:1>") != plain
    assert webui.picture() == plain


@pytest.mark.parametrize(
    ("name", "value"), [("base_precision", "bf16"), ("gradient_checkpointing", True)]
)
def test_other_ways_of_computing_leave_it_as_it_was(webui, settings, name, value) -> None:
    """bf16 is a copy of its own, whose convolutions lie as oneDNN wants them."""
    plain = webui.picture()
    before = webui.ask("probe")
    done = webui.result(webui.train(**settings, name=name, **{name: value}))
    assert (done["state"], done["error"]) == ("done", "")
    assert webui.ask("probe") == before
    assert webui.picture() == plain
    assert webui.picture(f"a red circle on a white background <lora:{name}:1>") != plain


def test_a_lora_in_the_weights_is_not_trained_on_and_is_put_back(webui, settings) -> None:
    webui.picture()
    clean = webui.ask("probe")
    changed = webui.picture("a red circle <lora:alone:1>")
    before = webui.ask("probe")
    assert before != clean
    assert webui.result(webui.train(**settings, name="over"))["state"] == "done"
    stays = KIND == "A1111"  # the others work it in again when they draw
    assert webui.ask("probe") == (before if stays else clean)
    assert webui.picture("a red circle <lora:alone:1>") == changed
    assert same(webui.tensors("over"), webui.tensors("alone"))


def test_pictures_and_training_do_not_disturb_each_other(webui, settings) -> None:
    plain, changed = webui.picture(), webui.picture("a circle <lora:alone:1>")
    job = webui.train(**settings, name="interrupted")
    webui.until_step(job, 2)
    assert webui.picture() == plain
    assert webui.picture("a circle <lora:alone:1>") == changed
    assert webui.ask("trainyard/v1/status")["running"], "the pictures came in the middle"
    assert webui.result(job)["state"] == "done"
    assert same(webui.tensors("interrupted"), webui.tensors("alone"))


def test_a_new_file_of_the_same_name_takes_effect_at_once(webui, settings) -> None:
    prompt = "a circle <lora:again:1>"
    job = {**settings, "text_encoder_learning_rate": 0.1, "name": "again"}
    webui.result(webui.train(**job))
    webui.picture()  # Forge keeps no prompt of the first picture
    first = webui.picture(prompt)
    webui.result(webui.train(**{**job, "seed": 2}, overwrite=True))
    second = webui.picture(prompt)
    assert second != first
    shutil.copy(webui.loras / "again.safetensors", webui.loras / "fresh.safetensors")
    assert webui.picture(prompt.replace("again", "fresh")) == second, "also in the text encoder"


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_file_of_every_kind_takes_effect(webui, settings, kind) -> None:
    few = {"network": kind, "steps": 4, "blocks": "BASE,IN01,M00,OUT05"}
    done = webui.result(webui.train(**{**settings, **few}, name=kind))
    assert (done["state"], done["error"]) == ("done", "")
    plain = webui.picture("a circle")
    assert webui.picture(f"a circle <lora:{kind}:1>") != plain
    assert webui.picture("a circle") == plain
    log = (webui.data / "webui.log").read_text("utf-8", "replace")
    assert f"loading network {webui.loras / kind}" not in log, "how the webui tells of a failure"


@pytest.mark.parametrize("save", [False, True])
def test_a_stop_leaves_the_model_as_it_was(webui, settings, save) -> None:
    webui.picture()
    before = webui.ask("probe")
    job = webui.train(**settings, name=f"stopped-{save}")
    webui.until_step(job, 2)
    webui.ask(f"trainyard/v1/jobs/{job}/stop", {"save": save})
    assert webui.result(job)["state"] == ("done" if save else "cancelled")
    assert (webui.loras / f"stopped-{save}.safetensors").exists() is save
    assert webui.ask("probe") == before


def test_a_stop_before_the_first_step_leaves_the_model_as_it_was(webui, settings) -> None:
    before = webui.ask("probe")
    words = {"original_prompt": "red", "target_prompt": "blue", "image_size_px": 64}
    long = {"checkpoint": CHECKPOINT.name, "steps": 1000}
    for name, job in (("lora", settings), ("ileco", {"method": "ileco", **words})):
        number = webui.train(**{**job, **long}, name=f"early-{name}")
        webui.ask(f"trainyard/v1/jobs/{number}/stop", {"save": False})
        assert webui.result(number)["state"] == "cancelled"
        assert webui.ask("probe") == before


def test_memory_that_runs_out_is_answered_and_the_webui_draws_on(webui, settings) -> None:
    plain, before = webui.picture(), webui.ask("probe")
    webui.ask("probe/out_of_memory")
    failed = webui.result(webui.train(**settings, name="too-large"))
    assert failed["state"] == "failed"
    assert "2.00 GiB" in failed["error"]
    assert "gradient_checkpointing" in failed["error"]
    assert webui.picture() == plain
    assert webui.ask("probe") == before


@pytest.mark.parametrize("emphasis", ["Original", "No norm", "Ignore", "None"])
def test_prompts_become_what_the_webui_makes_of_them(webui, emphasis) -> None:
    original = emphasis == "Original"
    webui.picture()  # none with a LoRA
    webui.options(
        emphasis=emphasis,
        CLIP_stop_at_last_layers=2 if original else 1,
        comma_padding_backtrack=20 if original else 0,  # Forge shows this setting, unused
    )
    try:
        for prompt in CONDITIONED:
            found = webui.ask("probe/conditioning?" + urlencode({"prompt": prompt}))
            assert found["far"] is not None, (prompt, found)
            assert found["far"] < 1e-4, (prompt, found)
            assert found["moved"] or "mychar" not in prompt
    finally:
        webui.options(emphasis="Original", CLIP_stop_at_last_layers=1, comma_padding_backtrack=20)


def test_the_webuis_documentation_tells_what_every_route_does(webui) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{webui.port}/docs") as page:
        assert "/openapi.json" in page.read().decode()
    paths = webui.ask("openapi.json")["paths"]
    ours = {path: ways for path, ways in paths.items() if path.startswith("/trainyard/")}
    told = [way for ways in ours.values() for way in ways.values()]
    assert len(told) > 20
    assert all(way["tags"] == ["Trainyard"] for way in told)
    summaries = [way["summary"] for way in told]
    assert all(len(text.split()) > 2 for text in summaries), summaries
    assert len(set(summaries)) == len(summaries), "each says something of its own"
    assert {"get", "patch", "delete"} <= set(ours["/trainyard/v1/jobs/{job_id}"])


def test_checkpoints_are_switched_before_during_and_after(webui, settings) -> None:
    webui.options(sd_model_checkpoint=f"{OTHER}.safetensors")
    job = webui.train(**settings, name="switched")
    webui.until_step(job, 2)
    assert webui.ask("probe")["checkpoint"] == CHECKPOINT.name, "loaded through the webui"
    chosen = threading.Thread(
        target=webui.options, kwargs={"sd_model_checkpoint": f"{OTHER}.safetensors"}
    )
    chosen.start()
    assert webui.result(job)["state"] == "done"
    chosen.join(60)
    assert same(webui.tensors("switched"), webui.tensors("alone"))
    webui.picture()
    assert webui.ask("probe")["checkpoint"] == f"{OTHER}.safetensors"
    webui.options(sd_model_checkpoint=CHECKPOINT.name)


def test_a_killed_webui_goes_on_with_the_job(webui, settings) -> None:
    job = webui.train(**settings, name="killed", save_state_every_steps=3)
    webui.until_step(job, 8)
    webui.kill()
    assert not (webui.loras / "killed.safetensors").exists()
    webui.start()
    assert webui.ask(f"trainyard/v1/jobs/{job}")["state"] == "interrupted"
    webui.ask(f"trainyard/v1/jobs/{job}/requeue", {"resume": True})
    webui.ask("trainyard/v1/queue/start", {})
    done = webui.result(job)
    assert (done["state"], done["error"]) == ("done", "")
    assert same(webui.tensors("killed"), webui.tensors("alone"))
