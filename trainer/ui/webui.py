"""The tab inside a webui: one queue for the life of the process, guarded routes, the settings."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import gradio as gr
from fastapi import Depends
from modules import shared

from ..api import app as routes
from ..api.guard import webui_guard
from ..api.yard import Yard
from ..hosts.a1111 import CHECKPOINT_CHANGES, WebuiHost, within_limits
from ..hosts.gate import SHARING, Manners
from ..settings.groups import CacheSettings

SECTION = ("trainyard", "Trainyard")


@lru_cache(maxsize=1)
def yard() -> Yard:
    """The queue and its worker; the same after every "Reload UI".

    Raises:
        BadInput: the queue's file cannot be opened.
    """
    host = WebuiHost()
    hidden = getattr(shared.cmd_opts, "hide_ui_dir_config", False)
    return Yard(host, host.data_dir, opens_folders=not hidden, adjust=within_limits)


def tab() -> gr.Blocks:
    """The tab."""
    from .tab import build

    return build(yard())


def add_routes(app: Any) -> None:
    """Adds the routes to the webui's server, behind its login and its --api-auth."""
    guard = webui_guard(app, shared.cmd_opts.api_auth)
    routes.add_routes(app, yard(), [Depends(guard)])


def add_options() -> None:
    """Adds our section to the webui's Settings."""

    def add(name: str, default: object, label: str, *kind: object) -> None:
        info = shared.OptionInfo(default, label, *kind, section=SECTION)
        shared.opts.add_option(f"trainyard_{name}", info)

    sharing, changes = list(SHARING), list(CHECKPOINT_CHANGES)
    add(
        "sharing",
        sharing[0],
        "When a picture is generated during a training: it comes in between two steps, the training"
        " pauses until you are idle, or the picture waits for its end (block)",
        gr.Radio,
        {"choices": sharing},
    )
    add(
        "idle_s",
        Manners.idle_s,
        "With 'pause while I work': seconds without work before training goes on",
        gr.Number,
    )
    add(
        "checkpoint_change",
        changes[0],
        "When another checkpoint is chosen during a training; with 'finish the training first' it"
        " waits for the end, and so do all pictures",
        gr.Radio,
        {"choices": changes},
    )
    add("subfolder", "", "Folder inside the Lora folder that results are written to")
    add(
        "log_folder",
        "",
        "Folder of logs, saved states and sample pictures; empty: trainyard/logs among the webui's"
        " data",
    )
    add("cache_folder", "", "Folder of encoded pictures; empty: cache inside the folder of logs")
    add(
        "cache_disk_mb",
        CacheSettings().cache_disk_mb,
        "Most that encoded pictures may take on disk, in MB; a job may ask for less",
        gr.Number,
    )
