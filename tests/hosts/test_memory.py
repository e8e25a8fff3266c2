"""When a loan ends, nothing of the job is left in the memory, and a webui finds it free."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.hosts.standin import WEBUI
from tests.test_grid import lora_file
from trainer.control import Control
from trainer.events import ignore
from trainer.grid import draw_grid
from trainer.hosts.a1111 import WebuiHost
from trainer.hosts.protocol import Host
from trainer.hosts.standalone import StandaloneHost
from trainer.measure import measure_step
from trainer.networks.network import Network
from trainer.run import OutOfMemory, SystemRefused, run_job
from trainer.settings.grid import parse_grid
from trainer.settings.schema import JobSettings, parse
from trainer.training.loop import Loop
from trainer.training.plan import make_plan

Held = list[weakref.ref[object]]


def left(held: Held) -> int:
    assert held, "a network was trained or drawn with"
    return sum(one() is not None for one in held)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    """Every weight of the networks that are attached, and the layers beside which they compute.

    Nothing is freed by chance meanwhile.
    """
    found: Held = []
    attach = Network.attach

    def noted(network: Network) -> None:
        found.extend(weakref.ref(weight) for weight in network.parameters())
        found.extend(weakref.ref(target.module) for target in network.targets)
        attach(network)

    monkeypatch.setattr(Network, "attach", noted)
    gc.disable()
    yield found
    gc.enable()


@pytest.fixture
def settings(pictures: Path) -> JobSettings:
    what = {"method": "lora", "name": "hat", "checkpoint": "tiny", "images": str(pictures)}
    small = {"image_size_px": 64, "bucket_step_px": 0, "rank": 2, "steps": 3}
    drawn = {"sample_prompts": "a hat", "sample_every_steps": 2, "sample_denoise_steps": 1}
    return parse({**what, **small, **drawn, "save_preview": False})


@pytest.fixture(params=["webui", "standalone"])
def host(
    request: pytest.FixtureRequest, tiny_checkpoint: Path, tmp_path: Path, held: Held
) -> Iterator[Host]:
    """A host that looks at what is left where the webui goes on."""
    if request.param == "standalone":
        yield StandaloneHost(tiny_checkpoint.parent, tmp_path / "out", "cpu")
        return
    (tmp_path / "models/Lora").mkdir(parents=True)
    WEBUI.start(tmp_path, {"tiny": tiny_checkpoint})
    seen: list[int] = []
    WEBUI.at_gc.append(lambda: seen.append(left(held)))
    yield WebuiHost()
    assert seen == [0]


def test_of_a_training_nothing_is_left(host: Host, settings: JobSettings, held: Held) -> None:
    run_job(settings, host, control=Control(), sink=ignore)
    assert left(held) == 0


def no_memory(loop: Loop) -> None:
    del loop
    raise RuntimeError("DefaultCPUAllocator: can't allocate memory")


def after_another(loop: Loop) -> None:
    try:
        no_memory(loop)
    except RuntimeError:
        raise OSError("the disk is full") from None


@pytest.mark.parametrize(
    ("fail", "error"), [(no_memory, OutOfMemory), (after_another, SystemRefused)]
)
def test_of_one_that_fails_nothing_is_left(
    fail: Callable[[Loop], None],
    error: type[Exception],
    host: Host,
    settings: JobSettings,
    held: Held,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    update = Loop.update

    def failing(loop: Loop, loss: Callable[[], object]) -> object:
        if loop.step == 1:
            fail(loop)
        return update(loop, loss)

    monkeypatch.setattr(Loop, "update", failing)
    with pytest.raises(error):
        run_job(settings, host, control=Control(), sink=ignore)
    assert left(held) == 0


def test_of_a_measurement_nothing_is_left(host: Host, settings: JobSettings, held: Held) -> None:
    measure_step(settings, make_plan(settings, host), host)
    assert left(held) == 0


def test_of_a_grid_nothing_is_left(host: Host, held: Held, tmp_path: Path) -> None:
    file = lora_file(tmp_path / "hat.safetensors", "lierla", seed=0)
    wanted = {"checkpoint": "tiny", "loras": str(file), "prompts": "a hat", "strengths": "0,1"}
    grid = parse_grid({**wanted, "size_px": 64, "denoise_steps": 1, "name": "grid"})
    draw_grid(grid, host, control=Control(), sink=ignore)
    assert left(held) == 0
