"""The routes of pictures that were drawn: samples of a run, and grids."""

from __future__ import annotations

from pathlib import Path

from fastapi import Request, Response

from ..errors import BadInput, Problem
from . import grids, runs
from .routes import Routes, in_thread
from .yard import Yard

PNG = "image/png"


def add_picture_routes(routes: Routes, yard: Yard) -> None:
    """Adds the routes of samples and grids, which read what `yard`'s jobs drew."""
    host = yard.host  # its folder of logs may be set anew at any time

    async def list_samples(request: Request) -> object:
        folder = _sample_folder(host.log_dir, request)
        return await in_thread(lambda: _samples(folder))

    async def read_sample(request: Request) -> object:
        folder, wanted = _sample_folder(host.log_dir, request), request.query_params.get("file", "")
        for path, _, _ in runs.sample_files(folder):
            if path.name == wanted:
                return Response(await in_thread(path.read_bytes), media_type=PNG)
        raise BadInput([Problem("file", "there is no such picture", "look at the run again")])

    async def list_grids(request: Request) -> object:
        del request
        found = await in_thread(lambda: grids.grids(host.log_dir))
        identify = yard.thumbnails.identify
        return {"grids": [{"name": p.stem, "thumbnail": identify(p)} for p in found]}

    async def read_grid(request: Request) -> object:
        path = grids.grid_file(host.log_dir, request.query_params.get("name", ""))
        return Response(await in_thread(path.read_bytes), media_type=PNG)

    async def propose_grid(request: Request) -> object:
        names = request.query_params.getlist("name")[: runs.MOST_RUNS]
        jobs = await in_thread(yard.store.jobs)
        return await in_thread(lambda: grids.proposal(host, jobs, names))

    name = {"name": "of a run"}
    file = {**name, "file": "of a picture, as runs/samples lists them"}
    grid = {"name": "of a grid"}
    routes.add("GET", "runs/samples", list_samples, "Pictures drawn during a run", query=name)
    routes.add("GET", "runs/sample", read_sample, "A picture of a run", query=file, answer=PNG)
    routes.add("GET", "grids", list_grids, "Every grid of pictures")
    routes.add("GET", "grids/picture", read_grid, "A grid as a picture", query=grid, answer=PNG)
    routes.add("GET", "grids/proposal", propose_grid, "A job for a grid of a run", query=name)


def _sample_folder(log_dir: Path, request: Request) -> Path:
    name = request.query_params.get("name", "")
    runs.check_run_name(name)
    return log_dir / "samples" / name


def _samples(folder: Path) -> dict[str, object]:
    found = runs.sample_files(folder)
    newest = {number: path for path, _, number in found}
    return {
        "samples": [{"file": p.name, "step": s, "prompt": n} for p, s, n in found],
        "prompts": {number: runs.drawn_prompt(path) for number, path in newest.items()},
    }
