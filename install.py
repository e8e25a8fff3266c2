"""Sets Trainyard up.  Needs nothing but Python itself.

The webui runs this file at every start, without arguments: what is missing is installed, and
nothing that is installed is changed.  Without a webui it is the one command that sets up an
environment in `.venv` and uses it:

    python install.py demo              train on the embedded world, pictures in outputs/demo
    python install.py ui [OPTIONS]      the page, without a webui
    python install.py test [OPTIONS]    every check and test; options go to pytest
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent

# ------------------------------------------------------------------ in a webui


class Package(NamedTuple):
    """Something that Trainyard needs and a webui need not have."""

    name: str
    install: str
    """Which version pip is asked for, when there is none."""
    accept: str
    """Which versions may stay when there is one, because another program pinned it."""


WEBUI_PACKAGES = (
    Package("diffusers", "==0.31.0", ">=0.31.0,<0.38"),
    Package("huggingface_hub", ">=0.23.2,<1.0", ">=0.23.2,<1.0"),
)


def complete_webui() -> None:
    """Installs what the webui lacks and moves none of its versions; a failure is only told."""
    wanted = [p for p in WEBUI_PACKAGES if not fits(installed_version(p.name), p.accept)]
    if not wanted:
        return
    launch: Any = importlib.import_module("launch")
    if launch.args.skip_install:
        return
    root = Path(launch.__file__).resolve().parent
    pinned = pinned_names(root / "requirements_versions.txt")
    free = {normal(p.name) for p in wanted} - pinned
    names = " ".join(f'"{p.name}{p.install}"' for p in wanted)
    try:
        with tempfile.TemporaryDirectory() as folder:
            constraints = Path(folder, "installed.txt")
            constraints.write_text("\n".join(installed(but=free)), "utf-8")
            launch.run_pip(f'install -c "{constraints}" {names}', "what Trainyard needs")
    except Exception as error:  # noqa: BLE001 - whatever pip does, the webui must start
        print(f"Trainyard cannot install {names}; its tab will say so. Reason: {error}")


def installed(but: set[str]) -> list[str]:
    """Every installed package as a line of a constraints file, except those named."""
    found = {
        normal(name): f"{name}=={one.version}"
        for one in metadata.distributions()
        if (name := one.metadata["Name"]) and one.version
    }
    return sorted(line for name, line in found.items() if name not in but)


def pinned_names(requirements: Path) -> set[str]:
    """The packages that a webui's requirements name."""
    if not requirements.is_file():
        return set()
    lines = requirements.read_text("utf-8").splitlines()
    names = (re.match(r"[\w.-]+", line.strip()) for line in lines)
    return {normal(name[0]) for name in names if name is not None}


def installed_version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def fits(version: str | None, accept: str) -> bool:
    """Whether a version keeps conditions such as ">=0.31.0,<0.38"; None never does."""
    if version is None:
        return False
    for condition in accept.split(","):
        bound = release(condition.lstrip("<>="))
        if condition.startswith(">=") and release(version) < bound:
            return False
        if condition.startswith("<") and release(version) >= bound:
            return False
    return True


def release(version: str) -> tuple[int, ...]:
    """The numbers at the beginning: "0.31.0.dev1+cpu" -> (0, 31, 0)."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in match[0].split(".")) if match else ()


def normal(name: str) -> str:
    """A package's name in the one spelling that all others mean (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


# ------------------------------------------------------------------ without a webui

VENV = ROOT / ".venv"
STAMP = VENV / "trainyard-requirements"
"""Says which requirements the environment was made with."""
PYTHONS = ((3, 10), (3, 11), (3, 12))
"""numpy 1.26, which the webuis have, is made for these."""

RUN_REQUIREMENTS = (
    "torch==2.13.0",
    "transformers==4.46.1",
    "diffusers==0.31.0",
    "huggingface_hub==0.26.2",
    "numpy>=1.26,<2",
    "Pillow>=9.5,<11",
    "safetensors>=0.4.2,<0.7",
    "tqdm>=4.65,<5",
)
WITHOUT_DEPENDENCIES = ("open_clip_torch==2.20.0",)
"""Only its vocabulary file is read; what it imports would be half a webui."""
UI_REQUIREMENTS = (
    "gradio==4.40.0",
    "fastapi==0.104.1",
    "pydantic==2.8.2",
    "httpx>=0.24,<0.28",
    "matplotlib>=3.8,<4",
)
"""Those of Forge, which the page runs in too; newer httpx does not go with this fastapi."""
TWO_AT_ONCE = ("-n", "2", "--dist", "loadfile")
"""For pytest: a process for each of two cores, and a file's tests in one of them."""
TEST_REQUIREMENTS = (
    "pytest>=8,<10",
    "pytest-xdist>=3.6,<4",
    "hypothesis>=6.100,<7",
    "ruff==0.17.5",
    "mypy==2.4.1",
    "import-linter>=2.1,<3",
    "peft==0.13.2",
    "prodigyopt==1.1.2",
    "lion-pytorch==0.2.5",
    "schedulefree==1.4.1",
    "dadaptation==3.2",
    "came-pytorch==0.1.3",
    "adam-mini==1.1.1",
    "pytorch_optimizer==4.1.0",
    "accelerate==0.31.0",
    "selenium>=4.20,<5",
)


