"""What a machine does to a training: no space, no folder, no permission, a clock set back."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from trainer import atomic
from trainer.api.form import from_history
from trainer.control import Control
from trainer.errors import BadInput
from trainer.events import Event, Notice, Saved, StepDone, fan_out, ignore
from trainer.hosts.standalone import StandaloneHost
from trainer.jobs.job import JobState
from trainer.jobs.queue_file import QueueError
from trainer.jobs.store import JobStore
from trainer.jobs.worker import Worker
from trainer.lock import FileLock
from trainer.networks import kohya
from trainer.run import run_job
from trainer.settings.groups import BLOCKS
from trainer.settings.schema import JobSettings, parse
from trainer.training.state import StateFolder

ROOT = Path(__file__).parents[2]
STEPS = 4


@pytest.fixture
def job(tiny_checkpoint: Path, pictures: Path) -> Callable[..., JobSettings]:
    def settings(**changes: object) -> JobSettings:
        small = {
            "method": "lora",
            "checkpoint": str(tiny_checkpoint),
            "images": str(pictures),
            "name": "hat",
            "steps": STEPS,
            "rank": 2,
            "blocks": "M00",
            "image_size_px": 64,
            "bucket_step_px": 0,
            "seed": 1,
            "save_preview": False,
            "save_state_every_steps": 1,
            "save_every_steps": 2,
        }
        return parse({**small, **changes})

    return settings


@pytest.fixture
def host(tmp_path: Path) -> StandaloneHost:
    return StandaloneHost(tmp_path, tmp_path / "out", "cpu")


def at_step(number: int, act: Callable[[], object]) -> Callable[[Event], None]:
    """A sink that does something once, when so many steps were made."""
    left = [act]

    def hear(event: Event) -> None:
        if isinstance(event, StepDone) and event.step >= number and left:
            left.pop()()

    return hear


def refuse(number: int, *suffixes: str) -> Callable[[Path, bytes], None]:
    """Writing as it is, but files with these endings meet an error of the system."""
    real = atomic.write_bytes

    def write(path: Path, data: bytes) -> None:
        if path.suffix in suffixes:
            raise OSError(number, os.strerror(number), str(path))
        real(path, data)

    return write


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_states_copies_and_log_may_fail_while_the_result_is_saved(
    number: int,
    job: Callable[..., JobSettings],
    host: StandaloneHost,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    notices: list[str] = []
    real = kohya.write_bytes

    def copies_fail(path: Path, data: bytes) -> None:
        if "-step" in path.name:
            raise OSError(number, os.strerror(number))
        real(path, data)

    monkeypatch.setattr("trainer.training.state.write_bytes", refuse(number, ".safetensors"))
    monkeypatch.setattr("trainer.training.csv_log.write_bytes", refuse(number, ".csv"))
    monkeypatch.setattr(kohya, "write_bytes", copies_fail)

    def hear(event: Event) -> None:
        if isinstance(event, Notice):
            notices.append(event.text)

    assert run_job(job(), host, control=Control(), sink=hear).steps == STEPS
    assert (host.output_dir / "hat.safetensors").is_file()
    assert [text for text in notices if "step00000002" in text and os.strerror(number) in text]
    assert not (host.log_dir / "hat.csv").exists()


@pytest.mark.parametrize("logs_too", [False, True])
def test_a_result_that_cannot_go_to_its_folder_is_kept_elsewhere_and_the_job_goes_on_later(
    logs_too: bool,
    job: Callable[..., JobSettings],
    host: StandaloneHost,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    kept = host.log_dir / "rescued"
    closed = (host.output_dir, kept) if logs_too else (host.output_dir,)
    theirs = run_job(job(name="cap"), host, control=Control(), sink=ignore).file
    assert theirs is not None
    kept.mkdir()
    shutil.copy(theirs, kept / "hat.safetensors")  # rescued before, and not fetched yet

    def refusing(real: Callable[..., object]) -> Callable[..., object]:
        def refuse(path: Path, *rest: object, **named: object) -> object:
            if path.parent in closed and path.suffix == ".safetensors":
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            return real(path, *rest, **named)

        return refuse

    def take_permission() -> None:
        patched.setattr(kohya, "write_bytes", refusing(kohya.write_bytes))
        patched.setattr(Path, "stat", refusing(Path.stat))

    with monkeypatch.context() as patched:
        patched.setattr(tempfile, "tempdir", str(tmp_path))
        with pytest.raises(BadInput) as refused:
            run_job(job(), host, control=Control(), sink=at_step(1, take_permission))
    (problem,) = refused.value.problems
    assert problem.where == str(host.output_dir / "hat.safetensors")
    assert "Permission denied" in problem.what
    found = re.fullmatch("it was saved as (.*): move it to its place", problem.cure)
    assert found
    rescued = Path(found[1])
    assert rescued.parent.parent == tmp_path if logs_too else rescued == kept / "hat-2.safetensors"
    assert kohya.load(rescued)[1]["ss_steps"] == str(STEPS)
    run_job(job(), host, control=Control(), sink=ignore, resume=True)
    tensors = [kohya.load(path)[0] for path in (rescued, host.output_dir / "hat.safetensors")]
    assert all(tensors[0][name].equal(tensors[1][name]) for name in tensors[0])


def test_a_folder_that_may_not_be_looked_into_is_named(
    job: Callable[..., JobSettings], host: StandaloneHost
) -> None:
    host.output_dir.mkdir()
    host.output_dir.chmod(0)
    try:
        if os.access(host.output_dir, os.X_OK):
            pytest.skip("this user may look into every folder")
        with pytest.raises(BadInput, match="output folder: .* cannot be written to: Permission"):
            run_job(job(), host, control=Control(), sink=ignore)
    finally:
        host.output_dir.chmod(0o755)


def test_folders_that_are_removed_in_the_middle_are_made_again(
    job: Callable[..., JobSettings], host: StandaloneHost
) -> None:
    sink = at_step(2, lambda: shutil.rmtree(host.output_dir))
    assert run_job(job(steps=6), host, control=Control(), sink=sink).steps == 6
    assert kohya.load(host.output_dir / "hat.safetensors")[1]["ss_steps"] == "6"
    assert (host.log_dir / "hat.csv").read_text("utf-8").startswith("step,loss")


def test_a_clock_that_jumps_back_changes_no_duration(
    job: Callable[..., JobSettings], host: StandaloneHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[StepDone] = []
    now = iter(range(2_000_000_000, 0, -86_400))
    monkeypatch.setattr(time, "time", lambda: float(next(now)))  # a day back at every look

    def hear(event: Event) -> None:
        if isinstance(event, StepDone):
            steps.append(event)

    run_job(job(save_state_every_minutes=10), host, control=Control(), sink=hear)
    times = [step.elapsed_s for step in steps]
    assert times == sorted(times) and times[0] > 0 and times[-1] < 600
    assert all(step.steps_per_s >= 0 and step.left_s >= 0 for step in steps)
    store = JobStore(host.output_dir / "jobs.sqlite")
    saved = Saved(Path("hat"), 4, final=True)
    worker = Worker(store, lambda job, control, sink: list(map(sink, (*steps, saved))))
    settings = job()
    store.add(settings.as_dict())
    worker.start()
    assert worker.wait(30)
    (done,) = store.jobs()
    assert done.state is JobState.DONE
    assert done.started_s is not None and done.finished_s is not None
    assert done.finished_s < done.started_s
    assert done.step_s == times[-1] / 4
    assert from_history(settings, [done]).startswith("About ")
    store.close()


def test_a_state_is_written_after_so_many_minutes(
    job: Callable[..., JobSettings], host: StandaloneHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    write = StateFolder.write

    def note(folder: StateFolder, state: object) -> Path:
        written.append(state.values["step"])  # type: ignore[attr-defined]
        return write(folder, state)  # type: ignore[arg-type]

    moments = iter(range(0, 10**9, 50))
    monkeypatch.setattr(StateFolder, "write", note)
    monkeypatch.setattr("trainer.training.state.time.monotonic", lambda: float(next(moments)))
    run_job(
        job(save_state_every_steps=0, save_state_every_minutes=0),
        host,
        control=Control(),
        sink=ignore,
    )
    assert written == []
    settings = job(save_state_every_steps=0, save_state_every_minutes=1, overwrite=True)
    run_job(settings, host, control=Control(), sink=ignore)
    assert written and set(written) <= set(range(1, STEPS + 1))


def test_one_process_at_a_time_trains_a_name(
    job: Callable[..., JobSettings], host: StandaloneHost
) -> None:
    with FileLock(host.log_dir / "states/.hat.lock", "training 'hat'"):
        with pytest.raises(BadInput, match=f"process {os.getpid()} is already training 'hat'"):
            run_job(job(), host, control=Control(), sink=ignore)
        assert run_job(job(name="cap"), host, control=Control(), sink=ignore).steps == STEPS


class OneOfTwo(StandaloneHost):
    """A host that has its Lora folder in common with another one, and nothing else."""

    def __init__(self, models: Path, output: Path, name: str) -> None:
        super().__init__(models, output, "cpu")
        self._logs = output.with_name(name)

    @property
    def log_dir(self) -> Path:
        return self._logs


@pytest.mark.parametrize("overwrite", [False, True])
def test_two_webuis_with_one_lora_folder_train_a_name_one_at_a_time(
    overwrite: bool, job: Callable[..., JobSettings], tmp_path: Path
) -> None:
    """Each has logs and states of its own, but both would write the same copies and results."""
    first, second = (OneOfTwo(tmp_path, tmp_path / "out", name) for name in ("first", "second"))
    settings = job(overwrite=overwrite)

    def begin_as_well() -> None:
        told = f"process {os.getpid()} is already training 'hat' - use another name"
        with pytest.raises(BadInput, match=told):
            run_job(settings, second, control=Control(), sink=ignore)

    sink = at_step(2, begin_as_well)
    assert run_job(settings, first, control=Control(), sink=sink).steps == STEPS
    kept = sorted(path.name for path in first.output_dir.iterdir())
    assert kept == ["hat-step00000002.safetensors", "hat.json", "hat.safetensors"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_files_that_another_training_has_put_there_meanwhile_stay(
    overwrite: bool, job: Callable[..., JobSettings], host: StandaloneHost
) -> None:
    theirs = run_job(job(name="cap"), host, control=Control(), sink=ignore).file
    assert theirs is not None
    names = [f"hat{which}.safetensors" for which in ("-step00000002", "")]
    events: list[Event] = []

    def put() -> None:
        for name in names:
            shutil.copy(theirs, host.output_dir / name)

    run_job(
        job(overwrite=overwrite, save_preview=True),
        host,
        control=Control(),
        sink=fan_out(at_step(1, put), events.append),
    )
    kept = [(host.output_dir / name).read_bytes() == theirs.read_bytes() for name in names]
    assert kept == [not overwrite] * 2
    number = "" if overwrite else "-2"
    saved = [event.path for event in events if isinstance(event, Saved)]
    assert [path.stem for path in saved] == [f"hat-step00000002{number}", f"hat{number}"]
    assert all(saved[-1].with_suffix(suffix).is_file() for suffix in (".json", ".png"))
    told = f"{names[1]} is of another training and stays; this one becomes hat-2.safetensors"
    assert (Notice(told) in events) is not overwrite


def test_a_job_that_begins_anew_without_a_state_replaces_its_own_copies(
    job: Callable[..., JobSettings], host: StandaloneHost
) -> None:
    settings = job(save_state_every_steps=0, save_state_every_minutes=0)

    def die() -> None:
        raise SystemExit

    with pytest.raises(SystemExit):
        run_job(settings, host, control=Control(), sink=at_step(STEPS, die))
    assert (host.output_dir / "hat-step00000002.safetensors").is_file()
    run_job(settings, host, control=Control(), sink=ignore, resume=True)
    found = {path.stem for path in host.output_dir.glob("*.safetensors")}
    assert found == {"hat-step00000002", "hat"}


def test_a_run_that_was_stopped_and_saved_replaces_its_own_file(
    job: Callable[..., JobSettings], host: StandaloneHost
) -> None:
    control = Control()
    run_job(job(), host, control=control, sink=at_step(1, control.stop_and_save))
    assert run_job(job(), host, control=Control(), sink=ignore, resume=True).steps == STEPS
    found = {path.name for path in host.output_dir.glob("hat*.safetensors")}
    assert found - {"hat-step00000002.safetensors"} == {"hat.safetensors"}


def test_a_queue_on_a_full_disk_stays_as_it_was(tmp_path: Path) -> None:
    store = JobStore(tmp_path / "jobs.sqlite")
    first = store.add({"name": "first", "method": "lora"})
    ((pages,),) = store._file.execute("PRAGMA page_count")
    store._file.execute(f"PRAGMA max_page_count = {pages}")  # no room for another one
    with pytest.raises(QueueError, match="database or disk is full - make room"):
        store.add({"name": "second", "method": "lora", "prompt": "x" * 100_000})
    assert store.jobs() == [first]
    store._file.execute("PRAGMA max_page_count = 100000")
    store.add({"name": "second", "method": "lora", "prompt": "x" * 100_000})
    assert [job.name for job in store.jobs()] == ["first", "second"]
    store.close()


def test_a_lock_can_be_had_where_nothing_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full() -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("trainer.lock.os.getpid", full)
    with FileLock(tmp_path / "lock") as lock:
        assert lock.held
        with pytest.raises(BadInput, match="another process is already working"):
            FileLock(tmp_path / "lock").acquire()


OTHER = """
import sys
import time
from pathlib import Path
from trainer.jobs.store import JobStore
from trainer.jobs.worker import Worker
store = JobStore(Path(sys.argv[1]))
worker = Worker(store, lambda job, control, sink: sys.stdin.read())
worker.start()
while not worker.status.job:
    time.sleep(0.01)
