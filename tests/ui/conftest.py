"""A page of its own, and a headless browser that looks at it.

The browser tests need gradio, selenium and Debian's chromium with chromedriver; they are skipped
where one is missing.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
START_S = 300
"""Importing torch and gradio takes long on a machine that is busy."""
ANSWER_S = 60
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-proxy-server",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
)

SMALL = {
    "image_size_px": "64",
    "bucket_step_px": "32",
    "min_length_px": "32",
    "rank": "2",
    "alpha": "1",
    "batch_size": "1",
    "seed": "1",
}
"""Settings of a training that takes seconds."""
PLAN = "document.getElementById('trainyard_plan').innerText"


class Page:
    """The tab in a browser: waiting, reading, pressing."""

    def __init__(self, driver: Any, url: str) -> None:
        self.driver = driver
        self.url = url

    def open(self, query: str = "") -> None:
        self.driver.get(self.url + query)
        self.until("window.trainyard && trainyard.status && trainyard.restored")
        time.sleep(0.3)  # and what the server has to say of it, as a rule

    def open_with(self, answers: str) -> None:
        """Opens the page with a `window.fetch` of its own: `answers` is its body in JavaScript."""
        source = f"const real = window.fetch; window.fetch = async (...asked) => {{ {answers} }};"
        on_load = "Page.addScriptToEvaluateOnNewDocument"
        added = self.driver.execute_cdp_cmd(on_load, {"source": source})
        self.open()
        self.driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", added)

    def script(self, code: str, *values: object) -> Any:
        return self.driver.execute_script(code, *values)

    def awaited(self, code: str, *values: object) -> Any:
        """As `script`, for code that returns a promise: Chromium's driver may lose one of those."""
        found, error = self.driver.execute_async_script(
            f"""
            const answer = arguments[arguments.length - 1];
            const came = (value) => answer([value ?? null, null]);
            const failed = (error) => answer([null, String(error)]);
            (async function () {{ {code} }}).apply(null, arguments).then(came, failed);
            """,
            *values,
        )
        assert error is None, error
        return found

    def until(self, condition: str, timeout_s: float = ANSWER_S) -> Any:
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            found = self.script(f"return {condition}")
            if found:
                return found
            time.sleep(0.2)
        raise TimeoutError(f"not within {timeout_s} s: {condition}\n{self.text('root')[-3000:]}")

    def text(self, name: str) -> str:
        return str(self.script(f"return document.getElementById('trainyard_{name}').innerText"))

    def press(self, name: str) -> None:
        self.until(f"document.getElementById('trainyard_{name}')?.disabled === false")
        self.script(f"document.getElementById('trainyard_{name}').click()")

    def type(self, name: str, text: str) -> None:
        """Replaces a field's text, key by key, as a person would."""
        from selenium.webdriver.common.by import By
        from selenium.webdriver.common.keys import Keys

        box = self.driver.find_element(
            By.CSS_SELECTOR, f"#trainyard_{name} input, #trainyard_{name} textarea"
        )
        self.script("arguments[0].scrollIntoView({block: 'center'})", box)
        box.send_keys(Keys.CONTROL, "a")
        box.send_keys(text or Keys.DELETE)

    def write(self, **values: object) -> None:
        self.script("window.wrote = 0; trainyard.write(arguments[0]).then(() => wrote = 1)", values)
        self.until("window.wrote")

    def read(self, name: str) -> Any:
        self.script("window.got = null; trainyard.read().then((values) => { got = values; })")
        self.until("window.got !== null")
        return self.script("return got[arguments[0]]", name)

    def console_errors(self) -> list[str]:
        """What the page itself got wrong; Gradio's fonts from elsewhere do not count."""
        foreign = ("ERR_NAME", "fonts.googleapis.com")
        severe = [e["message"] for e in self.driver.get_log("browser") if e["level"] == "SEVERE"]
        return [message for message in severe if not any(part in message for part in foreign)]


def start(page: Page, name: str, steps: int) -> None:
    page.write(name=name, steps=str(steps), save_every_steps="0")
    page.press("start")
    page.until(f"trainyard.status.jobs.some((job) => job.name === '{name}')")


def state(name: str) -> str:
    return f"(trainyard.status.jobs.find((job) => job.name === '{name}') || {{}}).state"


def said(text: str) -> str:
    return f"document.getElementById('trainyard_message').innerText.includes({text!r})"


def new_browser() -> Any:
    """Headless Chromium; skips the test where something is missing."""
    webdriver = pytest.importorskip("selenium.webdriver")
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or chromedriver is None:
        pytest.skip("chromium and chromedriver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, "--window-size=1400,1100"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.chrome.service.Service(chromedriver)
    driver = webdriver.Chrome(options=options, service=service)
    driver.set_script_timeout(ANSWER_S)
    return driver


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    pytest.importorskip("gradio")
    driver = new_browser()
    yield driver
    driver.quit()


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six pictures in two shapes, five of them with a caption."""
    folder = tmp_path_factory.mktemp("photos")
    for number in range(6):
        size = (96, 64) if number == 2 else (64, 64)
        Image.new("RGB", size, (40 * number, 90, 200)).save(folder / f"{number}.png")
        if number:
            (folder / f"{number}.txt").write_text(f"picture number {number}", "utf-8")
    return folder


@pytest.fixture(scope="session")
def serve(tiny_checkpoint: Path) -> Iterator[Callable[[Path, int], subprocess.Popen[bytes]]]:
    """Starts the standalone page on the tiny checkpoint; ends it at the end."""
    running: list[subprocess.Popen[bytes]] = []

    def start(out: Path, port: int) -> subprocess.Popen[bytes]:
        running.append(start_server(tiny_checkpoint.parent, out, port))
        return running[-1]

    yield start
    for process in running:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="session")
def page(
    browser: Any,
    serve: Callable[[Path, int], subprocess.Popen[bytes]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Page:
    port = free_port()
    serve(tmp_path_factory.mktemp("out"), port)
    return Page(browser, f"http://127.0.0.1:{port}/")


@pytest.fixture
def form(page: Page, photos: Path) -> Page:
    """The page with a small job filled in and nothing running."""
    page.console_errors()  # of the tests before
    page.open()
    page.until("!trainyard.status.running")
    page.awaited("return trainyard.chooseMethod('lora').then(() => trainyard.reset())")
    page.write(**SMALL, images=str(photos))
    return page


def start_server(
    models: Path, out: Path, port: int, folder: Path = ROOT
) -> subprocess.Popen[bytes]:
    """The standalone page in a process of its own that works in a folder, when it answers."""
    command = [sys.executable, "-m", "trainer", "ui", "--port", str(port)]
    command += ["--models", str(models), "--out", str(out), "--device", "cpu"]
    changes = {"OMP_NUM_THREADS": "1", "GRADIO_ANALYTICS_ENABLED": "False", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, cwd=folder, env={**os.environ, **changes})
    _wait_for(f"http://127.0.0.1:{port}/trainyard/v1/presets", process)
    return process


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"the page ended with status {process.returncode}")
        try:
            opener.open(url, timeout=5).close()
            return
        except OSError:
            time.sleep(0.5)
    raise TimeoutError(f"{url} does not answer")
