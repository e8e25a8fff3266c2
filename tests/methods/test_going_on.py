"""A training that dies and goes on from its state ends with the same bytes as one that does not."""

from __future__ import annotations

import json
import math
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from diffusers.models.unets.unet_2d_blocks import UNetMidBlock2DCrossAttn

from trainer.control import Control
from trainer.errors import BadInput
from trainer.events import Event, Notice, ignore
from trainer.hosts.standalone import StandaloneHost
from trainer.methods import addift
from trainer.models import prompts
from trainer.models.model import DiffusionModel
from trainer.models.prompts import PromptStyle
from trainer.models.text import Embedding
from trainer.networks import kohya
from trainer.optim.kinds import KINDS
from trainer.run import run_job
from trainer.settings.groups import ModelSettings
from trainer.settings.schema import parse
from trainer.training import compiling
from trainer.training.loop import Loop, LossFunction
from trainer.training.state import StateError

STEPS = 4
BOTH_PASSES = 2 * STEPS

CASES: dict[str, tuple[str, int, dict[str, object]]] = {
    "lora": ("lora", 3, {}),
    "lora, before the first state": ("lora", 1, {}),
    "lora, seed drawn": ("lora", 3, {"seed": -1}),
    "lora, accumulation": ("lora", 3, {"gradient_accumulation_steps": 2, "max_grad_norm": 1.0}),
    "lora, text encoder": ("lora", 3, {"blocks": "BASE,M00", "text_encoder_learning_rate": 1e-3}),
    "lora, schedule": ("lora", 3, {"lr_scheduler": "cosine", "lr_warmup_steps": 2}),
    "lora, dropout, norms, LoRA+": (
        "lora",
        3,
        {
            "network": "c3lier",
            "conv_rank": 1,
            "lora_plus_ratio": 4,
            "network_dropout": 0.2,
            "rank_dropout": 0.3,
            "module_dropout": 0.2,
            "scale_weight_norms": 0.001,
            "gradient_accumulation_steps": 2,
        },
    ),
    "lora, schedule-free": (
        "lora",
        3,
        {"optimizer": "AdamWScheduleFree", "lr_scheduler": "constant", "save_every_steps": 1},
    ),
    "difference, schedule-free, second pass": (
        "difference",
        STEPS + 3,
        {"optimizer": "AdamWScheduleFree", "lr_scheduler": "constant", "module_dropout": 0.3},
    ),
    "lora, plateau": ("lora", 3, {"lr_scheduler": "reduce_on_plateau"}),
    "lora, noise": ("lora", 3, {"noise_offset": 0.1, "input_perturbation": 0.1}),
    "lora, compiled": ("lora", 3, {"torch_compile": True}),
    "ileco": ("ileco", 3, {"pool_latents": "both"}),
    "difference, first pass": ("difference", 3, {}),
    "difference, between the passes": ("difference", STEPS + 1, {}),
    "difference, before the second pass's first state": ("difference", STEPS + 2, {}),
    "difference, second pass": ("difference", STEPS + 3, {}),
    "difference, another batch size": (
        "difference",
        STEPS + 4,
        {"placements": 8, "second_pass": {"batch_size": 3}},
    ),
    "addift": ("addift", 4, {}),
    "multi_addift": ("multi_addift", 4, {}),
}
"""Name -> method, the update (of both passes) that never happens, settings."""


class Died(BaseException):
    """What nothing catches."""


