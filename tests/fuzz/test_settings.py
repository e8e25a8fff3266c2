"""Settings of any kind: a job that can be written down again, or every problem with its cure."""

from __future__ import annotations

import random
import string
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("hypothesis")
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.data.folder import inspect
from trainer.errors import BadInput
from trainer.optim.optimizers import check_optimizer
from trainer.optim.schedules import KINDS as SCHEDULES
from trainer.optim.schedules import check_schedule
from trainer.optim.trial import try_out
from trainer.settings.checks import picture_lines
from trainer.settings.groups import DataSettings, OptimizerSettings
from trainer.settings.methods import METHODS
from trainer.settings.names import check_name
from trainer.settings.presets import PresetStore
from trainer.settings.schema import ALIASES, PARAMETERS, check, parse
from trainer.settings.traintrain import import_traintrain, is_traintrain
from trainer.settings.values import BadValueError
from trainer.training.plan import make_plan

fast = settings(max_examples=1000, deadline=None, derandomize=True, database=None)

PLAUSIBLE = (
    *("1", "0", "-1", "1e-4", "512", "512,768", "true", "off", "AdamW", "cosine", "M00", "BASE"),
    *("fp32", "a/b", "..", "x=1", "betas=(0.9,0.99)", "1:100,0.1", "\0", "\ud800", " ", "CON"),
    *(1, 0, -1, 4, 0.5, 1e-4, 1e308, True, False, None, [], [64, 64], ["M00"], {}, "9" * 400),
)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=5,
)
values = st.sampled_from(PLAUSIBLE) | anything
names = st.sampled_from([*PARAMETERS, *(f"second_pass.{name}" for name in PARAMETERS)])
keys = (
    names
    | st.sampled_from([*ALIASES, "second_pass", "settings_version", "mode"])
    | st.text(max_size=6)
)
methods = st.sampled_from([*METHODS, *METHODS, "LoRA", "", None, 5])
jobs = st.builds(
    lambda method, given: {"checkpoint": "a", "images": "b", **given, "method": method},
    methods,
    st.dictionaries(keys, values, max_size=6),
)
presets = st.dictionaries(keys, values, max_size=6)
"""Also of TrainTrain, whose names are among the keys."""


def told(refused: BadInput) -> None:
    assert refused.problems
    for problem in refused.problems:
        assert problem.where and problem.what, problem
        str(problem).encode("utf-8")


@fast
@given(jobs)
def test_jobs(raw: dict[str, object]) -> None:
    try:
        job = parse(raw)
    except BadInput as refused:
        told(refused)
        return
    assert parse(job.as_dict()) == job


@fast
@given(presets)
def test_presets(raw: dict[str, object]) -> None:
    kept, problems = check(raw)
    again, none = check(kept)
    assert (again, [p for p in none if p not in problems]) == (kept, [])


@fast
@given(presets, st.sampled_from(["LoRA", "iLECO", "Difference", "ADDifT", "Multi-ADDifT", 3, ""]))
def test_presets_of_traintrain(raw: dict[str, object], mode: object) -> None:
    raw = {**raw, "mode": mode, "train_iterations": raw.get("steps", "5")}
    raw.pop("method", None)
    assert is_traintrain(raw)
    try:
        taken = import_traintrain(raw)
    except BadInput as refused:
        told(refused)
        return
    assert check(taken.values)[1] == ()


def is_tried(**given: object) -> bool:
    """Whether optimizer and schedule work with it; if not, it was said what is wrong."""
    try:
        parse({"method": "lora", "checkpoint": "a", "images": "b", **given})
        chosen = OptimizerSettings(**given)  # type: ignore[arg-type]
        check_optimizer(chosen)
        check_schedule(chosen)
        try_out(chosen, 5)
    except BadInput as refused:
        told(refused)
        return False
    return True


@settings(fast, max_examples=300)
@given(
    st.sampled_from(["optimizer_args", "lr_scheduler_args", "lr_step_rules"]),
    st.text(alphabet="betasprlwdnu_=;,()[]'.0129e-TF \n", max_size=30),
    st.sampled_from(list(SCHEDULES)),
)
def test_arguments_of_optimizer_and_schedule(field: str, text: str, schedule: str) -> None:
    is_tried(**{field: text, "lr_scheduler": schedule})


@pytest.mark.parametrize(
    "text",
    [
        *("betas=5", "betas=()", "betas=(1,2,3)", "betas='x'", "eps=[1]", "weight_decay=None"),
        *("weight_decay=-1", "eps=nan", "betas=(0.9,2)", "weight_decay=1e300", "eps=(1,)"),
    ],
)
def test_values_that_the_optimizer_chokes_on(text: str) -> None:
    assert not is_tried(optimizer_args=text)


