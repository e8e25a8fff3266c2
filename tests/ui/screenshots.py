"""Makes the README's pictures of the tab: `python -m tests.ui.screenshots [FOLDER]`.

Goes through the same stories as the tests, on the embedded checkpoint and the standalone page: a
training while it runs, and its results with a grid.  Needs what the browser tests need.
"""

from __future__ import annotations

import base64
import io
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from trainer.demo.checkpoint import CHECKPOINT
from trainer.demo.examples import prepare_lora
from trainer.settings.form import shown_values

from .conftest import Page, free_port, new_browser, start_server

FOLDER = Path(__file__).resolve().parents[2] / "trainer" / "ui" / "screenshots"
COLOURS = 128
"""Of a picture's palette, which keeps it small."""
PATIENCE_S = 1800
CHANGES: Mapping[str, object] = {
    "name": "zibble",
    "steps": 200,
    "preserve_prompts": "",
    "save_every_steps": 50,
    "sample_every_steps": 50,
    "sample_denoise_steps": 10,
    "sample_prompts": "a red zibble on a white background\na blue square on a yellow background",
    "save_preview": False,
}


def main(folder: Path) -> None:
    """Writes `training.png` and `results.png` into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp())
    port = free_port()
    server = start_server(CHECKPOINT.parent, Path("models/Lora"), port, work)
    driver = new_browser()
    try:
        page = Page(driver, f"http://127.0.0.1:{port}/")
        page.open("?__theme=light")
        _train(page, work, folder)
        _compare(page, folder)
    finally:
        driver.quit()
        server.terminate()
        server.wait(30)
        shutil.rmtree(work, ignore_errors=True)


def _train(page: Page, work: Path, folder: Path) -> None:
    """The form as a first LoRA needs it, and the training at two thirds of its way."""
    settings = prepare_lora(work).replace(**CHANGES)
    images = Path(str(settings.values["images"])).relative_to(work).as_posix()
    values = {**settings.as_dict(), "images": images, "checkpoint": CHECKPOINT.name}
    page.awaited("return trainyard.fillIn(arguments[0])", shown_values(values))
    page.until("document.getElementById('trainyard_plan').innerText.includes('8 pictures')")
    page.press("start")
    page.until("trainyard.status.step && trainyard.status.step.step >= 160", PATIENCE_S)
    page.script("trainyard.say('')")
    _shoot(page, folder / "training.png", width=1400, height=1080)
    page.until("trainyard.status.jobs[0].state === 'done'", PATIENCE_S)


def _compare(page: Page, folder: Path) -> None:
    """The results of the run: its loss, and a grid of its save points."""
    page.until("document.querySelector('#trainyard_runs input')")
    page.script("document.querySelector('#trainyard_runs input').click()")
    page.press("grid_ask")
    page.until("document.getElementById('trainyard_grid_count')")
    page.script("document.getElementById('trainyard_grid_denoise_steps').value = '20'")
    page.press("grid_draw")
    done = "trainyard.status.jobs.some((job) => job.method === 'grid' && job.state === 'done')"
    page.until(done, PATIENCE_S)
    page.until("document.querySelector('#trainyard_grids .trainyard_sheet img')?.naturalWidth")
    _shoot(page, folder / "results.png", width=1400, height=3000, element="results")


def _shoot(page: Page, path: Path, *, width: int, height: int, element: str = "") -> None:
    """Saves what the browser shows, or one part of it, in few colours."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    time.sleep(2)  # what was resized is drawn anew
    options: dict[str, Any] = {}
    if element:
        box = page.script(
            f"const box = document.getElementById('trainyard_{element}').getBoundingClientRect();"
            "return {x: box.x, y: box.y, width: box.width, height: box.height, scale: 1}"
        )
        options = {"clip": box, "captureBeyondViewport": True}
    taken = page.driver.execute_cdp_cmd("Page.captureScreenshot", options)["data"]
    with Image.open(io.BytesIO(base64.b64decode(taken))) as picture:
        picture.convert("RGB").quantize(COLOURS).save(path, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