print("at work", flush=True)
worker.wait()
"""


def test_two_webuis_on_one_folder(tmp_path: Path, job: Callable[..., JobSettings]) -> None:
    path = tmp_path / "jobs.sqlite"
    store = JobStore(path)
    first = store.add(job(name="first").as_dict())
    with subprocess.Popen(
        [sys.executable, "-c", OTHER, str(path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None and other.stdin is not None
        assert other.stdout.readline() == "at work\n"
        worker = Worker(store, lambda job, control, sink: None)
        assert store.get(first.id).state is JobState.RUNNING, "what the other one does is not lost"
        second = store.add(job(name="second").as_dict())
        with pytest.raises(BadInput) as refused:
            worker.start()
        (problem,) = refused.value.problems
        assert f"process {other.pid} is already working on this queue" in problem.what
        assert problem.cure
        store.remove(second.id)
        other.stdin.close()
        other.wait(30)
    assert store.get(first.id).state is JobState.DONE
    store.close()


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
from trainer.cli import main
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
@pytest.mark.parametrize(
    ("most_bytes", "status", "message"),
    [
        (10_000, 1, "the system refused a file (File too large"),  # before the first step
        (1_500_000, 2, "hat.safetensors: cannot be written: File too large"),
    ],
)
def test_a_system_that_really_refuses_to_write(
    most_bytes: int, status: int, message: str, job: Callable[..., JobSettings], tmp_path: Path
) -> None:
    """No file may have more than so many bytes; the LoRA has three million."""
    settings = job(
        steps=1, save_every_steps=0, rank=128, blocks=list(BLOCKS[1:]), save_precision="fp32"
    )
    file = tmp_path / "job.json"
    file.write_text(json.dumps(settings.as_dict()), "utf-8")
    command = [sys.executable, "-c", LIMITED, str(most_bytes), "train", str(file)]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "out")],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == status, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    left = {path.name for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert left <= {"hat.csv", "beginning.json", "hashes.json"}
