"""The routes that a form needs: checks, the plan, pictures, presets."""

from __future__ import annotations

from fastapi import Request, Response

from ..errors import BadInput, Problem
from ..settings.files import parse_object
from ..settings.form import shown_values
from ..settings.schema import check as check_part
from ..settings.traintrain import import_traintrain, is_traintrain
from . import form
from .answers import problems_json
from .described import SETTINGS
from .routes import Body, Routes, body_of, in_thread
from .thumbnails import Thumbnails
from .yard import Yard

SETTINGS_KEY = "trainyard_settings"
"""As `networks.metadata` names it; importing that would import torch."""


def add_form_routes(routes: Routes, yard: Yard) -> None:
    """Adds the routes of form and presets, which act on `yard`."""
    thumbnails = Thumbnails()

    async def check(request: Request) -> object:
        return {"problems": form.check(_settings(await body_of(request)))}

    async def plan(request: Request) -> object:
        settings = _settings(await body_of(request))
        jobs = await in_thread(yard.store.jobs)
        return await in_thread(lambda: form.plan(settings, yard.host, thumbnails, jobs))

    async def measure(request: Request) -> object:
        settings = _settings(await body_of(request))
        if yard.worker.status.running:
            cure = "look at its speed, or wait until it is done"
            raise BadInput([Problem("measuring", "would disturb the training that runs", cure)])
        return {"cost": await in_thread(lambda: form.measure(settings, yard.host))}

    async def thumbnail(request: Request) -> object:
        number = int(request.path_params["number"])
        made = await in_thread(lambda: thumbnails.jpeg(number))
        headers = {"Cache-Control": "private, max-age=3600"}
        return Response(made, media_type="image/jpeg", headers=headers)

    async def list_presets(request: Request) -> object:
        del request
        return {"presets": [{"name": p.name, "own": p.own} for p in yard.presets.list()]}

    async def load_preset(request: Request) -> object:
        return {"values": shown_values(yard.presets.load(_text(await body_of(request), "name")))}

    async def save_preset(request: Request) -> object:
        body = await body_of(request)
        overwrite = body.get("overwrite") is True
        yard.presets.save(_text(body, "name"), _settings(body), overwrite=overwrite)
        return {}

    async def rename_preset(request: Request) -> object:
        body = await body_of(request)
        yard.presets.rename(_text(body, "old"), _text(body, "new"))
        return {}

    async def delete_preset(request: Request) -> object:
        yard.presets.delete(_text(await body_of(request), "name"))
        return {}

    async def import_preset(request: Request) -> object:
        return imported(_settings(await body_of(request)))

    async def choices(request: Request) -> object:
        del request
        return {"choices": yard.choices(), "loaded": yard.host.loaded_checkpoint()}

    settings, name = {"settings": SETTINGS}, {"name": "of a preset"}
    saved = {**name, **settings, "overwrite": "yes or no: replace one of that name"}
    renamed = {"old": "a preset's name", "new": "its new name"}
    foreign = {"settings": "the JSON of a preset, of a job, or {metadata} of a LoRA made here"}
    routes.add("GET", "choices", choices, "Checkpoints, VAEs and LoRAs to choose from")
    routes.add("POST", "check", check, "What is wrong with settings by themselves", body=settings)
    routes.add("POST", "plan", plan, "What a job would do, or why it cannot", body=settings)
    routes.add("POST", "measure", measure, "Measure the time and memory of a step", body=settings)
    routes.add(
        "GET",
        "thumbnails/{number:int}",
        thumbnail,
        "A small picture of one that a plan named",
        answer="image/jpeg",
    )
    routes.add("GET", "presets", list_presets, "Every preset's name")
    routes.add("POST", "presets/load", load_preset, "A preset's values", body=name)
    routes.add("POST", "presets/save", save_preset, "Save a preset", body=saved)
    routes.add("POST", "presets/rename", rename_preset, "Rename an own preset", body=renamed)
    routes.add("POST", "presets/delete", delete_preset, "Delete an own preset", body=name)
    routes.add("POST", "presets/import", import_preset, "Read foreign settings", body=foreign)


def imported(raw: Body) -> dict[str, object]:
    """What a dropped file sets: a preset, job or LoRA of ours, or a preset of TrainTrain.

    Args:
        raw: the file's JSON; of a LoRA {"metadata": its metadata}.

    Raises:
        BadInput: it is none of these.
    """
    metadata = raw.get("metadata")
    if "method" not in raw and isinstance(metadata, dict):
        text = metadata.get(SETTINGS_KEY)
        if not isinstance(text, str):
            what = "is a LoRA that says nothing about how Trainyard made it"
            raise BadInput([Problem("file", what, "choose one that was made here")])
        raw = parse_object(text, SETTINGS_KEY)
    if is_traintrain(raw):
        taken = import_traintrain(raw)
        return {"values": shown_values(taken.values), "lost": problems_json(taken.lost)}
    if "method" not in raw:
        what = "holds no settings of Trainyard or TrainTrain"
        raise BadInput([Problem("file", what, "choose a preset, or a LoRA made here")])
    values, problems = check_part(raw)
    return {"values": shown_values(values), "lost": problems_json(problems)}


def _settings(body: Body) -> Body:
    settings = body.get("settings")
    if not isinstance(settings, dict):
        raise BadInput([Problem("settings", "is no JSON object", "send the form's values")])
    return settings


def _text(body: Body, name: str) -> str:
    text = body.get(name)
    if not isinstance(text, str):
        raise BadInput([Problem(name, "is missing", "send a text")])
    return text