@pytest.fixture(autouse=True)
def _same_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files tell when and by which session they were made."""
    monkeypatch.setattr(time, "time", lambda: 1.6e9)
    monkeypatch.setattr(secrets, "randbits", lambda bits: 12345)
    # the last lessons before the death and the first after it were labelled together
    monkeypatch.setattr(addift, "LABELLED_AT_ONCE", 3)
    # one part, traced, without code of its own; the tiny model magnifies rounding
    monkeypatch.setitem(compiling.PARTS, "blocks", (UNetMidBlock2DCrossAttn,))
    monkeypatch.setattr(compiling, "BACKEND", "aot_eager")
    monkeypatch.setattr(compiling, "ROUNDING", math.inf)


def dying(update: int) -> Callable[[Loop, LossFunction], torch.Tensor]:
    made = iter(range(1, update))
    step = Loop.update

    def die(loop: Loop, loss: LossFunction) -> torch.Tensor:
        if next(made, None) is None:
            raise Died
        return step(loop, loss)

    return die


@pytest.mark.parametrize("case", CASES)
def test_the_file_is_the_same_to_the_byte(
    case: str,
    jobs: dict[str, dict[str, object]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    method, update, changes = CASES[case]
    if "schedule-free" in case:
        pytest.importorskip("schedulefree")
    more = {"steps": STEPS, "save_state_every_steps": 2, "save_preview": False, "name": "r"}
    settings = parse({**jobs[method], "method": method, "blocks": "M00,OUT05", **more, **changes})

    def train(out: str, *, resume: bool = False) -> Path:
        host = StandaloneHost(tmp_path, tmp_path / out, "cpu")
        run_job(settings, host, control=Control(), sink=ignore, resume=resume)
        return tmp_path / out / "r.safetensors"

    whole = train("whole")
    with monkeypatch.context() as patched:
        patched.setattr(Loop, "update", dying(update))
        with pytest.raises(Died):
            train("cut")
    file = train("cut", resume=True)
    assert file.read_bytes() == whole.read_bytes()
    assert file.with_suffix(".json").read_bytes() == whole.with_suffix(".json").read_bytes()
    rows = [(out / "logs/r.csv").read_text() for out in (whole.parent, file.parent)]
    numbers = [[line.split(",")[:4] for line in text.splitlines()] for text in rows]
    assert numbers[0] == numbers[1]


def test_a_seed_that_was_drawn_stays_though_no_state_was_saved(
    jobs: dict[str, dict[str, object]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # each run draws its own
    host = StandaloneHost(tmp_path, tmp_path / "out", "cpu")
    file = tmp_path / "out/r.safetensors"

    def seeds(**changes: object) -> tuple[int, int]:
        settings = parse({**jobs["lora"], "method": "lora", "name": "r", "overwrite": True})
        with monkeypatch.context() as patched:
            patched.setattr(Loop, "update", dying(1))
            with pytest.raises(Died):
                run_job(settings.replace(seed=-1), host, control=Control(), sink=ignore)
        (noted,) = (tmp_path / "out/logs/states/r").iterdir()
        drawn = json.loads(noted.read_text())["seed"]
        settings = settings.replace(**changes)
        run_job(settings, host, control=Control(), sink=ignore, resume=True)
        assert not noted.exists()
        return drawn, int(kohya.load(file)[1]["ss_seed"])

    drawn, used = seeds(seed=-1)
    assert used == drawn
    again, used = seeds(seed=5)
    assert again != drawn
    assert used == 5


@pytest.mark.parametrize(
    ("method", "changes"),
    [("lora", {}), ("difference", {"rank": 1, "second_pass": {"rank": 2, "steps": 2}})],
)
def test_a_job_that_was_complete_is_not_done_again(
    method: str,
    changes: dict[str, object],
    jobs: dict[str, dict[str, object]],
    tmp_path: Path,
) -> None:
    """The program may end between the result and the queue's note of it."""
    settings = parse({**jobs[method], "method": method, "name": "r", **changes})
    host = StandaloneHost(tmp_path, tmp_path / "out", "cpu")
    made = run_job(settings, host, control=Control(), sink=ignore)
    file = tmp_path / "out/r.safetensors"
    before = file.stat().st_mtime_ns
    outcome = run_job(settings, host, control=Control(), sink=ignore, resume=True)
    assert (outcome.steps, file.stat().st_mtime_ns) == (made.steps, before)


STYLE = PromptStyle(prompts.NO_NORM, comma_reach=0)


@dataclass
class Webui:
    """What a user has set in a webui, and what lies in its folders."""

    clip_skip: int = 2
    layer: int | None = None
    prediction_type: str = "v_prediction"
    zero_terminal_snr: str = "on"
    style: PromptStyle = STYLE
    vae_scale: float = 1.0
    checkpoint_hash: str = "0123abcd"


class SetHost(StandaloneHost):
    """A host that takes from a webui what a job leaves to it."""

    def __init__(self, models: Path, out: Path) -> None:
        super().__init__(models, out, "cpu")
        self.webui = Webui()

    @contextmanager
    def borrow(
        self, settings: ModelSettings, control: Control | None = None
    ) -> Iterator[DiffusionModel]:
        asked, webui = settings, self.webui
        if asked.prediction_type == "auto":
            asked = replace(asked, prediction_type=webui.prediction_type)
        if asked.zero_terminal_snr == "auto":
            asked = replace(asked, zero_terminal_snr=webui.zero_terminal_snr)
        asked = replace(asked, clip_skip=asked.clip_skip or webui.clip_skip)
        with super().borrow(asked, control) as model:
            rows = [replace(row, layer=webui.layer) for row in model.family.text_encoders]
            model.family = replace(model.family, text_encoders=tuple(rows))
            for encoder, row in zip(model.prompts.encoders, rows, strict=True):
                object.__setattr__(encoder, "row", row)
            model.style = webui.style
            model.vae.quant_conv.weight.mul_(webui.vae_scale)
            model.origin = replace(model.origin, legacy_hash=webui.checkpoint_hash)
            yield model


