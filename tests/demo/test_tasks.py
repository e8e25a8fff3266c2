"""The tasks that methods are measured on, and the run that measures them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from trainer.demo.pair_tasks import hole, is_holed, is_whole
from trainer.demo.quality import baselines, measure
from trainer.demo.quality_report import as_json, table
from trainer.demo.task import blueness, is_plain, shows
from trainer.demo.tasks import TASKS
from trainer.demo.world import COLOURS, Scene, draw
from trainer.settings.schema import parse


@pytest.mark.parametrize("name", list(TASKS))
def test_jobs_are_whole_and_the_cases_were_not_trained(name: str, tmp_path: Path) -> None:
    task = TASKS[name]
    job = parse({**task.job(tmp_path), "method": task.method, "checkpoint": "c"})
    trained = str(job.as_dict())
    prompts = {case.prompt for case in (*task.effect, *task.removal)}
    assert len(task.effect) == len(task.collateral) == 40
    assert not [
        prompt for prompt in prompts if f"'{prompt}'" in trained or f"\\n{prompt}" in trained
    ]
    assert len({case.seed for case in task.effect}) == 40


def test_the_checks_tell_right_from_wrong_on_drawn_pictures() -> None:
    scene = Scene("star", "green", "white")
    plain, striped = draw(scene), draw(dataclasses.replace(scene, striped=True))
    assert shows(scene)(plain)
    assert not shows(dataclasses.replace(scene, colour="red"))(plain)
    holed = draw(dataclasses.replace(scene, holed=True))
    assert is_holed(scene)(holed)
    assert not is_holed(scene)(plain)
    assert is_whole(scene)(plain)
    assert not is_whole(scene)(holed)
    assert is_plain(scene)(plain)
    assert not is_plain(scene)(striped)
    assert not is_plain(dataclasses.replace(scene, shape="heart"))(plain)
    assert hole(holed) > hole(plain)
    levels = {colour: blueness(draw(Scene("square", colour, "white"))) for colour in COLOURS}
    assert max(levels, key=lambda colour: levels[colour]) == "blue"
    assert min(levels, key=lambda colour: levels[colour]) in ("red", "orange")


@pytest.mark.slow
def test_ours_and_the_peers_are_measured_alike(tiny_checkpoint: Path, tmp_path: Path) -> None:
    task = TASKS["ileco"]
    small = dataclasses.replace(
        task, effect=task.effect[:2], collateral=task.collateral[:2], grade=blueness
    )
    few = {"steps": 2, "pool_size": 8, "blocks": "M00"}
    both = {"points": 2, "strengths": (0.5, 2.0)}
    ours = measure(small, tiny_checkpoint, tmp_path / "a", 1, {}, changes=few, **both)
    peer = baselines()["ileco"]
    theirs = measure(
        *(small, tiny_checkpoint, tmp_path / "b", 1, {}),
        who=peer.name,
        method=peer.train,
        changes={**peer.settings, **few},
        **both,
    )
    assert [point.step for point in ours.course] == [1, 2]
    assert theirs.steps == 2
    # 2 steps x batch 2, three passes each with a graph and one without, facts/traintrain.md
    assert theirs.passes == 2 * 2 * (3 + 1)
    assert ours.slider is not None
    assert len(ours.slider) == 5
    assert as_json(ours)["to_effect"] is None
    assert [dose.strength for dose in ours.doses] == [0.5, 2.0]
    *rows, curve, _ = table([ours, theirs]).splitlines()
    assert any("plain" in row for row in rows)
    assert "0.5:0%/0%  2:0%/0%" in curve


@pytest.mark.parametrize("name", ["difference", "addift", "multi_addift"])
def test_the_peers_pairs_are_trained_with_the_numbers_of_its_presets(
    name: str, tmp_path: Path
) -> None:
    task, peer = TASKS[name], baselines()[name]
    job = {**task.job(tmp_path), **peer.settings, "method": task.method, "checkpoint": "c"}
    last = parse(job).for_second_pass()
    # facts/traintrain.md, shipped presets: 4/4 in the second pass, ADDifT action 4/1, t 500-1000
    ranks = {"difference": (4, 4), "addift": (4, 1), "multi_addift": (4, 1)}
    assert (last.values["rank"], last.values["alpha"]) == ranks[name]
    assert last.values.get("original_prompt", "") == ""
    assert last.values["placements"] == 1
    assert "OUT11" in last.values["blocks"]
    ours = parse({**task.job(tmp_path), "method": task.method, "checkpoint": "c"}).for_second_pass()
    for budget in ("steps", "batch_size"):
        assert last.values[budget] == ours.values[budget]