@pytest.mark.parametrize(
    ("schedule", "text"),
    [
        *(
            ("multi_step", "milestones=5"),
            ("exponential", "gamma=None"),
            ("step", "step_size=0"),
        ),
        *(("exponential", "gamma='x'"), ("polynomial", "lr_end=9"), ("cyclic", "step_size_up=0")),
    ],
)
def test_values_that_the_schedule_chokes_on(schedule: str, text: str) -> None:
    assert not is_tried(lr_scheduler=schedule, lr_scheduler_args=text)


PIECES = (
    *("..", ".", "/", "\\", "~", "~nobody", "CON", "nul", "a", "hat", "C:", "\0", "\n", "🙂", "花"),
    *("%2e%2e", "$HOME", "*", "?", "<", "|", '"', "'", " ", "x" * 300, "\ud800", "\u202e", "-", ""),
)


def _odd_names(count: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    return ["".join(draw.choices(PIECES, k=draw.randint(1, 4))) for _ in range(count)]


def test_names_stay_in_their_folder(tmp_path: Path) -> None:
    store = PresetStore(tmp_path / "own" / "presets")
    (tmp_path / "own").mkdir()
    outside = tmp_path / "own" / "hat.json"
    outside.write_text("{}", "utf-8")
    accepted = 0
    for name in _odd_names(500, seed=8):
        for act in (
            lambda name=name: store.save(name, {"method": "lora"}, overwrite=True),
            lambda name=name: store.load(name),
            lambda name=name: store.rename(name, "other" + name[:3]),
            lambda name=name: store.delete(name),
        ):
            try:
                act()  # type: ignore[no-untyped-call]
            except BadInput as refused:
                told(refused)
        try:
            check_name(name)
        except BadValueError:
            continue
        accepted += 1
        assert (tmp_path / f"{name}.safetensors").parent.resolve() == tmp_path.resolve()
    assert 0 < accepted < 400
    assert {path.name for path in (tmp_path / "own").iterdir()} == {"presets", "hat.json"}
    assert outside.read_text("utf-8") == "{}"


class Surroundings:
    """A host whose every checkpoint is good."""

    def __init__(self, folder: Path) -> None:
        self.output_dir = folder / "out"
        self.log_dir = folder / "logs"

    def check_model(self, settings: object) -> str:
        return "Stable Diffusion 1"


PATHS = ("images", "resume_from", "original_image", "target_image", "mask_image", "copier_file")


def test_paths_of_every_kind(tmp_path: Path, tiny_checkpoint: Path) -> None:
    before = tiny_checkpoint.read_bytes()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "out-link").symlink_to("/")
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    folder = str(tmp_path)
    given = [
        *_odd_names(250, seed=9),
        f"{folder}/loop",
        f"{folder}/a.png",
        "/dev/null",
    ]
    given += [
        str(tiny_checkpoint),
        f"{folder}/{'y' * 300}",
        "~nobody/x",
        "x/" * 3000,
        "file:///etc",
    ]
    host = Surroundings(tmp_path)
    for number, path in enumerate(given):
        method = list(METHODS)[number % len(METHODS)]
        raw: dict[str, object] = {"method": method, "checkpoint": "a", "original_prompt": "x"}
        raw |= {n: path for n in PATHS if n in PARAMETERS and method in PARAMETERS[n].methods}
        try:
            make_plan(parse(raw), host)  # type: ignore[arg-type]
        except BadInput as refused:
            told(refused)
        picture_lines(path)
    assert tiny_checkpoint.read_bytes() == before


def test_folders_with_files_of_odd_names(tmp_path: Path) -> None:
    for number, name in enumerate((b"\xff\xfe", "🙂".encode(), b"a b", b"x" * 200, b"-rf")):
        Image.new("RGB", (64, 64), (number, 0, 0)).save(
            bytes(tmp_path) + b"/" + name + b".png", "PNG"
        )
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "folder.png").mkdir()
    report = inspect(DataSettings(images=str(tmp_path), image_size_px=(64, 64), bucket_step_px=0))
    assert len(report.images) == 5
    assert ["gone.png" in str(problem) for problem in report.problems] == [True]


def test_letters_are_enough_for_a_name() -> None:
    named: Callable[[str], None] = check_name
    for letter in string.ascii_letters + string.digits + "花é🙂":
        named(f"a{letter}b")
