"""What install.py does in a webui and outside of one, without a network."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def install() -> ModuleType:
    spec = importlib.util.spec_from_file_location("install", ROOT / "install.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Launch(ModuleType):
    """The webui's module, as an extension's install.py meets it."""

    def __init__(self, root: Path, *, skip_install: bool = False, fails: bool = False) -> None:
        super().__init__("launch")
        self.__file__ = str(root / "launch.py")
        self.args = SimpleNamespace(skip_install=skip_install)
        self.commands: list[str] = []
        self.constraints: list[str] = []
        self.fails = fails

    def run_pip(self, command: str, desc: str) -> None:
        assert desc
        self.commands.append(command)
        file = command.split('"')[1]
        self.constraints = Path(file).read_text("utf-8").splitlines()
        if self.fails:
            raise RuntimeError("Couldn't install")


INSTALLED = {"torch": "2.1.2+cu121", "transformers": "4.30.2", "huggingface-hub": "0.36.2"}


def in_webui(
    install: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    launch: Launch,
    packages: dict[str, str],
) -> None:
    """Runs install.py as the webui does, in an environment of these packages."""
    monkeypatch.setitem(sys.modules, "launch", launch)
    monkeypatch.setattr(install, "installed_version", lambda n: packages.get(install.normal(n)))
    found = [SimpleNamespace(metadata={"Name": n}, version=v) for n, v in packages.items()]
    monkeypatch.setattr(install.metadata, "distributions", lambda: found)
    install.complete_webui()


def test_what_is_missing_is_installed_under_what_is_there(install, monkeypatch, tmp_path) -> None:
    launch = Launch(tmp_path)
    in_webui(install, monkeypatch, launch, INSTALLED)
    assert launch.commands[0].endswith('"diffusers==0.31.0"')
    assert launch.constraints == [
        "huggingface-hub==0.36.2",
        "torch==2.1.2+cu121",
        "transformers==4.30.2",
    ]


@pytest.mark.parametrize("version", ["0.31.0", "0.32.2"])
def test_nothing_missing_asks_pip_nothing(install, monkeypatch, tmp_path, version) -> None:
    launch = Launch(tmp_path)
    in_webui(install, monkeypatch, launch, {**INSTALLED, "diffusers": version})
    assert launch.commands == []


def test_forge_has_all_that_is_needed(install, monkeypatch, tmp_path) -> None:
    """Its requirements_versions.txt as of June 2025."""
    forge = {
        "torch": "2.3.1+cu121",
        "transformers": "4.46.1",
        "diffusers": "0.31.0",
        "huggingface-hub": "0.26.2",
        "numpy": "1.26.2",
        "gradio": "4.40.0",
    }
    launch = Launch(tmp_path)
    in_webui(install, monkeypatch, launch, forge)
    assert launch.commands == []


def test_skip_install_is_honoured(install, monkeypatch, tmp_path) -> None:
    launch = Launch(tmp_path, skip_install=True)
    in_webui(install, monkeypatch, launch, INSTALLED)
    assert launch.commands == []


def test_a_failure_is_told_and_goes_no_further(install, monkeypatch, tmp_path, capsys) -> None:
    in_webui(install, monkeypatch, Launch(tmp_path, fails=True), INSTALLED)
    assert "cannot install" in capsys.readouterr().out


def test_an_old_hub_may_rise_only_where_the_webui_does_not_pin_it(
    install, monkeypatch, tmp_path
) -> None:
    old = {**INSTALLED, "huggingface-hub": "0.16.4"}
    launch = Launch(tmp_path)
    in_webui(install, monkeypatch, launch, old)
    assert not any(line.startswith("huggingface") for line in launch.constraints)
    (tmp_path / "requirements_versions.txt").write_text("torch\nhuggingface_hub==0.16.4\n")
    in_webui(install, monkeypatch, launch, old)
    assert "huggingface-hub==0.16.4" in launch.constraints


@pytest.mark.parametrize(
    ("version", "accept", "fit"),
    [
        ("0.31.0", ">=0.31.0,<0.38", True),
        ("0.31.0.dev0", ">=0.31.0,<0.38", True),
        ("0.9.1", ">=0.31.0,<0.38", False),
        ("0.38.1", ">=0.31.0,<0.38", False),
        ("1.0.0", ">=0.23.2,<1.0", False),
        (None, ">=0.23.2", False),
    ],
)
def test_versions_are_compared_as_numbers(install, version, accept, fit) -> None:
    assert install.fits(version, accept) is fit


def test_every_requirement_has_an_upper_bound(install) -> None:
    lists = (install.RUN_REQUIREMENTS, install.UI_REQUIREMENTS, install.TEST_REQUIREMENTS)
    for one in (*lists[0], *lists[1], *lists[2], *(p.accept for p in install.WEBUI_PACKAGES)):
        assert "==" in one or "<" in one, one


def test_pip_is_asked_once_for_the_same_requirements(install, monkeypatch, tmp_path) -> None:
    python = tmp_path / ".venv/bin/python"
    monkeypatch.setattr(install, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(install, "STAMP", tmp_path / ".venv/stamp")
    monkeypatch.setattr(install, "venv_python", lambda: python)
    ran: list[list[str]] = []

    def run(command: list[str], **_: object) -> None:
        ran.append(command)
        python.parent.mkdir(parents=True, exist_ok=True)
        python.touch()

    monkeypatch.setattr(install.subprocess, "run", run)
    install.set_up(("a==1", "b==2"))
    assert [command[1:3] for command in ran] == [["-m", "venv"], ["-m", "pip"], ["-m", "pip"]]
    install.set_up(("a==1",))
    assert len(ran) == 3, "all of it is there"
    install.set_up(("a==1", "c==3"))
    assert len(ran) == 5, "the environment stays, a package comes"


def test_a_failed_setup_is_done_again(install, monkeypatch, tmp_path) -> None:
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.touch()
    stamp = tmp_path / ".venv/stamp"
    stamp.write_text("a==1")
    monkeypatch.setattr(install, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(install, "STAMP", stamp)
    monkeypatch.setattr(install, "venv_python", lambda: python)

    def fail(command: list[str], **_: object) -> None:
        raise subprocess.CalledProcessError(1, command)

    monkeypatch.setattr(install.subprocess, "run", fail)
    with pytest.raises(subprocess.CalledProcessError):
        install.set_up(("b==2",))
    assert not stamp.exists()


def test_an_environment_that_was_left_half_made_is_made_again(
    install, monkeypatch, tmp_path
) -> None:
    """Debian's Python without its venv package, or a Ctrl-C, leaves one that has no pip."""
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.touch()
    monkeypatch.setattr(install, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(install, "STAMP", tmp_path / ".venv/stamp")
    monkeypatch.setattr(install, "venv_python", lambda: python)
    ran: list[list[str]] = []
    monkeypatch.setattr(install.subprocess, "run", lambda command, **_: ran.append(command))
    install.set_up(("a==1",))
    assert ran[0][1:3] == ["-m", "venv"]


def test_ctrl_c_ends_a_command_without_a_traceback(install, monkeypatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(install, "set_up", lambda requirements: None)
    monkeypatch.setattr(install.subprocess, "run", interrupted)
    assert install.main(["ui"]) == 130
