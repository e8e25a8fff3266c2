"""All routes of Trainyard on a server: the webui's, or that of the standalone page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI

from .form_routes import add_form_routes
from .job_routes import add_job_routes, add_queue_routes
from .picture_routes import add_picture_routes
from .preset_routes import add_preset_routes
from .routes import Routes
from .run_routes import add_run_routes
from .yard import Yard


def add_routes(app: FastAPI, yard: Yard, guards: Sequence[Any] = ()) -> None:
    """Adds every route.

    Args:
        app: the server.
        yard: what the routes act on.
        guards: fastapi dependencies (`Depends(...)`) that let a request through or raise.
    """
    routes = Routes(app, guards)
    add_queue_routes(routes, yard)
    add_job_routes(routes, yard)
    add_form_routes(routes, yard)
    add_preset_routes(routes, yard)
    add_picture_routes(routes, yard)
    add_run_routes(routes, yard)
