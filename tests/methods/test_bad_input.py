"""What a user may get wrong about prompts and pairs is refused by name, before anything is done."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.networks.small_models import shared_model
from trainer.control import Control
from trainer.errors import BadInput
from trainer.events import Event, PhaseStarted
from trainer.hosts.standalone import StandaloneHost
from trainer.networks import kohya
from trainer.run import run_job
from trainer.settings.schema import parse

LOOKING = {"Checking the job", "Loading the checkpoint"}
Refused = Callable[..., dict[str, str]]


@pytest.fixture
def refused(jobs: dict[str, dict[str, object]], tmp_path: Path) -> Refused:
    """Trains a method with some settings changed; gives what is refused, by field or file."""

    def train(method: str, **changes: object) -> dict[str, str]:
        events: list[Event] = []
        with pytest.raises(BadInput) as caught:
            settings = parse({**jobs[method], "method": method, "name": "x", **changes})
            host = StandaloneHost(tmp_path, tmp_path / "out", "cpu")
            run_job(settings, host, control=Control(), sink=events.append)
        assert {event.title for event in events if isinstance(event, PhaseStarted)} <= LOOKING
        assert not (tmp_path / "out" / "x.safetensors").exists()
        return {problem.where: problem.what for problem in caught.value.problems}

    return train


def test_both_prompts_empty(refused: Refused) -> None:
    found = refused("ileco", original_prompt=" ", target_prompt="")
    assert found == {"original_prompt": "is empty, and so is target_prompt"}


def test_the_original_empty(refused: Refused) -> None:
    assert refused("ileco", original_prompt="") == {"original_prompt": "is empty"}


def test_nothing_to_change(refused: Refused) -> None:
    assert refused("ileco", target_prompt="red") == {"target_prompt": "is the original prompt"}


def test_targets_for_other_prompts(refused: Refused) -> None:
    found = refused("ileco", original_prompt="a\nb\nc", target_prompt="d\ne")
    assert found == {"target_prompt": "has 2 lines for 3 of original_prompt"}


@pytest.mark.parametrize("method", ["ileco", "difference", "addift"])
def test_a_prompt_longer_than_the_limit(method: str, refused: Refused) -> None:
    words = " ".join(["word"] * 12)
    found = refused(method, original_prompt=words, max_prompt_tokens=10)
    assert list(found) == ["original_prompt"]
    assert "12 tokens, and 10 are allowed" in found["original_prompt"]


@pytest.mark.parametrize("method", ["difference", "addift"])
@pytest.mark.parametrize("side", ["original_image", "target_image"])
def test_a_picture_of_the_pair_missing(method: str, side: str, refused: Refused) -> None:
    assert refused(method, **{side: ""}) == {side: "is missing"}
    found = refused(method, **{side: "nowhere.png"})
    assert found == {side: "there is no picture nowhere.png"}


def test_fewer_pictures_on_one_side(refused: Refused, pairs: Path) -> None:
    two = f"{pairs / '0.png'}\n{pairs / '1.png'}"
    found = refused("addift", original_image=two)
    assert found == {"target_image": "names 1 pictures for 2 of original_image"}


def test_both_sizes_are_named(refused: Refused, pairs: Path) -> None:
    found = refused("difference", target_image=str(pairs / "1_after.png"))
    (what,) = found.values()
    assert "64x96 px" in what
    assert "64x64 px" in what


def test_a_picture_of_a_folder_without_its_other_half(refused: Refused, pairs: Path) -> None:
    (pairs / "1_after.png").unlink()
    found = refused("multi_addift")
    assert found == {str(pairs / "1.png"): "has no changed picture 1_after beside it"}


def test_a_suffix_that_matches_nothing(refused: Refused, pairs: Path) -> None:
    found = refused("multi_addift", pair_suffix="_before")
    assert found == {"pair_suffix": f"'_before' matches no pair in {pairs}"}


def test_a_copier_of_another_architecture(refused: Refused, tmp_path: Path) -> None:
    file = tmp_path / "copier.safetensors"
    kohya.save(file, shared_model("sdxl").network().tensors(), {})
    found = refused("difference", copier_file=str(file))
    assert list(found) == [str(file)]
    assert "layers that are not trained" in found[str(file)]


@pytest.mark.parametrize("method", ["ileco", "difference", "addift", "multi_addift"])
def test_no_timestep_in_the_range(method: str, refused: Refused) -> None:
    found = refused(method, min_timestep=500, max_timestep=500)
    assert found == {"min_timestep": "500 is not below max_timestep, which is 500"}
