"""Presets: the shipped ones, and a user's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer.errors import BadInput
from trainer.settings.files import read_object
from trainer.settings.groups import (
    BLOCKS,
    DataSettings,
    LossSettings,
    NetworkSettings,
    OptimizerSettings,
    TrainingSettings,
)
from trainer.settings.migrate import SETTINGS_VERSION, VERSION_KEY
from trainer.settings.presets import SHIPPED, PresetName, PresetStore, apply, read_preset
from trainer.settings.schema import parse

JOB = {"method": "lora", "checkpoint": "model.safetensors", "images": "pictures"}
PAIR = {"original_image": "a.png", "target_image": "b.png"}
OWN: dict[str, dict[str, str]] = {
    "lora": {},
    "ileco": {"original_prompt": "red"},
    "difference": PAIR,
    "addift": PAIR,
    "multi_addift": {"pair_suffix": "_b"},
}
"""What only the user can give, by method."""


@pytest.fixture
def store(tmp_path: Path) -> PresetStore:
    return PresetStore(tmp_path / "own")


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.json")), ids=lambda path: path.stem)
def test_every_shipped_preset_makes_a_job(path: Path) -> None:
    values = read_preset(path)
    assert read_object(path)[VERSION_KEY] == SETTINGS_VERSION
    # It leaves model, pictures and name to the user.
    assert not {"checkpoint", "images", "name"} & set(values)
    job = parse(apply({**JOB, **OWN[str(values["method"])]}, values))
    assert job.values["checkpoint"] == "model.safetensors"
    assert {name: job.as_dict()[name] for name in values} == values


def test_the_lora_preset_has_the_numbers_of_traintrain(store: PresetStore) -> None:
    # facts/traintrain.md, shipped presets: 16/8, 1000 steps, batch 2, 1e-4; size 512, Full, bucket
    # step 256, min length 512, ratio 2, AdamW cosine, seed -1, gamma 5
    job = parse({**JOB, **store.load("LoRA")})
    network, training = job[NetworkSettings], job[TrainingSettings]
    assert (network.network, network.rank, network.alpha) == ("lierla", 16, 8)
    assert (network.element, network.blocks) == ("Full", BLOCKS)
    assert (training.steps, training.batch_size, training.seed) == (1000, 2, -1)
    optimizer, data = job[OptimizerSettings], job[DataSettings]
    assert (optimizer.optimizer, optimizer.lr_scheduler) == ("AdamW", "cosine")
    assert optimizer.learning_rate == optimizer.text_encoder_learning_rate == 1e-4
    assert data.image_size_px == (512, 512)
    assert (data.bucket_step_px, data.min_length_px, data.max_ratio) == (256, 512, 2)
    assert job[LossSettings].min_snr_gamma == 5


@pytest.mark.parametrize(
    ("name", "values"),
    [
        # facts/traintrain.md, shipped presets
        ("iLECO", {"rank": 4, "alpha": 8.0, "batch_size": 2, "learning_rate": 5e-4}),
        ("Difference", {"rank": 16, "alpha": 16.0, "steps": 500, "learning_rate": 5e-4}),
        ("Difference second pass", {"second_pass": {"rank": 4, "alpha": 4, "learning_rate": 1e-4}}),
        ("ADDifT action SD1", {"rank": 4, "alpha": 1.0, "steps": 30, "min_timestep": 500}),
        ("ADDifT action SDXL", {"learning_rate": 2e-4, "image_size_px": [1024, 1024]}),
        ("ADDifT style SD1", {"steps": 50, "max_timestep": 400, "network_strength": 5.0}),
        ("ADDifT style SDXL", {"min_snr_gamma": 1.0, "network_strength": 2.0, "revert": True}),
    ],
)
def test_other_presets_have_the_numbers_of_traintrain(
    name: str, values: dict[str, object], store: PresetStore
) -> None:
    found = store.load(name)
    assert {key: found[key] for key in values} == values


def test_saved_presets_are_listed_loaded_renamed_and_deleted(store: PresetStore) -> None:
    shipped = store.list()
    assert PresetName("LoRA", own=False) in shipped
    store.save("mine", {"method": "lora", "rank": "4"})
    assert set(store.list()) - set(shipped) == {PresetName("mine", own=True)}
    assert store.load("mine") == {"method": "lora", "rank": 4}
    store.rename("mine", "yours")
    assert set(store.list()) - set(shipped) == {PresetName("yours", own=True)}
    store.delete("yours")
    assert store.list() == shipped


def test_an_own_preset_stands_before_the_shipped_one_until_it_is_deleted(
    store: PresetStore,
) -> None:
    store.save("LoRA", {"method": "lora", "rank": 4})
    assert store.load("LoRA")["rank"] == 4
    assert PresetName("LoRA", own=True) in store.list()
    store.delete("LoRA")
    assert store.load("LoRA")["rank"] == 16


def test_shipped_presets_are_neither_renamed_nor_deleted(store: PresetStore) -> None:
    with pytest.raises(BadInput, match="belongs to Trainyard"):
        store.delete("LoRA")
    with pytest.raises(BadInput, match="belongs to Trainyard"):
        store.rename("LoRA", "mine")
    assert (SHIPPED / "LoRA.json").is_file()


def test_saving_over_a_preset_has_to_be_asked_for(store: PresetStore) -> None:
    store.save("mine", {"rank": 4})
    with pytest.raises(BadInput, match=r'"mine" exists already .* "mine-2"'):
        store.save("mine", {"rank": 8})
    assert store.load("mine") == {"rank": 4}
    store.save("mine-2", {"rank": 2})
    with pytest.raises(BadInput, match=r'"mine" exists already .* "mine-3"'):
        store.rename("mine-2", "mine")
    store.save("mine", {"rank": 8}, overwrite=True)
    assert store.load("mine") == {"rank": 8}


def test_renaming_does_not_overwrite(store: PresetStore) -> None:
    store.save("one", {"rank": 1})
    store.save("two", {"rank": 2})
    with pytest.raises(BadInput, match="exists already"):
        store.rename("one", "two")
    assert store.load("two") == {"rank": 2}


@pytest.mark.parametrize("name", ["../evil", "/evil", "a\\b", "", ".hidden", "CON"])
def test_names_stay_in_the_folder(store: PresetStore, tmp_path: Path, name: str) -> None:
    store.save("mine", {"rank": 4})
    (tmp_path / "evil.json").write_text("{}")
    for action in (
        lambda: store.load(name),
        lambda: store.save(name, {"rank": 4}, overwrite=True),
        lambda: store.rename("mine", name),
        lambda: store.rename(name, "yours"),
        lambda: store.delete(name),
    ):
        with pytest.raises(BadInput) as caught:
            action()
        assert caught.value.problems[0].where == "preset"
    assert (tmp_path / "evil.json").read_text() == "{}"


def test_a_wrong_preset_is_not_saved(store: PresetStore) -> None:
    with pytest.raises(BadInput) as caught:
        store.save("mine", {"rank": 0, "stps": 3})
    assert {problem.where for problem in caught.value.problems} == {"rank", "stps"}
    assert PresetName("mine", own=True) not in store.list()


def test_a_wrong_file_is_named_with_every_problem(store: PresetStore) -> None:
    store.own.mkdir()
    path = store.own / "old.json"
    path.write_text('{"rank": 0, "train_iterations": 5}')
    with pytest.raises(BadInput) as caught:
        store.load("old")
    assert {problem.where for problem in caught.value.problems} == {str(path)}
    text = str(caught.value)
    assert "rank: 0 is below" in text
    assert "train_iterations: unknown - did you mean steps?" in text


def test_an_unknown_preset_has_a_proposal(store: PresetStore) -> None:
    with pytest.raises(BadInput, match='did you mean "LoRA"'):
        store.load("lora2")


def test_a_preset_never_blanks_the_checkpoint(store: PresetStore) -> None:
    store.save("mine", {**JOB, "checkpoint": "", "images": None, "rank": 4})
    assert store.load("mine") == {"method": "lora", "rank": 4}
    assert apply(JOB, {"checkpoint": " ", "rank": 4}) == {**JOB, "rank": 4}
    assert apply(JOB, {"checkpoint": "other"})["checkpoint"] == "other"


def test_a_preset_keeps_what_it_does_not_name() -> None:
    current = {**JOB, "name": "mine", "rank": 64}
    assert apply(current, {"steps": 5}) == {**current, "steps": 5}


def test_a_whole_job_is_saved_and_comes_back(store: PresetStore) -> None:
    job = parse({**JOB, "rank": 4, "image_size_px": "768,512"})
    store.save("mine", job.as_dict())
    assert parse(store.load("mine")) == job


def test_a_traintrain_preset_among_the_own_ones_is_recognised(store: PresetStore) -> None:
    store.own.mkdir()
    (store.own / "foreign.json").write_text('{"mode": "LoRA", "train_iterations": "10"}')
    with pytest.raises(BadInput, match="preset of TrainTrain - import it"):
        store.load("foreign")
