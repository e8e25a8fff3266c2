"""The routes that a form needs while it is filled in: checks, the plan, pictures."""

from __future__ import annotations

from fastapi import Request, Response

from ..errors import BadInput, Problem
from . import form
from .described import SETTINGS
from .routes import SLOW_THREADS, Routes, body_of, in_thread, number_of, settings_of, whole
from .yard import Yard


def add_form_routes(routes: Routes, yard: Yard) -> None:
    """Adds the routes of the form, which act on `yard`."""

    async def check(request: Request) -> object:
        return {"problems": form.check(settings_of(await body_of(request)))}

    async def plan(request: Request) -> object:
        body = await body_of(request)
        settings, edited = settings_of(body), whole(body.get("edited"))

        def planned() -> object:
            jobs = [job for job in yard.store.jobs() if job.id != edited]
            taken = yard.taken_names()
            return form.plan(settings, yard.host, yard.thumbnails, jobs, taken)

        return await in_thread(planned, SLOW_THREADS)

    async def measure(request: Request) -> object:
        settings = settings_of(await body_of(request))
        if yard.worker.status.running:
            cure = "look at its speed, or wait until it is done"
            raise BadInput([Problem("measuring", "would disturb the training that runs", cure)])
        cost = await in_thread(lambda: form.measure(settings, yard.host), SLOW_THREADS)
        return {"cost": cost}

    async def rates(request: Request) -> object:
        settings = settings_of(await body_of(request))
        return {"rates": await in_thread(lambda: form.learning_rate(settings), SLOW_THREADS)}

    async def thumbnail(request: Request) -> object:
        number = number_of(request.path_params["number"], "thumbnail")
        made = await in_thread(lambda: yard.thumbnails.jpeg(number))
        headers = {"Cache-Control": "private, max-age=3600"}
        return Response(made, media_type="image/jpeg", headers=headers)

    async def choices(request: Request) -> object:
        del request
        found = await in_thread(yard.choices, SLOW_THREADS)  # goes through whole folders
        return {"choices": found, "loaded": yard.host.loaded_checkpoint()}

    settings = {"settings": SETTINGS}
    planned_body = {**settings, "edited": "the number of the waiting job that they are of, if any"}
    small, jpeg = "A small picture of one that a plan named", "image/jpeg"
    routes.add("GET", "choices", choices, "Checkpoints, VAEs and LoRAs to choose from")
    routes.add("POST", "check", check, "What is wrong with settings by themselves", body=settings)
    routes.add("POST", "plan", plan, "What a job would do, or why it cannot", body=planned_body)
    routes.add("POST", "measure", measure, "Measure the time and memory of a step", body=settings)
    routes.add("POST", "rates", rates, "The learning rate over the steps", body=settings)
    routes.add("GET", "thumbnails/{number:int}", thumbnail, small, answer=jpeg)
