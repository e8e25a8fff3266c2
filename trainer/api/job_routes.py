"""The routes of the queue: how far it is, its jobs, and what may be done with one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from fastapi import Request

from ..errors import BadInput, Problem
from ..jobs.job import FINISHED, PENDING, JobState
from ..settings.schema import listing
from .answers import job_json, status
from .described import SETTINGS
from .routes import Body, Routes, body_of, in_thread, number_of, settings_of, whole
from .work import planned
from .yard import Yard


def add_queue_routes(routes: Routes, yard: Yard) -> None:
    """Adds the routes of `yard`'s progress and of its queue as a whole."""

    async def read_status(request: Request) -> object:
        asked = request.query_params
        job_id, since = whole(asked.get("job")), whole(asked.get("since"))
        return await in_thread(lambda: status(yard, job_id, since or 0))

    async def read_log(request: Request) -> object:
        del request
        return {"log": yard.live.lines()}

    async def read_schema(request: Request) -> object:
        del request
        return {"parameters": listing()}

    async def start(request: Request) -> object:
        del request
        return {"done": yard.worker.start()}

    async def clear(request: Request) -> object:
        del request
        return await in_thread(lambda: _clear(yard, FINISHED))

    async def dismiss(request: Request) -> object:
        del request
        return await in_thread(lambda: _clear(yard, {JobState.QUEUED}))

    asked = {"job": "the job whose curve is known", "since": "the last step that is known of it"}
    routes.add("GET", "status", read_status, "Queue, progress, newest loss values", query=asked)
    routes.add("GET", "log", read_log, "The newest lines of the log")
    routes.add("GET", "schema", read_schema, "Every parameter of a training")
    routes.add("POST", "queue/start", start, "Begin to work on the queue")
    routes.add("POST", "queue/clear", clear, "Forget every job that has ended and cannot go on")
    routes.add("POST", "queue/dismiss", dismiss, "Forget every job that waits to begin")


def add_job_routes(routes: Routes, yard: Yard) -> None:
    """Adds the routes of the single jobs of `yard`'s queue."""

    async def list_jobs(request: Request) -> object:
        del request
        return {"jobs": [job_json(yard, job) for job in await in_thread(yard.store.jobs)]}

    async def read_job(request: Request) -> object:
        return job_json(yard, yard.store.get(_job_id(request)), settings=True)

    async def add_job(request: Request) -> object:
        body = await body_of(request)
        settings = await in_thread(lambda: _planned(yard, settings_of(body)))
        job = yard.store.add(settings)
        note = _started(yard) if body.get("start") else ""
        return {"job": job_json(yard, job), "note": note}

    async def change_job(request: Request) -> object:
        body, job = await body_of(request), yard.store.get(_job_id(request))
        settings = await in_thread(lambda: _planned(yard, settings_of(body), job.key))
        edited = yard.store.edit(job.id, settings)
        if edited.name != job.name:
            yard.forget_state(job)  # of a run before, which nobody could go on from any more
        return {"job": job_json(yard, edited)}

    async def delete_job(request: Request) -> object:
        job = yard.store.get(_job_id(request))
        yard.store.remove(job.id)
        yard.forget_state(job)
        return {}

    async def act(request: Request) -> object:
        action = ACTIONS.get(request.path_params["action"])
        if action is None:
            raise BadInput([Problem("action", "is unknown", f"known: {', '.join(ACTIONS)}")])
        job_id, body = _job_id(request), await body_of(request)
        yard.store.get(job_id)  # answers for a job that is gone
        return {"done": await in_thread(lambda: action(yard, job_id, body))}

    changed = {"settings": SETTINGS}
    started = {**changed, "start": "yes or no: begin to work on the queue"}
    acted = {
        "save": "yes or no, with stop and skip: keep what was learned",
        "place": "a number, with move: 0 runs next",
        "resume": "yes or no, with requeue: go on from the last saved state, before all that wait",
    }
    actions = f"Do something with a job: {', '.join(ACTIONS)}"
    routes.add("GET", "jobs", list_jobs, "Every job, in the order in which they run")
    routes.add("POST", "jobs", add_job, "Create a job", body=started)
    routes.add("GET", "jobs/{job_id:int}", read_job, "A job with its settings")
    routes.add("PATCH", "jobs/{job_id:int}", change_job, "Change a waiting job", body=changed)
    routes.add("DELETE", "jobs/{job_id:int}", delete_job, "Forget a job and its saved state")
    routes.add("POST", "jobs/{job_id:int}/{action}", act, actions, body=acted)


Action = Callable[[Yard, int, Body], object]


def _stop(yard: Yard, job_id: int, body: Body) -> object:
    """Ends this job and leaves the queue waiting, as the button says."""
    current = yard.worker.status.job
    return current is not None and current.id == job_id and yard.worker.stop(save=_save(body))


def _move(yard: Yard, job_id: int, body: Body) -> object:
    yard.store.move(job_id, whole(body.get("place")) or 0)
    return True


def _planned(yard: Yard, settings: Body, owner: str = "") -> dict[str, object]:
    return planned(settings, yard.host, yard.store.jobs(PENDING), owner)


def _started(yard: Yard) -> str:
    """Begins to work on the queue, or says who does already: the job is there in any case."""
    try:
        yard.worker.start()
    except BadInput as error:
        return str(error)
    return ""


def _clear(yard: Yard, states: Collection[JobState]) -> dict[str, int]:
    found = yard.store.jobs(states)
    gone = {job.id for job in found if yard.saved_step(job) is None}
    return {"removed": yard.store.clear(states, only=gone), "kept": len(found) - len(gone)}


def _duplicate(yard: Yard, job_id: int, body: Body) -> object:
    del body
    return job_json(yard, yard.store.duplicate(job_id, yard.taken_names()))


def _requeue(yard: Yard, job_id: int, body: Body) -> object:
    """Lets a job go on, before all that wait; or begin anew, behind them.

    Returns:
        {"note": who works on the queue already, where that is another program}.
    """
    resume, job = body.get("resume") is True, yard.store.get(job_id)
    if resume and job.state is JobState.DONE and yard.saved_step(job) is None:
        what, cure = f"{job.name!r} is complete", "duplicate it to run it once more"
        raise BadInput([Problem(f"job {job_id}", what, cure)])
    yard.store.requeue(job_id, resume=resume)
    # A job that begins anew starts nothing that was stopped on purpose.
    starts = resume or len(yard.store.jobs(PENDING)) == 1
    return {"note": _started(yard) if starts else ""}


def _save(body: Body) -> bool:
    return body.get("save") is True


ACTIONS: Mapping[str, Action] = {
    "pause": lambda yard, job_id, body: yard.worker.pause(job_id),
    "resume": lambda yard, job_id, body: yard.worker.resume(job_id),
    "stop": _stop,
    "skip": lambda yard, job_id, body: yard.worker.skip(job_id, save=_save(body)),
    "duplicate": _duplicate,
    "move": _move,
    "requeue": _requeue,
}


def _job_id(request: Request) -> int:
    return number_of(request.path_params["job_id"], "job")
