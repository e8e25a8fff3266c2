"""The routes of presets, and of settings from other files."""

from __future__ import annotations

from fastapi import Request

from ..errors import BadInput, Problem
from ..settings.files import parse_object
from ..settings.form import shown_values
from ..settings.names import SETTINGS_KEY
from ..settings.schema import check as check_part
from ..settings.traintrain import import_traintrain, is_traintrain
from .answers import problems_json
from .described import SETTINGS
from .routes import Body, Routes, body_of, settings_of
from .yard import Yard


def add_preset_routes(routes: Routes, yard: Yard) -> None:
    """Adds the routes of the presets that `yard` keeps."""

    async def list_presets(request: Request) -> object:
        del request
        return {"presets": [{"name": p.name, "own": p.own} for p in yard.presets.list()]}

    async def load_preset(request: Request) -> object:
        return {"values": shown_values(yard.presets.load(_text(await body_of(request), "name")))}

    async def save_preset(request: Request) -> object:
        body = await body_of(request)
        overwrite = body.get("overwrite") is True
        yard.presets.save(_text(body, "name"), settings_of(body), overwrite=overwrite)
        return {}

    async def rename_preset(request: Request) -> object:
        body = await body_of(request)
        yard.presets.rename(_text(body, "old"), _text(body, "new"))
        return {}

    async def delete_preset(request: Request) -> object:
        yard.presets.delete(_text(await body_of(request), "name"))
        return {}

    async def import_preset(request: Request) -> object:
        return imported(settings_of(await body_of(request)))

    settings, name = {"settings": SETTINGS}, {"name": "of a preset"}
    saved = {**name, **settings, "overwrite": "yes or no: replace one of that name"}
    renamed = {"old": "a preset's name", "new": "its new name"}
    foreign = {"settings": "the JSON of a preset, of a job, or {metadata} of a LoRA made here"}
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


def _text(body: Body, name: str) -> str:
    text = body.get(name)
    if not isinstance(text, str):
        raise BadInput([Problem(name, "is missing", "send a text")])
    return text
