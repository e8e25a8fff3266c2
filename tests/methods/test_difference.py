"""Difference: two passes, the copier's file, settings of the second pass, masks."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from trainer import measure
from trainer.data.batches import BatchOrder
from trainer.errors import BadInput
from trainer.events import Event, Saved, StepDone
from trainer.hosts.standalone import StandaloneHost
from trainer.measure import measure_step
from trainer.networks import kohya
from trainer.settings.groups import TrainingSettings
from trainer.settings.names import SETTINGS_KEY
from trainer.settings.schema import parse
from trainer.training.loop import Outcome
from trainer.training.plan import make_plan
from trainer.training.session import Session
from trainer.training.training_data import PairBatch, PairData

Run = Callable[..., tuple[Path, Outcome, list[Event]]]


def equal(a: Path, b: Path) -> bool:
    first, second = kohya.load(a)[0], kohya.load(b)[0]
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


def test_the_second_pass_has_its_own_settings_and_its_network_is_saved(run: Run) -> None:
    second = {"rank": 1, "alpha": 3, "steps": 2, "blocks": "M00"}
    file, outcome, events = run("difference", second_pass=second)
    tensors, metadata = kohya.load(file)
    downs = [tensor for name, tensor in tensors.items() if "lora_down" in name]
    assert {tensor.shape[0] for tensor in downs} == {1}
    assert {float(t) for name, t in tensors.items() if name.endswith(".alpha")} == {3.0}
    assert all("mid_block" in name for name in tensors)
    assert metadata["ss_network_dim"] == "1"
    assert outcome.steps == 2
    totals = [event.total_steps for event in events if isinstance(event, StepDone)]
    assert totals == [3, 3, 3, 2, 2]


def test_every_file_carries_the_settings_of_the_whole_job(
    run: Run, jobs: dict[str, dict[str, object]]
) -> None:
    values = {"rank": 3, "steps": 4, "save_copier": True, "second_pass": {"rank": 1, "steps": 2}}
    file, _, _ = run("difference", **values)
    given = {**jobs["difference"], "method": "difference", "name": "difference"}
    copier = file.with_name("difference-copier.safetensors")
    for one, told in ((copier, ("3", "4")), (file, ("1", "2"))):
        metadata = kohya.load(one)[1]
        assert (metadata["ss_network_dim"], metadata["ss_max_train_steps"]) == told
        carried = {**json.loads(metadata[SETTINGS_KEY]), "checkpoint": given["checkpoint"]}
        assert parse({**given, **carried}) == parse({**given, **values})


def test_each_pass_has_batches_of_its_own_size(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    take = PairData.take

    def noting(data: PairData, indices: Sequence[int]) -> PairBatch:
        sizes.append(len(indices))
        return take(data, indices)

    monkeypatch.setattr(PairData, "take", noting)
    values = {"placements": 4, "steps": 5, "second_pass": {"batch_size": 3, "steps": 2}}
    file, _, events = run("difference", save_copier=True, **values)
    assert sizes[:5] == [1, 1, 1, 1, 1]
    assert sorted(sizes[5:]) == [1, 3], "of four samples"
    assert [one.epoch for one in events if isinstance(one, StepDone)] == [1, 1, 1, 1, 2, 1, 1]
    copier = kohya.load(file.with_name("difference-copier.safetensors"))[1]
    told = ("batch_size_per_device", "num_batches_per_epoch", "num_epochs")
    assert [copier[f"ss_{key}"] for key in told] == ["1", "4", "2"]
    assert [kohya.load(file)[1][f"ss_{key}"] for key in told] == ["3", "2", "1"]


def test_time_and_memory_are_those_of_both_passes(
    jobs: dict[str, dict[str, object]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def timed(session: Session) -> tuple[float, int]:
        return float(session.settings[TrainingSettings].batch_size), 7

    monkeypatch.setattr(measure, "_timed", timed)
    host = StandaloneHost(tmp_path, tmp_path / "out", "cpu")
    one = parse({**jobs["difference"], "method": "difference", "steps": 10})
    both = one.replace(second_pass={"batch_size": 5, "steps": 30})
    for settings, seconds in ((one, 1.0), (both, 4.0)):
        assert measure_step(settings, make_plan(settings, host), host).seconds_per_step == seconds
    estimates = [make_plan(settings, host).estimated_mb or 0 for settings in (one, both)]
    assert estimates[1] > estimates[0]


def test_a_preview_shows_what_only_the_second_pass_trains(run: Run) -> None:
    second = {"network": "loha", "blocks": "BASE"}
    file, _, _ = run("difference", blocks="M00", second_pass=second, save_preview=True)
    assert all(name.startswith("lora_te") for name in kohya.load(file)[0])
    assert file.with_suffix(".png").is_file()


def test_the_second_network_begins_with_weights_of_its_own(run: Run) -> None:
    """Else it could only turn the copier's own ranks, of the same size."""
    file, _, _ = run("difference", save_copier=True, learning_rate=1e-9)  # stays as it began
    tensors, copier = (
        kohya.load(one)[0] for one in (file, file.with_name("difference-copier.safetensors"))
    )
    for name, tensor in tensors.items():
        if "lora_down" in name:
            assert (tensor - copier[name]).abs().mean() > 0.1 * tensor.abs().mean()


