"""What the server's own documentation (/docs) says about our routes, as OpenAPI.

The routes read their requests themselves, so that no version of pydantic matters; hence what they
read is said here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

TAG = "Trainyard"
SETTINGS = "Parameters of a training by name, with `method`; GET schema lists them all."
EXAMPLE = {"method": "lora", "checkpoint": "model.safetensors", "images": "/pictures/hat"}

Words = Mapping[str, str]
"""Name -> what it is."""


def described(
    method: str,
    path: str,
    header: str,
    *,
    query: Words | None = None,
    body: Words | None = None,
    answer: str = "application/json",
) -> dict[str, Any]:
    """The `openapi_extra` of a route.

    Args:
        method: its HTTP method.
        path: with parameters such as `{job_id:int}`.
        header: the one that a request must carry unless it only reads.
        query: what may stand behind the question mark.
        body: what the JSON object in the request holds; the words "yes or no" make a boolean,
            "a number" an integer, "settings" (by name) an object, everything else is a text.
        answer: the kind of file that comes back.
    """
    parameters = [
        _parameter(name, "path", "integer" if kind else "string")
        for name, kind in re.findall(r"{(\w+)(:int)?}", path)
    ]
    parameters += [
        _parameter(name, "query", "string", text, required=False)
        for name, text in (query or {}).items()
    ]
    extra: dict[str, Any] = {
        "parameters": parameters,
        "responses": {
            "200": {"description": "Done", "content": {answer: {"schema": _answered(answer)}}},
            "409": {"description": "It cannot be done now: {error}"},
            "422": {"description": "What is wrong: {problems: [{where, what, cure}]}"},
        },
    }
    if method != "GET":
        why = "Any value: it shows that no other site makes the browser send this"
        sent = _parameter(header, "header", "string", why)
        sent["schema"]["default"] = "1"
        parameters.append(sent)
    if body is not None:
        properties = {name: _property(name, text) for name, text in body.items()}
        schema = {"type": "object", "properties": properties}
        extra["requestBody"] = {"content": {"application/json": {"schema": schema}}}
    return extra


def _parameter(
    name: str, place: str, kind: str, text: str = "", *, required: bool = True
) -> dict[str, Any]:
    return {
        "name": name,
        "in": place,
        "required": required,
        "description": text,
        "schema": {"type": kind},
    }


def _answered(kind: str) -> dict[str, str]:
    if kind == "application/json":
        return {"type": "object"}
    return {"type": "string", "format": "binary"}


def _property(name: str, text: str) -> dict[str, Any]:
    if name == "settings":
        return {"type": "object", "description": text, "example": EXAMPLE}
    if text.startswith("yes or no"):
        return {"type": "boolean", "description": text}
    return {"type": "integer" if text.startswith("a number") else "string", "description": text}
