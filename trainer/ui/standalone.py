"""The page without a webui: the tab on a server of its own."""

from __future__ import annotations

import logging
from pathlib import Path

import gradio as gr
import uvicorn
from fastapi import FastAPI, Request
from fastapi.middleware.trustedhost import TrustedHostMiddleware
from fastapi.responses import FileResponse, Response

from ..api.app import add_routes
from ..api.routes import PREFIX
from ..api.yard import Yard
from ..hosts.protocol import Host
from .compat import on_load
from .tab import build

log = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[2]
HOST = "127.0.0.1"
"""Only this machine: the page may start programs and name files."""
STYLE = "style.css"
SCRIPTS = tuple(sorted(path.name for path in (ROOT / "javascript").glob("*.js")))
"""In the order in which a webui loads them, which is that of their names."""


def make_app(host: Host, data_dir: Path) -> FastAPI:
    """The page and its routes as one ASGI program.

    Raises:
        BadInput: the queue cannot be opened.
    """
    yard = Yard(host, data_dir)
    app = FastAPI(title="Trainyard", docs_url=None, redoc_url=None, openapi_url=None)
    # A site of another name that turns out to be this machine is not let in.
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])
    add_routes(app, yard)
    _serve_own_files(app)
    tab = build(yard, standalone=True)
    with tab:
        on_load(tab, _loader())
    mounted: FastAPI = gr.mount_gradio_app(app, tab, path="/")
    return mounted


def serve(host: Host, data_dir: Path, port: int) -> None:
    """Opens the page and serves it until Ctrl-C.

    Raises:
        BadInput: the queue cannot be opened.
    """
    app = make_app(host, data_dir)
    log.info("Trainyard is at http://%s:%d - Ctrl-C ends it", HOST, port)
    uvicorn.run(app, host=HOST, port=port, log_level="warning")


def _serve_own_files(app: FastAPI) -> None:
    """The scripts and styles that a webui would load by itself; no other file has a name here."""
    files = {STYLE: ROOT / STYLE, **{name: ROOT / "javascript" / name for name in SCRIPTS}}

    async def own_file(request: Request) -> Response:
        path = files.get(request.path_params["name"])
        return Response(status_code=404) if path is None else FileResponse(path)

    app.add_api_route(f"{PREFIX}/files/{{name}}", own_file, include_in_schema=False)


def _loader() -> str:
    """JavaScript that puts the styles and, one after the other, the scripts into the page."""
    stamp = max((ROOT / "javascript" / name).stat().st_mtime_ns for name in SCRIPTS)
    base = f".{PREFIX}/files/"
    scripts = ",".join(f'"{base}{name}?{stamp}"' for name in SCRIPTS)
    return (
        "async () => {"
        " const style = document.createElement('link'); style.rel = 'stylesheet';"
        f" style.href = '{base}{STYLE}?{stamp}'; document.head.append(style);"
        f" for (const source of [{scripts}]) await new Promise((done) => {{"
        " const script = document.createElement('script'); script.src = source;"
        " script.onload = done; script.onerror = done; document.head.append(script); });"
        " return []; }"
    )
