"""The routes of the history: curves, logs as CSV, plots as PNG, and the folder of a result."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

from fastapi import Request, Response

from ..errors import BadInput, Problem
from . import runs
from .answers import finite
from .routes import Routes, body_of, in_thread, number_of
from .yard import Yard

HERE = ("127.0.0.1", "::1", "localhost")
"""Where a browser must run for a folder to open in front of its user."""
OPENERS = {"win32": "explorer", "darwin": "open"}
DESKTOPS = ("DISPLAY", "WAYLAND_DISPLAY")
"""One of them is set where another system than `OPENERS` has a desktop."""


def add_run_routes(routes: Routes, yard: Yard) -> None:
    """Adds the routes of the history, which act on `yard`."""

    async def list_runs(request: Request) -> object:
        del request
        found = await in_thread(lambda: runs.runs(yard.host.log_dir))
        return {"runs": [{"name": run.name, "changed_s": run.changed_s} for run in found]}

    async def read_curve(request: Request) -> object:
        path = runs.log_file(yard.host.log_dir, request.query_params.get("name", ""))
        points = await in_thread(lambda: runs.thinned(runs.curve(path)))
        return {"curve": [finite(point) for point in points]}

    async def read_csv(request: Request) -> object:
        path = runs.log_file(yard.host.log_dir, request.query_params.get("name", ""))
        text = await in_thread(path.read_bytes)
        return _download(text, "text/csv", path.name)

    async def read_plot(request: Request) -> object:
        names = request.query_params.getlist("name")[: runs.MOST_RUNS]
        files = [(name, runs.log_file(yard.host.log_dir, name)) for name in names]

        def draw() -> bytes:
            return runs.picture([(name, runs.curve(path)) for name, path in files])

        return _download(await in_thread(draw), "image/png", "loss.png")

    async def open_folder(request: Request) -> object:
        job = yard.store.get(number_of((await body_of(request)).get("job"), "job"))
        folder = job.files[-1].parent if job.files else yard.host.output_dir
        may = yard.opens_folders and _from_here(request)
        return {"folder": str(folder), "opened": may and _open(folder)}

    name = {"name": "of a run"}
    job = {"job": "a number: the job whose results are looked for"}
    png = "image/png"
    routes.add("GET", "runs", list_runs, "Every run that left a log")
    routes.add("GET", "runs/curve", read_curve, "Step, loss, smoothed loss, rate", query=name)
    routes.add("GET", "runs/csv", read_csv, "A run's log", query=name, answer="text/csv")
    routes.add("GET", "runs/plot", read_plot, "Curves as a picture", query=name, answer=png)
    routes.add("POST", "open-folder", open_folder, "Show where results lie", body=job)


def _download(content: bytes, kind: str, name: str) -> Response:
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "-_. ") else "_" for c in name)
    whole = quote(name, safe="", errors="replace")  # for browsers, which all read RFC 6266
    said = f"attachment; filename=\"{plain}\"; filename*=UTF-8''{whole}"
    headers = {"Content-Disposition": said}
    return Response(content, media_type=kind, headers=headers)


def _from_here(request: Request) -> bool:
    """Whether the browser runs on this machine; a proxy or tunnel on it only seems to."""
    client = request.client.host if request.client else ""
    passed_on = "x-forwarded-for" in request.headers or "forwarded" in request.headers
    return client in HERE and request.url.hostname in HERE and not passed_on


def _open(folder: Path) -> bool:
    """Shows a folder in the system's file manager; False where there is none.

    Raises:
        BadInput: the folder is gone.
    """
    if not folder.is_dir():
        raise BadInput([Problem(str(folder), "is no folder any longer", "was it moved?")])
    if sys.platform not in OPENERS and not any(map(os.environ.get, DESKTOPS)):
        return False
    try:
        subprocess.Popen(
            [OPENERS.get(sys.platform, "xdg-open"), str(folder)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    except OSError:
        return False
    return True