@pytest.fixture
def in_webuis(
    jobs: dict[str, dict[str, object]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[SetHost, SetHost, list[Event]]]:
    """Trains in a webui; and in another that dies, and is set otherwise when it goes on."""

    def train(method: str, died_before: int, **now: object) -> tuple[SetHost, SetHost, list[Event]]:
        more = {"steps": STEPS, "save_state_every_steps": 2, "save_preview": False, "name": "r"}
        prompt = {"original_prompt": "a (red:1.4) circle"} if method == "ileco" else {}
        given = {**jobs[method], "method": method, "blocks": "M00", **more, **prompt}
        settings, events = parse(given), list[Event]()
        out = tmp_path / f"{method}-{died_before}"
        whole, cut = (SetHost(tmp_path, out / name) for name in ("whole", "cut"))
        run_job(settings, whole, control=Control(), sink=ignore)
        with monkeypatch.context() as patched:
            patched.setattr(Loop, "update", dying(died_before))
            with pytest.raises(Died):
                run_job(settings, cut, control=Control(), sink=ignore)
        cut.webui = replace(cut.webui, **now)  # type: ignore[arg-type]
        run_job(settings, cut, control=Control(), sink=events.append, resume=True)
        return whole, cut, events

    return train


def same_file(whole: SetHost, cut: SetHost) -> bool:
    first, second = (host.output_dir / "r.safetensors" for host in (whole, cut))
    return first.read_bytes() == second.read_bytes()


InWebuis = Callable[..., tuple[SetHost, SetHost, list[Event]]]


@pytest.mark.parametrize("died_before", [3, 1], ids=["with a state", "without"])
@pytest.mark.parametrize(
    ("method", "now"),
    [
        ("lora", {"clip_skip": 1}),
        ("lora", {"layer": 2, "clip_skip": 3}),
        ("lora", {"zero_terminal_snr": "off"}),
        ("lora", {"prediction_type": "epsilon", "zero_terminal_snr": "off"}),
        ("ileco", {"style": PromptStyle(prompts.IGNORE, comma_reach=0)}),
    ],
)
def test_what_the_webui_decided_when_the_training_began_holds(
    method: str, now: dict[str, object], died_before: int, in_webuis: InWebuis
) -> None:
    whole, cut, _ = in_webuis(method, died_before, **now)
    assert same_file(whole, cut)
    metadata = kohya.load(cut.output_dir / "r.safetensors")[1]
    assert (metadata["ss_clip_skip"], metadata["ss_zero_terminal_snr"]) == ("2", "True")


def test_another_vae_is_refused_where_it_has_taught_something(in_webuis: InWebuis) -> None:
    with pytest.raises(BadInput) as refused:
        in_webuis("lora", 3, vae_scale=0.5)
    assert [problem.where for problem in refused.value.problems] == ["vae"]
    whole, cut, _ = in_webuis("lora", 1, vae_scale=0.5)
    assert not same_file(whole, cut), "nothing was learnt with the former one"
    whole, cut, _ = in_webuis("ileco", 3, vae_scale=0.5)
    assert same_file(whole, cut), "it has no pictures"


def test_another_checkpoint_of_the_name_is_refused_where_it_has_taught_something(
    in_webuis: InWebuis,
) -> None:
    with pytest.raises(BadInput, match="checkpoint: is another file of that name.*0123abcd"):
        in_webuis("ileco", 3, checkpoint_hash="4567cdef")
    in_webuis("ileco", 1, checkpoint_hash="4567cdef")
    whole, cut, _ = in_webuis("lora", 3, checkpoint_hash="")  # a host that does not tell it
    assert same_file(whole, cut) is False, "the file tells the hash, where there is one"


def test_other_embeddings_are_told_of_where_prompts_may_name_them(in_webuis: InWebuis) -> None:
    style = replace(STYLE, embeddings=(Embedding((7, 8), (torch.zeros(1, 4),)),))
    for method, told in (("ileco", 1), ("lora", 0)):
        _, _, events = in_webuis(method, 3, style=style)
        notices = [event.text for event in events if isinstance(event, Notice)]
        assert sum(text.startswith("Embeddings came") for text in notices) == told


def test_the_settings_of_the_model_win_where_they_were_changed_before_anything_was_learnt(
    jobs: dict[str, dict[str, object]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = parse({**jobs["lora"], "method": "lora", "name": "r"})
    host = SetHost(tmp_path, tmp_path / "out")
    with monkeypatch.context() as patched:
        patched.setattr(Loop, "update", dying(1))
        with pytest.raises(Died):
            run_job(settings, host, control=Control(), sink=ignore)
    changed = settings.replace(prediction_type="epsilon", zero_terminal_snr="off")
    run_job(changed, host, control=Control(), sink=ignore, resume=True)
    metadata = kohya.load(host.output_dir / "r.safetensors")[1]
    assert metadata["modelspec.prediction_type"] == "epsilon"


def test_a_state_of_weights_one_by_one_is_refused_in_plain_words(
    jobs: dict[str, dict[str, object]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Prodigy's were before it got all weights in one piece."""
    pytest.importorskip("prodigyopt")
    more = {"optimizer": "Prodigy", "learning_rate": 1.0, "save_state_every_steps": 1}
    settings = parse({**jobs["lora"], "method": "lora", "name": "r", **more})
    host = StandaloneHost(tmp_path, tmp_path / "out", "cpu")
    with monkeypatch.context() as patched:
        patched.setitem(KINDS, "Prodigy", replace(KINDS["Prodigy"], asks=False))
        patched.setattr(Loop, "update", dying(3))
        with pytest.raises(Died):
            run_job(settings, host, control=Control(), sink=ignore)
    with pytest.raises(StateError, match="does not fit this job: .* - begin anew"):
        run_job(settings, host, control=Control(), sink=ignore, resume=True)
