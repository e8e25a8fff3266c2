"""LoRA: what is preserved beside what the pictures teach."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from trainer.control import Control
from trainer.errors import BadInput
from trainer.events import Event, StepDone
from trainer.hosts.standalone import StandaloneHost
from trainer.models.prompts import NONE, PromptStyle
from trainer.models.text import Conditioning
from trainer.networks import kohya
from trainer.result import preview_prompt
from trainer.run import run_job
from trainer.settings.groups import ModelSettings
from trainer.settings.schema import parse
from trainer.training.denoising import Denoising
from trainer.training.encoding import (
    CAPTIONS_AHEAD,
    caption_encoder,
    encode_images,
    prompt_encoder,
)
from trainer.training.holding import held_batches, held_count, held_prompts, usual_frame
from trainer.training.labels import Samples
from trainer.training.loop import Outcome
from trainer.training.plan import make_plan
from trainer.training.session import Session

Run = Callable[..., tuple[Path, Outcome, list[Event]]]
Jobs = dict[str, dict[str, object]]

HELD = {"preserve_prompts": "a cat\n\na dog", "pool_size": 12, "pool_denoise_steps": 4}
MARKS = {"keep_tokens_separator": "|||", "secondary_separator": ";;", "wildcards": True}


@pytest.fixture
def session(jobs: Jobs, tmp_path: Path) -> Callable[..., Session]:
    def make(**changes: object) -> Session:
        settings = parse({**jobs["lora"], "method": "lora", **HELD, **changes})
        host = StandaloneHost(tmp_path, tmp_path / "out", "cpu")
        plan = make_plan(settings, host)
        with host.borrow(settings[ModelSettings]) as model:
            return Session(settings, plan, model, host, control=Control(), sink=lambda event: None)

    return make


def test_the_prompts_and_the_picture_without_one_are_held(session) -> None:
    named = session(preserve_prompts="a cat\n\na dog\na cat")
    assert held_prompts(named) == ("a cat", "a dog", "")
    assert held_prompts(session(preserve_prompts=" \n")) == ()
    assert held_prompts(session(preserve_prompts="a cat", preserve_share=0)) == ()


@pytest.mark.parametrize(
    ("batch_size", "share", "held"), [(2, 0.33, 1), (2, 0.5, 2), (4, 0.2, 1), (1, 0.1, 1)]
)
def test_a_batch_has_its_share_of_held_samples(batch_size, share, held) -> None:
    assert held_count(batch_size, share) == held


def test_held_pictures_have_the_frame_of_most_samples() -> None:
    assert usual_frame({(64, 64): 3, (64, 96): 5, (32, 96): 5}) == (64, 96)
    assert usual_frame({}) is None


def test_a_narrow_range_of_timesteps_is_asked_for_until_something_is_held(session) -> None:
    """A picture that is drawn in 4 steps meets timesteps below 100 in 2 of 5 cases."""
    narrow = {**HELD, "preserve_prompts": "a cat", "pool_size": 1, "max_timestep": 100}
    for seed in range(6):
        batch = next(held_batches(session(seed=seed, **narrow)))
        assert int(batch.timesteps.max()) < 100


def test_parts_of_one_shape_go_through_the_unet_together(session) -> None:
    one = session(preserve_share=0.5)
    batches = held_batches(one)
    words = " ".join(["word"] * 100)
    denoising = Denoising(one, prompt_encoder(one, ["a cat", "a dog", "", "other", words]))
    with one.new_network(), torch.no_grad():
        for _ in range(3):  # before the first step there is nothing to hold
            held = next(batches)
            assert denoising.errors(held)[0].max() < 1e-8
    asked = []
    answer = one.model.denoise

    def denoise(latents: torch.Tensor, *rest: object) -> torch.Tensor:
        asked.append(len(latents))
        return answer(latents, *rest)

    one.model.denoise = denoise

    def pictures(prompt: str, *size: int) -> Samples:
        latents = torch.randn(2, 4, *size)
        return Samples(latents, torch.tensor([300, 700]), torch.randn(2, 4, *size), (prompt,) * 2)

    with torch.no_grad():
        alike = pictures("other", 8, 8)
        both = denoising.errors(alike, held)
        assert asked == [4]
        alone = [denoising.errors(part)[0] for part in (alike, held)]
        weighted = replace(alike, weights=torch.tensor([1.0, 0.25]))
        errors = denoising.errors(weighted, held)
        torch.testing.assert_close(errors[0], both[0] * torch.tensor([1.0, 0.25]))
        torch.testing.assert_close(errors[1], both[1])
        asked.clear()
        torch.testing.assert_close(both, alone, rtol=1e-4, atol=1e-8)
        for other in (pictures("other", 8, 12), pictures(words, 8, 8)):
            asked.clear()
            errors = denoising.errors(other, held)
            assert asked == [2, 2]
            torch.testing.assert_close(errors[1], alone[1], rtol=1e-4, atol=1e-8)


def test_varied_captions_are_encoded_as_they_are_and_ahead(session) -> None:
    one = session(shuffle_tags=True, caption_dropout_rate=0.3, preserve_prompts="")
    data = encode_images(one)
    encode = caption_encoder(one, data)
    asked: list[int] = []
    encode_prompts = one.model.encode_prompts

    def count(prompts: list[str]) -> Conditioning:
        asked.append(len(prompts))
        return encode_prompts(prompts)

    aside: list[tuple[object, ...]] = []
    one.model.set_aside = lambda *parts: aside.append(parts)
    one.model.encode_prompts = count
    encode = caption_encoder(one, data)
    batches = CAPTIONS_AHEAD // 2 + 1  # of several epochs
    for _ in range(batches):
        captions = data.next().captions
        told = encode(captions).context
        torch.testing.assert_close(told, encode_prompts(list(captions)).context)
    assert 2 * data.order.batches_per_epoch < batches
    assert sum(asked) <= CAPTIONS_AHEAD + 3, "and the first batch, and the empty prompt"
    assert aside == [(one.model.vae, *one.model.text_encoders)], "once for all of them"


def test_captions_are_read_as_prompts_on_request(session, jobs) -> None:
    folder = Path(str(jobs["lora"]["images"]))
    for file in folder.glob("*.txt"):
        file.write_text("a (red:1.5) hat")
    for emphasis in (False, True):
        one = session(caption_emphasis=emphasis, preserve_prompts="")
        data = encode_images(one)
        told = caption_encoder(one, data)(data.next().captions).context
        encode = one.model.encode_weighted if emphasis else one.model.encode_prompts
        with torch.no_grad():
            wanted = encode(["a (red:1.5) hat"] * len(told)).context
        torch.testing.assert_close(told, wanted)


def test_a_preview_is_drawn_from_the_caption_as_it_is_trained(session, jobs) -> None:
    (Path(str(jobs["lora"]["images"])) / "0.txt").write_text(
        "1girl, (genshin) ||| {red|blue} hat;;scarf\na girl with a hat"
    )
    more = {"trigger_word": "ohwx", "caption_suffix": ", oil", "preserve_prompts": ""}
    plain = preview_prompt(session(**MARKS, **more))
    assert plain == r"ohwx, 1girl, \(genshin\), red hat,scarf, oil"
    emphasised = preview_prompt(session(**MARKS, **more, caption_emphasis=True))
    assert emphasised == "ohwx, 1girl, (genshin), red hat,scarf, oil"
    one = session(**MARKS, **more)
    one.model.style = PromptStyle(NONE)
    assert preview_prompt(one) == emphasised, "there brackets are brackets"


def test_tags_are_counted_without_marks_and_line_by_line(run: Run, jobs) -> None:
    folder = Path(str(jobs["lora"]["images"]))
    for number in range(4):
        (folder / f"{number}.txt").write_text("a ||| {red|blue} hat;;b\nB, c")
    file, _, _ = run("lora", **MARKS, caption_prefix="photo of", trigger_word="ohwx", steps=1)
    frequency = json.loads(kohya.load(file)[1]["ss_tag_frequency"])
    tags = ("ohwx", "a", "red hat", "b", "blue hat", "c")
    assert frequency == {"pictures": dict.fromkeys(tags, 4)}


def test_long_captions_are_cut_with_a_warning_or_refused(session, jobs) -> None:
    folder = Path(str(jobs["lora"]["images"]))
    (folder / "1.txt").write_text(" ".join(["word"] * 30))
    one = session(max_prompt_tokens=20)
    assert any("1.png (30)" in warning for warning in one.plan.warnings)
    captions = encode_images(one).captions
    assert " ".join(["word"] * 20) in captions
    with pytest.raises(BadInput, match="its caption has 30 tokens, and 20 are allowed"):
        session(max_prompt_tokens=20, truncate_prompts=False)


def test_long_held_prompts_are_cut_or_refused_too(session) -> None:
    long = " ".join(["word"] * 30)
    with pytest.raises(BadInput, match="preserve_prompts: .* has 30 tokens, and 20 are allowed"):
        session(preserve_prompts=long, max_prompt_tokens=20, truncate_prompts=False)
    batches = held_batches(session(preserve_prompts=long, max_prompt_tokens=20))
    drawn = {prompt for _ in range(8) for prompt in next(batches).prompts}
    assert drawn == {" ".join(["word"] * 20), ""}


def test_each_line_of_a_caption_file_is_counted_by_itself(session, jobs) -> None:
    folder = Path(str(jobs["lora"]["images"]))
    lines = [" ".join(["word"] * count) for count in (15, 18)]
    limit = {"wildcards": True, "max_prompt_tokens": 20, "truncate_prompts": False}
    (folder / "1.txt").write_text("\n".join(lines), "utf-8")
    assert session(**limit)
    (folder / "1.txt").write_text(
        "\n".join([*lines, "{cat|" + lines[0] + "} " + lines[0]]), "utf-8"
    )
    with pytest.raises(BadInput, match="its caption has 30 tokens, and 20 are allowed"):
        session(**limit)


def test_held_predictions_move_less_than_without(run: Run, session) -> None:
    # plain gradient descent with long steps: Adam would follow the noise of so small a model
    steep = {"optimizer": "SGD", "learning_rate": 10, "alpha": 6, "lr_scheduler": "constant"}
    job = {**HELD, **steep, "steps": 60, "preserve_share": 0.5, "prior_loss_weight": 4}
    with_held, outcome, events = run("lora", **job)
    assert outcome.steps == 60
    assert [event.step for event in events if isinstance(event, StepDone)] == list(range(1, 61))
    without, _, _ = run("lora", **{**job, "preserve_prompts": ""}, name="without")
    one = session(alpha=6)
    batches = held_batches(one)
    held = [next(batches) for _ in range(8)]
    denoising = Denoising(one, prompt_encoder(one, ["a cat", "a dog", ""]))

    def moved(file: Path) -> float:
        """Mean square distance of the answers from the frozen model's, weighted as in training."""
        with one.new_network(str(file)), torch.no_grad():
            return sum(float(denoising.errors(batch)[0].mean()) for batch in held)

    assert moved(with_held) < 0.8 * moved(without)


