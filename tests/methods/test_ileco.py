"""iLECO: what is asked of the frozen model, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from trainer.control import Control
from trainer.errors import BadInput
from trainer.events import Event
from trainer.hosts.standalone import StandaloneHost
from trainer.methods.ileco import pool, tasks
from trainer.result import preview_prompt
from trainer.settings.groups import ModelSettings
from trainer.settings.schema import parse
from trainer.training.loop import Outcome
from trainer.training.plan import make_plan
from trainer.training.session import Session

Run = Callable[..., tuple[Path, Outcome, list[Event]]]
Jobs = dict[str, dict[str, object]]


@pytest.fixture
def session(jobs: Jobs, tmp_path: Path) -> Callable[..., Session]:
    def make(**changes: object) -> Session:
        settings = parse({**jobs["ileco"], "method": "ileco", **changes})
        host = StandaloneHost(tmp_path, tmp_path / "out", "cpu")
        plan = make_plan(settings, host)
        with host.borrow(settings[ModelSettings]) as model:
            return Session(settings, plan, model, host, control=Control(), sink=lambda event: None)

    return make


def test_every_line_is_a_change_and_targets_are_held(session: Callable[..., Session]) -> None:
    changes, held = tasks(
        session(original_prompt="red\n\ngreen ", target_prompt="blue\nblack", preserve_prompts="x")
    )
    assert changes == {"red": {"blue": 1.0}, "green": {"black": 1.0}}
    assert held == ("", "blue", "black", "x")


def test_erasing_with_guidance_is_the_formula_of_the_paper(
    session: Callable[..., Session],
) -> None:
    # Gandikota et al. 2023, eq. 8: e("") - g (e(concept) - e(""))
    changes, held = tasks(session(original_prompt="red", target_prompt="", concept_guidance=2))
    assert changes == {"red": {"": 3.0, "red": -2.0}}
    assert held == ("",)
    changes, _ = tasks(session(neutral_prompt="pale", concept_guidance=2))
    assert changes == {"red": {"blue": 3.0, "pale": -2.0}}


@pytest.mark.parametrize(
    "prompts",
    [
        {"original_prompt": "red\nblue", "target_prompt": "blue"},  # one of them is it already
        {"original_prompt": "blue", "target_prompt": "red", "neutral_prompt": "red"},
    ],
)
def test_factors_of_one_prompt_add_up_to_1(
    session: Callable[..., Session], prompts: dict[str, str]
) -> None:
    """e(a) + g (e(a) - e(a)) is e(a)."""
    changes, _ = tasks(session(concept_guidance=2, **prompts))
    assert all(sum(label.values()) == 1 for label in changes.values())


def test_contexts_are_changed_too(session: Callable[..., Session]) -> None:
    changes, held = tasks(session(contexts="a {} car\n\n{}, night"))
    assert changes == {
        "red": {"blue": 1.0},
        "a red car": {"a blue car": 1.0},
        "red, night": {"blue, night": 1.0},
    }
    assert held == ("", "blue")
    with pytest.raises(BadInput, match="no {} for the concept"):
        session(contexts="a car")


@pytest.mark.parametrize("latents", ["noise", "original", "target", "both"])
def test_the_pool_holds_about_what_was_asked_for(
    latents: str, session: Callable[..., Session]
) -> None:
    one = session(pool_size=32, pool_latents=latents, image_size_px="96,64", preserve_share=0.25)
    changes, held = tasks(one)
    (changed, share), (kept, held_share) = pool(one, changes, held, ["red", "blue"])
    assert (share, held_share) == (0.75, 0.25)
    assert len(changed) == 24
    assert len(kept) == 8
    assert changed.latents.shape[1:] == (4, 12, 8)  # portrait: height before width
    assert set(changed.prompts) == {"red"}
    assert set(kept.prompts) == {"", "blue"}


def test_no_kind_is_left_out_where_the_range_of_timesteps_is_narrow(
    session: Callable[..., Session],
) -> None:
    for seed in range(6):
        one = session(pool_size=2, max_timestep=100, preserve_share=0.5, seed=seed)
        changes, held = tasks(one)
        kinds = pool(one, changes, held, ["red", "blue"])
        assert [share for _, share in kinds] == [0.5, 0.5]
        assert all(int(samples.timesteps.max()) < 100 for samples, _ in kinds)


def test_a_preview_shows_the_first_prompt_as_it_is(session: Callable[..., Session]) -> None:
    assert preview_prompt(session(original_prompt="\na (red:1.2) hat\nblue")) == "a (red:1.2) hat"


def test_nothing_is_held_without_a_share(session: Callable[..., Session]) -> None:
    one = session(preserve_share=0)
    changes, held = tasks(one)
    assert held == ()
    assert [share for _, share in pool(one, changes, held, ["red", "blue"])] == [1.0]


def test_long_prompts_are_refused_by_name_or_cut(run: Run, session: Callable[..., Session]) -> None:
    words = " ".join(["word"] * 30)
    with pytest.raises(BadInput) as caught:
        run("ileco", max_prompt_tokens=20, target_prompt=words, preserve_prompts=f"short\n{words}")
    found = {problem.where: problem.what for problem in caught.value.problems}
    assert set(found) == {"target_prompt", "preserve_prompts"}
    assert "30 tokens, and 20 are allowed" in found["target_prompt"]
    with pytest.raises(BadInput) as caught:
        run("ileco", max_prompt_tokens=20, contexts=f"{' '.join(['of'] * 20)} {{}}")
    assert {problem.where for problem in caught.value.problems} == {"contexts"}
    one = session(max_prompt_tokens=20, contexts=f"{{}} {words}", truncate_prompts=True)
    cut = " ".join(["word"] * 19)
    assert tasks(one)[0][f"red {cut}"] == {f"blue {cut}": 1.0}
    one = session(max_prompt_tokens=20, target_prompt=words, truncate_prompts=True)
    changes, _ = tasks(one)
    assert changes == {"red": {" ".join(["word"] * 20): 1.0}}
