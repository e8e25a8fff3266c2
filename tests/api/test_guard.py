"""Who is let in: whoever the webui itself would let in."""

from __future__ import annotations

import base64
from types import SimpleNamespace

import pytest

fastapi = pytest.importorskip("fastapi")
testclient = pytest.importorskip("fastapi.testclient")

from trainer.api.guard import webui_guard  # noqa: E402


def answer(
    *,
    auth: object = None,
    api_auth: str | None = None,
    cookies: dict[str, str] | None = None,
    basic: str | None = None,
) -> int:
    """The status that a request gets from a server with these protections."""
    gradio = SimpleNamespace(auth=auth, tokens={"secret": "ann"})
    app = fastapi.FastAPI()
    guard = fastapi.Depends(webui_guard(gradio, api_auth))
    app.add_api_route("/x", lambda: "in", dependencies=[guard])
    headers = {}
    if basic is not None:
        headers["Authorization"] = "Basic " + base64.b64encode(basic.encode()).decode()
    client = testclient.TestClient(app, cookies=cookies)
    return int(client.get("/x", headers=headers).status_code)


def test_an_open_webui_lets_everybody_in() -> None:
    assert answer() == 200


@pytest.mark.parametrize("name", ["access-token", "access-token-unsecure", "access-token-x3f"])
def test_a_login_is_known_by_gradios_cookie(name: str) -> None:
    assert answer(auth={"ann": "pw"}, cookies={name: "secret"}) == 200


@pytest.mark.parametrize("cookies", [None, {"access-token": "wrong"}, {"other": "secret"}])
def test_without_the_login_nobody_comes_in(cookies: dict[str, str] | None) -> None:
    assert answer(auth={"ann": "pw"}, cookies=cookies) == 401


@pytest.mark.parametrize(
    ("basic", "status"),
    [
        ("bot:p:w", 200),
        ("eve:other", 200),
        ("bot:other", 401),
        ("bot", 401),
        ("", 401),
        (None, 401),
    ],
)
def test_the_apis_credentials(basic: str | None, status: int) -> None:
    assert answer(api_auth="bot:p:w,eve:other", basic=basic) == status


def test_the_apis_credentials_open_a_webui_with_login_too() -> None:
    assert answer(auth={"ann": "pw"}, api_auth="bot:pw", basic="bot:pw") == 200


def test_broken_credentials_are_no_error() -> None:
    gradio = SimpleNamespace(auth=None, tokens={})
    app = fastapi.FastAPI()
    guard = fastapi.Depends(webui_guard(gradio, "bot:pw"))
    app.add_api_route("/x", lambda: "in", dependencies=[guard])
    client = testclient.TestClient(app)
    for header in ("Basic", "Basic %%%", "Basic /w==", "Bearer bot:pw"):
        assert client.get("/x", headers={"Authorization": header}).status_code == 401


@pytest.mark.parametrize("sent", [b"Basic \xe9", b"Basic !", b"Basic /w==", b"\xff"])
def test_credentials_that_are_none_are_refused(sent: bytes) -> None:
    app = fastapi.FastAPI()
    guard = fastapi.Depends(webui_guard(SimpleNamespace(auth=None), "bot:pw"))
    app.add_api_route("/x", lambda: "in", dependencies=[guard])
    client = testclient.TestClient(app)
    assert client.get("/x", headers={b"Authorization": sent}).status_code == 401
