"""Who may use our routes in a webui: whoever may use the webui's own."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from fastapi import HTTPException, Request

COOKIES = "access-token"
"""Gradio's cookies of a login begin with this."""

Guard = Callable[[Request], Awaitable[None]]


def webui_guard(app: Any, api_auth: str | None) -> Guard:
    """A fastapi dependency that lets in who is logged in, or sends the API's credentials.

    The webui protects its own routes only, not those that an extension adds.

    Args:
        app: gradio's server: `auth` is what it checks a login against, `tokens` who is logged in.
        api_auth: the webui's --api-auth: "user:password,..."; empty asks for none.
    """
    accounts = dict(pair.split(":", 1) for pair in (api_auth or "").split(",") if ":" in pair)

    async def guard(request: Request) -> None:
        needs_login = getattr(app, "auth", None) is not None
        if not needs_login and not accounts:
            return
        if needs_login and _logged_in(app, request.cookies):
            return
        if accounts and _credentials_fit(request.headers.get("authorization", ""), accounts):
            return
        headers = {"WWW-Authenticate": "Basic"} if accounts else None
        raise HTTPException(401, "not logged in", headers)

    return guard


def _logged_in(app: Any, cookies: Mapping[str, str]) -> bool:
    tokens = getattr(app, "tokens", {})
    return any(tokens.get(value) for name, value in cookies.items() if name.startswith(COOKIES))


def _credentials_fit(header: str, accounts: Mapping[str, str]) -> bool:
    """Compares in constant time, so that nothing can be learned from how long it takes."""
    scheme, _, encoded = header.partition(" ")
    try:
        user, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
    except ValueError:  # no base64, or no UTF-8 in it
        return False
    fits = [
        secrets.compare_digest(user.encode(), known.encode())
        & secrets.compare_digest(password.encode(), right.encode())
        for known, right in accounts.items()
    ]
    return scheme.lower() == "basic" and any(fits)
