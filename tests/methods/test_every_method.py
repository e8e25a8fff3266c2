"""What holds for every method."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline

from tests.conftest import adapted_layers
from tests.modules import tiny_modules
from trainer.control import Control, Request
from trainer.events import Event, Saved, StepDone
from trainer.hosts.standalone import StandaloneHost
from trainer.methods import TRAIN
from trainer.networks import kohya
from trainer.networks.network import Network
from trainer.settings.groups import ModelSettings
from trainer.settings.methods import METHODS
from trainer.settings.schema import parse
from trainer.training.loop import Outcome
from trainer.training.plan import make_plan
from trainer.training.session import Session

Run = Callable[..., tuple[Path, Outcome, list[Event]]]
every_method = pytest.mark.parametrize("method", list(TRAIN))


def test_every_method_that_is_declared_is_there() -> None:
    assert list(TRAIN) == list(METHODS)


@every_method
def test_it_makes_exactly_the_steps_and_saves_one_file(method: str, run: Run) -> None:
    file, outcome, events = run(method)
    assert outcome.steps == 3
    assert outcome.request is Request.CONTINUE
    saved = [event for event in events if isinstance(event, Saved)]
    assert [(event.path, event.step, event.final) for event in saved] == [(file, 3, True)]
    steps = [event.step for event in events if isinstance(event, StepDone)]
    assert steps == [1, 2, 3] * (2 if method == "difference" else 1)
    tensors, metadata = kohya.load(file)
    assert metadata["ss_steps"] == "3"
    ups = [tensor for name, tensor in tensors.items() if name.endswith("lora_up.weight")]
    assert any(tensor.abs().max() > 0 for tensor in ups)


@every_method
def test_the_same_seed_gives_the_same_file(method: str, run: Run) -> None:
    first, second, other = (
        kohya.load(run(method, name=name, seed=seed)[0])[0]
        for name, seed in (("a", 5), ("b", 5), ("c", 6))
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@every_method
def test_stop_and_save_saves_what_is_there_and_stop_does_not(method: str, run: Run) -> None:
    control = StopsAfter(1, Control.stop_and_save)
    file, outcome, _ = run(method, control=control)
    assert outcome.request is Request.STOP_AND_SAVE
    copier = file.with_name("difference-copier.safetensors")
    assert (copier if method == "difference" else file).exists()
    file, outcome, _ = run(method, control=StopsAfter(1, Control.stop), name="stopped")
    assert outcome.request is Request.STOP
    assert not file.exists()


class StopsAfter(Control):
    """Asks to stop as soon as so many steps were begun."""

    def __init__(self, steps: int, ask: Callable[[Control], None]) -> None:
        super().__init__()
        self.steps_left = steps
        self.ask = ask

    def checkpoint(self) -> Request:
        stack = __import__("inspect").stack()[1].function
        if stack == "run":
            if self.steps_left == 0:
                self.ask(self)
            self.steps_left -= 1
        return super().checkpoint()


@every_method
def test_save_points_hold_the_state_of_their_step(method: str, run: Run) -> None:
    file, _, events = run(method, save_every_steps=2)
    points = [event for event in events if isinstance(event, Saved) and not event.final]
    assert [event.step for event in points] == [2]
    middle, _ = kohya.load(points[0].path)
    end, _ = kohya.load(file)
    assert any(not torch.equal(middle[name], end[name]) for name in end)


@every_method
def test_the_model_is_left_as_it_was(
    method: str, jobs: dict[str, dict[str, object]], tmp_path: Path
) -> None:
    settings = parse({**jobs[method], "method": method})
    host = StandaloneHost(tmp_path, tmp_path / "out", "cpu")
    plan = make_plan(settings, host)
    with host.borrow(settings[ModelSettings]) as model:
        modules = (model.unet, *model.text_encoders, model.vae)
        before = [p.clone() for module in modules for p in module.parameters()]
        session = Session(settings, plan, model, host, control=Control(), sink=lambda event: None)
        TRAIN[method](session)
        after = [p for module in modules for p in module.parameters()]
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
        parts = [part for module in modules for part in module.modules()]
        assert not [part for part in parts if part._forward_hooks or "forward" in vars(part)]


@every_method
def test_resuming_begins_where_the_file_ends(method: str, run: Run) -> None:
    file, _, _ = run(method)
    start, _ = kohya.load(file)
    again, _, _ = run(method, resume_from=str(file), learning_rate=1e-9, name="again")
    end, _ = kohya.load(again)
    for name, tensor in start.items():
        torch.testing.assert_close(end[name], tensor, rtol=0, atol=1e-6)


@every_method
def test_it_begins_at_the_bare_model(method: str, run: Run, begun: list[float]) -> None:
    run(method, steps=1)
    assert begun == [0.0] * (2 if method == "difference" else 1)


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """By how much the networks move the model's answer when their training begins."""
    moved: list[float] = []
    fit = Session.fit

    def watched(session: Session, network: Network, *given: Any, **named: Any) -> Outcome:
        unet, generator = session.model.unet, torch.Generator().manual_seed(1)
        latents = torch.randn(1, 4, 8, 8, generator=generator)
        context = torch.randn(1, 77, unet.config.cross_attention_dim, generator=generator)
        with torch.no_grad():
            with_it = unet(latents, 500, context).sample
            with network.at(0.0):
                without = unet(latents, 500, context).sample
        moved.append(float((with_it - without).abs().max()))
        return fit(session, network, *given, **named)

    monkeypatch.setattr(Session, "fit", watched)
    return moved


@pytest.mark.usefixtures("loads_lora")
@every_method
def test_its_file_loads_in_diffusers(method: str, run: Run) -> None:
    file, _, _ = run(method, blocks="BASE,IN01,M00,OUT05")
    unet, vae, (text_encoder,) = tiny_modules()
    unet.register_to_config(sample_size=64)  # a pipeline wants to know it
    pipeline = StableDiffusionPipeline(
        *(vae, text_encoder, None, unet, DDIMScheduler()),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.load_lora_weights(file.parent, weight_name=file.name)  # raises if a key is left over
    groups = {key.partition(".")[0] for key in kohya.load(file)[0]}
    assert adapted_layers(pipeline.unet, pipeline.text_encoder) == len(groups)