def main(arguments: Sequence[str]) -> int:
    if not arguments and importlib.util.find_spec("launch") is not None:
        complete_webui()
        return 0
    commands = {"demo": demo, "ui": ui, "test": test}
    if not arguments or arguments[0] not in commands:
        print(__doc__)
        return 0 if arguments and arguments[0] in ("-h", "--help") else 2
    try:
        return commands[arguments[0]](arguments[1:])
    except subprocess.CalledProcessError as error:
        print(f"This failed: {' '.join(map(str, error.cmd))}\nIts reason is above.")
        return 1
    except KeyboardInterrupt:  # with which the page is ended; the program has said its word
        return 130


def demo(arguments: Sequence[str]) -> int:
    set_up(RUN_REQUIREMENTS)
    return in_venv("-m", "trainer.demo", "--out", "outputs/demo", *arguments)


def ui(arguments: Sequence[str]) -> int:
    set_up((*RUN_REQUIREMENTS, *UI_REQUIREMENTS))
    return in_venv("-m", "trainer", "ui", *arguments, folder=Path.cwd())


def test(arguments: Sequence[str]) -> int:
    """Runs every check, also after one has failed."""
    set_up((*RUN_REQUIREMENTS, *UI_REQUIREMENTS, *TEST_REQUIREMENTS))
    checks = {
        "ruff": ("-m", "ruff", "check", "."),
        "ruff format": ("-m", "ruff", "format", "--check", "."),
        "mypy": ("-m", "mypy"),
        "import-linter": ("-c", "from importlinter.cli import lint_imports_command as c; c()"),
        "pytest": ("-m", "pytest", *TWO_AT_ONCE, *arguments),
    }
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # two processes share the cores already
    failed = []
    for name, command in checks.items():
        print(f"== {name}", flush=True)
        if in_venv(*command) != 0:
            failed.append(name)
    print(f"Failed: {', '.join(failed)}" if failed else "All checks passed.")
    return 1 if failed else 0


def set_up(requirements: Sequence[str]) -> None:
    """Makes the environment; does nothing when it was made with all of `requirements`.

    Raises:
        CalledProcessError: pip or venv failed, and said why.
    """
    wanted = {*requirements, *WITHOUT_DEPENDENCIES}
    made = venv_python().is_file() and STAMP.is_file()  # without it, it may lack even pip
    if made and wanted <= set(STAMP.read_text("utf-8").splitlines()):
        return
    print("Setting up .venv; the first time this takes some minutes.", flush=True)
    STAMP.unlink(missing_ok=True)
    if not made:
        subprocess.run([suitable_python(), "-m", "venv", str(VENV)], check=True)
    pip = [str(venv_python()), "-m", "pip", "install", "--disable-pip-version-check"]
    subprocess.run([*pip, *requirements], check=True)
    subprocess.run([*pip, "--no-deps", *WITHOUT_DEPENDENCIES], check=True)
    STAMP.write_text("\n".join(sorted(wanted)), "utf-8")


def suitable_python() -> str:
    """This Python, or another one on the machine where this one is too old or too new."""
    if sys.version_info[:2] in PYTHONS:
        return sys.executable
    for major, minor in reversed(PYTHONS):
        found = shutil.which(f"python{major}.{minor}")
        if found is not None and subprocess.run([found, "-c", ""], check=False).returncode == 0:
            return found
    have = ".".join(map(str, sys.version_info[:2]))
    raise SystemExit(f"This is Python {have}; Trainyard needs Python 3.10, 3.11 or 3.12.")


def venv_python() -> Path:
    return VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def in_venv(*command: str, folder: Path = ROOT) -> int:
    """Runs the environment's Python with the package importable; returns its exit status."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    surroundings = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    done = subprocess.run([str(venv_python()), *command], cwd=folder, env=surroundings, check=False)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
