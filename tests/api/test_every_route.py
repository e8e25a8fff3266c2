"""What holds for every route, also for one that is added tomorrow."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

fastapi = pytest.importorskip("fastapi")
pytest.importorskip("httpx")
from fastapi.routing import APIRoute  # noqa: E402
from fastapi.testclient import TestClient  # noqa: E402

from trainer.api import form, run_routes  # noqa: E402
from trainer.api.app import add_routes  # noqa: E402
from trainer.api.guard import webui_guard  # noqa: E402
from trainer.api.routes import LARGEST_BODY_MB, PREFIX  # noqa: E402

from .bench import HEADERS, Bench  # noqa: E402

CASES = 1200
REQUESTS_SEED = 11


def routes_of(bench: Bench, *guards: Any) -> tuple[Any, list[tuple[str, str]]]:
    """A server with every route behind these guards, and (method, path) of each."""
    app = fastapi.FastAPI()
    add_routes(app, bench.yard, guards)
    ours = [route for route in app.routes if isinstance(route, APIRoute)]
    assert all(route.path.startswith(PREFIX) for route in ours)
    pairs = [(method, route.path) for route in ours for method in sorted(route.methods)]
    assert len(pairs) >= 30
    return app, pairs


def filled(path: str, value: str = "1") -> str:
    return "/".join(value if part.startswith("{") else part for part in path.split("/"))


def test_none_answers_without_the_webuis_credentials(bench: Bench) -> None:
    gradio = SimpleNamespace(auth=("ann", "pw"), tokens={})
    app, pairs = routes_of(bench, fastapi.Depends(webui_guard(gradio, "bot:secret")))
    client = TestClient(app)
    for method, path in pairs:
        for more in ({}, {"Authorization": "Basic Ym90Ondyb25n"}, {"Cookie": "access-token=x"}):
            answer = client.request(method, filled(path), headers={**HEADERS, **more}, content="{}")
            assert answer.status_code == 401, (method, path)
            assert answer.json() == {"detail": "not logged in"}, "and says nothing else"
    inside = client.get(f"{PREFIX}/status", headers={"Authorization": "Basic Ym90OnNlY3JldA=="})
    assert inside.status_code == 200


def test_the_webuis_server_gets_every_route_behind_the_guard(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gradio")
    import sys
    from types import ModuleType

    modules = ModuleType("modules")
    shared = ModuleType("modules.shared")
    shared.cmd_opts = SimpleNamespace(api_auth="bot:secret")  # type: ignore[attr-defined]
    modules.shared = shared  # type: ignore[attr-defined]
    host = ModuleType("trainer.hosts.a1111")
    host.__getattr__ = lambda name: object  # type: ignore[method-assign, assignment]
    host.within_limits = max  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "modules", modules)
    monkeypatch.setitem(sys.modules, "modules.shared", shared)
    monkeypatch.setitem(sys.modules, "trainer.hosts.a1111", host)
    monkeypatch.delitem(sys.modules, "trainer.ui.webui", raising=False)
    from trainer.ui import webui

    monkeypatch.setattr(webui, "yard", lambda: bench.yard)
    app = fastapi.FastAPI()
    webui.add_routes(app)
    monkeypatch.delitem(sys.modules, "trainer.ui.webui")
    client = TestClient(app)
    ours = [route for route in app.routes if isinstance(route, APIRoute)]
    assert len(ours) >= 25
    for route in ours:
        for method in route.methods:
            status = client.request(method, filled(route.path), headers=HEADERS).status_code
            assert status == 401, (method, route.path)


def test_none_changes_anything_for_another_site(bench: Bench) -> None:
    app, pairs = routes_of(bench)
    client = TestClient(app)
    for method, path in pairs:
        if method != "GET":
            assert client.request(method, filled(path), content="{}").status_code == 403, path


NONSENSE = (
    *(
        None,
        True,
        0,
        -1,
        1,
        2**63,
        1e308,
        "",
        "x",
        "..",
        "../../etc/passwd",
        "/etc/passwd",
        "~root",
    ),
    *("hat", "\0", "\ud800", "🙂", "CON", "a" * 5000, [], {}, [[]], {"a": {"b": []}}, ["lora"]),
)
KEYS = (
    *("settings", "name", "old", "new", "overwrite", "start", "save", "place", "resume", "job"),
    *("metadata", "method", "images", "checkpoint", "steps", "rank", "files", "runs", "names"),
)
BODIES = (
    *(b"", b"null", b"[]", b"5", b"{", b'{"a":1,"a":2}', b"\xff\xfe", b"\0", b'{"settings": NaN}'),
    *(
        b'{"a":' * 30_000,
        b"[" * 100_000,
        b'{"settings": {"rank": 1e999}}',
        b'"' + b"x" * 10**6 + b'"',
    ),
)
PLACES = ("1", "0", "999", "9" * 5000, "-1", "x", "%00", "..%2f..", "🙂", "1e3", "٣", "hat")


def _value(draw: random.Random, depth: int = 0) -> Any:
    if depth < 2 and draw.random() < 0.4:
        return {draw.choice(KEYS): _value(draw, depth + 1) for _ in range(draw.randint(0, 4))}
    return draw.choice(NONSENSE)


def _request(draw: random.Random, path: str) -> tuple[str, dict[str, Any]]:
    """An address and what is sent there."""
    address = filled(path, draw.choice(PLACES))
    asked = "&".join(
        f"{draw.choice(('name', 'file', 'job', 'since'))}={draw.choice(PLACES)}"
        for _ in range(draw.choice((0, 0, 1, 2)))
    )
    address += f"?{asked}" if asked else ""
    if draw.random() < 0.3:
        return address, {"content": draw.choice(BODIES)}
    body = {draw.choice(KEYS): _value(draw) for _ in range(draw.randint(0, 5))}
    if draw.random() < 0.5:
        settings = {"method": "lora", "checkpoint": "a", "images": "/nowhere", "name": "hat"}
        body["settings"] = {**settings, draw.choice(KEYS): draw.choice(NONSENSE)}
    import json

    return address, {"content": json.dumps(body).encode()}


@pytest.mark.filterwarnings("ignore")
def test_whatever_is_asked_the_answer_is_a_result_or_says_what_is_wrong(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_routes, "_open", lambda folder: False)
    monkeypatch.setattr(form, "measure", lambda raw, host: form.check(raw) and "")
    secret = tmp_path / "secret.txt"
    secret.write_text("of somebody else", "utf-8")
    app, pairs = routes_of(bench)
    client = TestClient(app, headers=HEADERS)
    draw = random.Random(REQUESTS_SEED)
    refused = 0
    for number in range(CASES):
        method, path = pairs[number % len(pairs)]
        address, sent = _request(draw, path)
        answer = client.request(method, address, **sent)
        assert answer.status_code < 500, (method, address[:200], sent, answer.text[:300])
        assert "of somebody else" not in answer.text
        if answer.status_code == 422:
            refused += 1
            for problem in answer.json()["problems"]:
                assert problem["where"] and problem["what"], problem
        elif answer.status_code >= 400:
            assert answer.status_code in (404, 405, 409), answer.text[:300]
    assert refused > CASES / 4
    assert secret.read_text("utf-8") == "of somebody else"
    made = {path.name for path in tmp_path.iterdir()}
    assert made <= {"secret.txt", "data", "pictures", "out", "logs"}


def test_a_body_without_end_is_refused(bench: Bench) -> None:
    app, _ = routes_of(bench)
    large = b'{"settings": "' + b"x" * ((LARGEST_BODY_MB + 1) * 2**20) + b'"}'
    answer = TestClient(app).post(f"{PREFIX}/check", content=large, headers=HEADERS)
    assert answer.status_code == 422
    assert "larger than" in answer.json()["problems"][0]["what"]


def test_what_nobody_foresaw_names_no_file(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise OSError(5, "Input/output error", "/home/somebody/else.txt")

    monkeypatch.setattr(bench.yard.store, "jobs", fail)
    answer = bench.client.get(f"{PREFIX}/jobs", headers=HEADERS)
    assert answer.status_code == 500
    assert "somebody" not in answer.text and "Traceback" not in answer.text


def test_names_that_are_no_unicode_are_answered(bench: Bench) -> None:
    from PIL import Image

    Image.new("RGB", (64, 64)).save(bytes(bench.pictures) + b"/\xff.png", "PNG")
    answer = bench.client.post(
        f"{PREFIX}/plan", json={"settings": bench.settings(name="hat")}, headers=HEADERS
    )
    assert answer.status_code == 200
    assert answer.json()["data"]["count"] == 4


def test_the_standalone_page_answers_this_machine_by_its_own_names_only(
    bench: Bench, tmp_path: Path
) -> None:
    pytest.importorskip("gradio")
    pytest.importorskip("uvicorn")
    from trainer.ui.standalone import make_app

    client = TestClient(make_app(bench.host, tmp_path / "page"))  # type: ignore[arg-type]
    for host, status in (("127.0.0.1:7861", 200), ("localhost", 200), ("evil.example", 400)):
        answer = client.get(f"{PREFIX}/presets", headers={"host": host})
        assert answer.status_code == status, host