def test_a_stopped_training_goes_on_to_the_same_file(
    jobs: Jobs, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    def host(name: str) -> StandaloneHost:
        return StandaloneHost(tiny_checkpoint.parent, tmp_path / name, "cpu")

    settings = parse(
        {
            **jobs["lora"],
            "method": "lora",
            "name": "a",
            "steps": 5,
            "save_state_every_steps": 2,
            "save_preview": False,
            "shuffle_tags": True,
            "caption_dropout_rate": 0.3,
            "noise_offset": 0.05,
            **HELD,
        }
    )
    run_job(settings, host("whole"), control=Control(), sink=lambda event: None)

    class Killed(BaseException):
        pass

    def die(event: Event) -> None:
        if isinstance(event, StepDone) and event.step == 3:
            raise Killed

    with pytest.raises(Killed):
        run_job(settings, host("parts"), control=Control(), sink=die)
    run_job(settings, host("parts"), control=Control(), sink=lambda event: None, resume=True)
    wanted, _ = kohya.load(host("whole").output_dir / "a.safetensors")
    found, _ = kohya.load(host("parts").output_dir / "a.safetensors")
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_sdxl_holds_prompts_with_their_pooled_vector_from_disk(
    run: Run, tiny_checkpoints: dict[str, Path]
) -> None:
    job = {**HELD, "checkpoint": str(tiny_checkpoints["sdxl"]), "cache_memory_mb": 0, "steps": 2}
    varied = {"shuffle_tags": True, "caption_dropout_rate": 0.5}
    first, second = (
        kohya.load(run("lora", **job, **varied, name=name)[0])[0] for name in ("first", "second")
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
