"""How a route is added and answers; every one is `async`, so that none waits for a generation."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from ..errors import BadInput, Problem, TrainyardError
from ..settings.files import parse_object
from .answers import problems_json
from .described import TAG, Words, described

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")
Handler = Callable[[Request], Awaitable[Any]]
Body = Mapping[str, Any]

PREFIX = "/trainyard/v1"
"""The number rises when a route changes its meaning, so that other programs can rely on it."""
LARGEST_BODY_MB = 8
HEADER = "x-trainyard"
"""A header that no other site can make a browser send along."""

THREADS = ThreadPoolExecutor(4, thread_name_prefix="trainyard-page")
"""Own threads: the server's are taken while generations wait for each other."""
SLOW_THREADS = ThreadPoolExecutor(2, thread_name_prefix="trainyard-form")
"""Of what may take long, such as going through a folder on another machine: it holds up itself
alone, and neither progress nor a stop."""


async def in_thread(work: Callable[[], Answer], threads: Executor = THREADS) -> Answer:
    """Runs what reads files or computes, without holding up other requests."""
    return await asyncio.get_running_loop().run_in_executor(threads, work)


class Routes:
    """Adds routes to a server, each with its place in the server's documentation."""

    def __init__(self, app: FastAPI, guards: Sequence[Any] = ()) -> None:
        """Adds nothing yet.

        Args:
            app: the server, webui's or own.
            guards: fastapi dependencies that let a request through or raise.
        """
        self._app = app
        self._guards = list(guards)

    def add(
        self,
        method: str,
        path: str,
        handler: Handler,
        title: str,
        *,
        query: Words | None = None,
        body: Words | None = None,
        answer: str = "application/json",
    ) -> None:
        """Adds a route that answers with JSON, or with what the handler made ready itself.

        A `TrainyardError` becomes an answer with its problems; a request that changes something
        must carry the header.

        Args:
            title: what it does, in a few words.
            query, body, answer: as in `described`.
        """
        # The server answers a number of thousands of digits with a traceback; the handlers do not.
        self._app.add_api_route(
            f"{PREFIX}/{path.replace(':int', '')}",
            _answering(method, path, handler),
            methods=[method],
            dependencies=self._guards,
            summary=title,
            tags=[TAG],
            response_model=None,
            openapi_extra=described(method, path, HEADER, query=query, body=body, answer=answer),
        )


def _answering(
    method: str, path: str, handler: Handler
) -> Callable[[Request], Awaitable[Response]]:

    async def answer(request: Request) -> Response:
        if method != "GET" and HEADER not in request.headers:
            return Json({"error": f"the header {HEADER} is missing"}, 403)
        try:
            made = await handler(request)
            return made if isinstance(made, Response) else Json(made)
        except BadInput as error:
            return Json({"problems": problems_json(error.problems)}, 422)
        except TrainyardError as error:
            return Json({"error": str(error)}, 409)
        except Exception as error:
            log.exception("%s %s failed", method, path)
            # What it says may name files that are none of the asker's business.
            what = f"{type(error).__name__}: the details are in the program's console"
            return Json({"error": what}, 500)

    return answer


class Json(JSONResponse):  # type: ignore[misc]
    """An answer in ASCII: a file's name need not be Unicode, but what is sent must be."""

    def render(self, content: object) -> bytes:
        """The body."""
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")


async def body_of(request: Request) -> Body:
    """A request's JSON object.

    Raises:
        BadInput: it is none, or larger than anything that a form sends.
    """
    received = bytearray()
    async for part in request.stream():
        received += part
        if len(received) > LARGEST_BODY_MB * 2**20:
            what = f"is larger than {LARGEST_BODY_MB} MB"
            raise BadInput([Problem("request", what, "send settings only")])
    try:
        text = received.decode("utf-8")
    except UnicodeDecodeError:
        raise BadInput([Problem("request", "is not UTF-8 text", "send JSON")]) from None
    return parse_object(text, "request")


def settings_of(body: Body) -> Body:
    """The settings in a request's object.

    Raises:
        BadInput: it has none.
    """
    settings = body.get("settings")
    if not isinstance(settings, dict):
        raise BadInput([Problem("settings", "is no JSON object", "send the form's values")])
    return settings


def number_of(text: object, where: str) -> int:
    """A whole number from an address or a body.

    Raises:
        BadInput: it is none.
    """
    number = whole(text)
    if number is None or not 0 <= number < 2**53:
        raise BadInput([Problem(where, "is no number that was given here", "reload the page")])
    return number


def whole(text: object) -> int | None:
    """A whole number, or None for anything else."""
    if isinstance(text, int) and not isinstance(text, bool):
        return text
    return int(text) if isinstance(text, str) and text.isdecimal() and len(text) < 16 else None
