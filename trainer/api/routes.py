"""The routes of queue and progress; every one is `async`, so that none waits for a generation."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from ..errors import BadInput, Problem, TrainyardError
from ..jobs.job import PENDING
from ..settings.files import parse_object
from ..settings.schema import listing
from .answers import job_json, problems_json, status
from .described import SETTINGS, TAG, Words, described
from .work import checked
from .yard import Yard

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


async def in_thread(work: Callable[[], Answer]) -> Answer:
    """Runs what reads files or computes, without holding up other requests."""
    return await asyncio.get_running_loop().run_in_executor(THREADS, work)


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


def add_job_routes(routes: Routes, yard: Yard) -> None:
    """Adds the routes of the queue, which act on `yard`."""

    async def read_status(request: Request) -> object:
        asked = request.query_params
        job_id, since = _whole(asked.get("job")), _whole(asked.get("since"))
        return await in_thread(lambda: status(yard, job_id, since or 0))

    async def read_log(request: Request) -> object:
        del request
        return {"log": yard.live.lines()}

    async def read_schema(request: Request) -> object:
        del request
        return {"parameters": listing()}

    async def list_jobs(request: Request) -> object:
        del request
        return {"jobs": [job_json(job) for job in await in_thread(yard.store.jobs)]}

    async def read_job(request: Request) -> object:
        return job_json(yard.store.get(_job_id(request)), settings=True)

    async def add_job(request: Request) -> object:
        body = await body_of(request)
        settings = checked(settings_of(body))
        job = yard.store.add(settings)
        if body.get("start"):
            yard.worker.start()
        return {"job": job_json(job)}

    async def change_job(request: Request) -> object:
        settings = checked(settings_of(await body_of(request)))
        return {"job": job_json(yard.store.edit(_job_id(request), settings))}

    async def delete_job(request: Request) -> object:
        yard.store.remove(_job_id(request))
        return {}

    async def act(request: Request) -> object:
        action = ACTIONS.get(request.path_params["action"])
        if action is None:
            raise BadInput([Problem("action", "is unknown", f"known: {', '.join(ACTIONS)}")])
        job_id, body = _job_id(request), await body_of(request)
        yard.store.get(job_id)  # answers for a job that is gone
        return {"done": await in_thread(lambda: action(yard, job_id, body))}

    async def start(request: Request) -> object:
        del request
        return {"done": yard.worker.start()}

    async def clear(request: Request) -> object:
        del request
        return {"removed": yard.store.clear()}

    asked = {"job": "the job whose curve is known", "since": "the last step that is known of it"}
    changed = {"settings": SETTINGS}
    started = {**changed, "start": "yes or no: begin to work on the queue"}
    acted = {
        "save": "yes or no, with stop and skip: keep what was learned",
        "place": "a number, with move: 0 runs next",
        "resume": "yes or no, with requeue: go on from the last saved state",
    }
    actions = f"Do something with a job: {', '.join(ACTIONS)}"
    routes.add("GET", "status", read_status, "Queue, progress, newest loss values", query=asked)
    routes.add("GET", "log", read_log, "The newest lines of the log")
    routes.add("GET", "schema", read_schema, "Every parameter of a training")
    routes.add("GET", "jobs", list_jobs, "Every job, in the order in which they run")
    routes.add("POST", "jobs", add_job, "Create a job", body=started)
    routes.add("GET", "jobs/{job_id:int}", read_job, "A job with its settings")
    routes.add("PATCH", "jobs/{job_id:int}", change_job, "Change a waiting job", body=changed)
    routes.add("DELETE", "jobs/{job_id:int}", delete_job, "Forget a job; its files stay")
    routes.add("POST", "jobs/{job_id:int}/{action}", act, actions, body=acted)
    routes.add("POST", "queue/start", start, "Begin to work on the queue")
    routes.add("POST", "queue/clear", clear, "Forget every job that has ended")


Action = Callable[[Yard, int, Body], object]


def _stop(yard: Yard, job_id: int, body: Body) -> object:
    """Ends this job and leaves the queue waiting, as the button says."""
    current = yard.worker.status.job
    return current is not None and current.id == job_id and yard.worker.stop(save=_save(body))


def _move(yard: Yard, job_id: int, body: Body) -> object:
    yard.store.move(job_id, _whole(body.get("place")) or 0)
    return True


def _requeue(yard: Yard, job_id: int, body: Body) -> object:
    yard.store.requeue(job_id, resume=body.get("resume") is True)
    if len(yard.store.jobs(PENDING)) == 1:  # nothing that was stopped on purpose starts with it
        yard.worker.start()
    return True


def _save(body: Body) -> bool:
    return body.get("save") is True


ACTIONS: Mapping[str, Action] = {
    "pause": lambda yard, job_id, body: yard.worker.pause(job_id),
    "resume": lambda yard, job_id, body: yard.worker.resume(job_id),
    "stop": _stop,
    "skip": lambda yard, job_id, body: yard.worker.skip(job_id, save=_save(body)),
    "duplicate": lambda yard, job_id, body: job_json(yard.store.duplicate(job_id)),
    "move": _move,
    "requeue": _requeue,
}


def _job_id(request: Request) -> int:
    return number_of(request.path_params["job_id"], "job")


def number_of(text: object, where: str) -> int:
    """A whole number from an address or a body.

    Raises:
        BadInput: it is none.
    """
    number = _whole(text)
    if number is None or not 0 <= number < 2**53:
        raise BadInput([Problem(where, "is no number that was given here", "reload the page")])
    return number


def _whole(text: object) -> int | None:
    """A whole number, or None for anything else."""
    if isinstance(text, int) and not isinstance(text, bool):
        return text
    return int(text) if isinstance(text, str) and text.isdecimal() and len(text) < 16 else None
