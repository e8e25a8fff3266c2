"""The tab inside a webui: one queue for the life of the process, guarded routes, the page."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from fastapi import Depends
from modules import shared

from ..api.form_routes import add_form_routes
from ..api.guard import webui_guard
from ..api.routes import add_job_routes
from ..api.run_routes import add_run_routes
from ..api.yard import Yard
from ..hosts.a1111 import WebuiHost


@lru_cache(maxsize=1)
def yard() -> Yard:
    """The queue and its worker; the same after every "Reload UI".

    Raises:
        BadInput: the queue's file cannot be opened.
    """
    host = WebuiHost()
    return Yard(host, host.data_dir)


def tab() -> Any:
    """The tab, as gradio Blocks."""
    from .tab import build

    host = yard().host
    first = host.loaded_checkpoint()
    checkpoints = sorted(host.checkpoints(), key=lambda name: (name != first, name.casefold()))
    return build({"checkpoint": checkpoints, "vae": host.vaes(), "lora": host.loras()})


def add_routes(app: Any) -> None:
    """Adds the routes to the webui's server, behind its login and its --api-auth."""
    guards = [Depends(webui_guard(app, shared.cmd_opts.api_auth))]
    add_job_routes(app, yard(), guards)
    add_form_routes(app, yard(), guards)
    add_run_routes(app, yard(), guards)