def test_a_saved_copier_is_as_strong_as_it_was_in_training(run: Run) -> None:
    plain, strong, as_result = (
        run("difference", name=name, network_strength=strength, **more)[0]
        for name, strength, more in (
            ("plain", 1, {"save_copier": True, "save_every_steps": 2}),
            ("strong", 3, {"save_copier": True, "save_every_steps": 2}),
            ("as-result", 3, {"copier_only": True}),
        )
    )
    copiers = [path.with_name(f"{path.stem}-copier.safetensors") for path in (plain, strong)]
    assert equal(*copiers)
    ups = {name for name in kohya.load(plain)[0] if "lora_up" in name}
    steps = [path.with_name(f"{path.stem}-step00000002.safetensors") for path in (plain, strong)]
    for once, thrice in ((plain, strong), steps, (copiers[0], as_result)):
        few, many = (kohya.load(path)[0] for path in (once, thrice))
        assert all(torch.allclose(3 * few[name], many[name]) for name in ups)
        assert any(few[name].any() for name in ups)


def test_a_saved_copier_can_be_used_instead_of_training_one(run: Run) -> None:
    whole, _, events = run("difference", save_copier=True, name="whole")
    copier = whole.with_name("whole-copier.safetensors")
    assert [event.path for event in events if isinstance(event, Saved)] == [copier, whole]
    again, _, events = run("difference", copier_file=str(copier), name="again")
    assert sum(isinstance(event, StepDone) for event in events) == 3
    assert kohya.load(again)[0].keys() == kohya.load(whole)[0].keys()
    other, _, _ = run("difference", name="other", learning_rate=1e-2, save_copier=True)
    other_copier = other.with_name("other-copier.safetensors")
    differently, _, _ = run("difference", copier_file=str(other_copier), name="differently")
    assert not equal(again, differently)


def test_the_first_pass_alone_saves_the_copier_as_the_result(run: Run) -> None:
    whole, _, _ = run("difference", save_copier=True, name="whole")
    only, outcome, events = run("difference", copier_only=True, name="only")
    assert outcome.steps == 3
    assert [event.path for event in events if isinstance(event, Saved)] == [only]
    assert equal(only, whole.with_name("whole-copier.safetensors"))


def test_a_copier_of_other_layers_is_refused_before_anything_is_computed(run: Run) -> None:
    only, _, _ = run("difference", copier_only=True, name="only")
    with pytest.raises(BadInput, match="layers that are not trained"):
        run("difference", copier_file=str(only), blocks="M00", name="x")
    with pytest.raises(BadInput, match="cannot be read"):
        run("difference", copier_file="nowhere.safetensors", name="x")


def test_a_mask_changes_what_is_learnt_in_the_second_pass(run: Run) -> None:
    plain, masked = (
        run("difference", name=f"mask-{mask}", mask=mask)[0] for mask in ("none", "difference")
    )
    assert not equal(plain, masked)


def test_a_single_pair_fills_the_batch(run: Run) -> None:
    one, two = (run("addift", name=f"batch{n}", batch_size=n)[0] for n in (1, 2))
    assert not equal(one, two)


def test_the_prompt_and_the_trigger_word_are_really_used(run: Run) -> None:
    plain, prompted, triggered = (
        run(method, name=name, **changes)[0]
        for method, name, changes in (
            ("addift", "plain", {}),
            ("addift", "prompted", {"original_prompt": "a cat"}),
            ("addift", "triggered", {"trigger_word": "a cat"}),
        )
    )
    assert not equal(plain, prompted)
    assert equal(prompted, triggered)


@pytest.mark.parametrize("method", ["difference", "addift"])
def test_a_prompt_beyond_the_limit_is_refused_or_cut(method: str, run: Run) -> None:
    few, many = "word " * 19, "word " * 30
    with pytest.raises(BadInput) as caught:
        run(method, max_prompt_tokens=20, original_prompt=few, trigger_word="a, b")
    (problem,) = caught.value.problems
    assert problem.where == "original_prompt"
    assert "tokens, and 20 are allowed" in problem.what
    cut = {"max_prompt_tokens": 20, "truncate_prompts": True}
    file, _, _ = run(method, original_prompt=many, name="long", **cut)
    same, _, _ = run(method, original_prompt="word " * 20, name="same")
    assert equal(file, same)


def test_the_second_pass_goes_on_in_the_order_of_the_first(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    places: list[tuple[int, int]] = []
    following = BatchOrder.__next__

    def noted(order: BatchOrder) -> tuple[int, ...]:
        batch = following(order)
        places.append(order.place)
        return batch

    monkeypatch.setattr(BatchOrder, "__next__", noted)
    run("difference")
    assert places == [(epoch, 0) for epoch in range(6)]
    places.clear()
    run("difference", name="other", second_pass={"batch_size": 2})
    assert places[3:] == [(epoch, 0) for epoch in range(3)], "batches of its own size"
