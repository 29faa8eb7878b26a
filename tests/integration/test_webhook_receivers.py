"""The receivers in the documentation work: each takes a real delivery, refuses a forged one, and counts a repeat once."""

from __future__ import annotations

import importlib.util
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import HTTPServer, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from wsgiref.simple_server import WSGIRequestHandler, make_server

import httpx
import pytest

from worker.webhooks.addresses import PRIVATE, Policy
from worker.webhooks.egress import Egress
from worker.webhooks.envelope import Settled, event_body
from worker.webhooks.listen import Received, listen, pretty
from worker.webhooks.signing import key_of, new_secret, signed_headers

RECEIVERS = Path(__file__).parents[2] / "docs" / "receivers"
SECRET = new_secret()
BODY = event_body(
    "evt_1",
    Settled(
        kind="job", id="job_1", tenant="default", status="completed", settled_at=1, response=b'{"text":"\xe2\x82\xac"}'
    ),
)


def load(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A receiver from the documentation, with SECRET; the test is skipped when its framework is not installed."""
    monkeypatch.setenv("WEBHOOK_SECRET", SECRET)
    spec = importlib.util.spec_from_file_location(name, RECEIVERS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(__import__("sys").modules, name, module)
    spec.loader.exec_module(module)
    return module


def signed(secret: str) -> dict[str, str]:
    """The headers of a delivery made now."""
    return signed_headers("evt_1", int(time.time()), BODY, [key_of(secret)]) | {"Content-Type": "application/json"}


@contextmanager
def serving(server: HTTPServer) -> Iterator[str]:
    """The server at work in a thread; gives the receiver's URL."""
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/stockpot"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Quiet(WSGIRequestHandler):
    """Without a line on stderr for each request."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the standard library's name
        """Say nothing."""


async def statuses(url: str) -> list[int]:
    """What a delivery, the same again, and a forged one are answered with, sent by our own egress."""
    egress = Egress(Policy(PRIVATE))
    try:
        return [
            (await egress.post(url, BODY.encode(), signed(secret))).status for secret in (SECRET, SECRET, new_secret())
        ]
    finally:
        await egress.close()


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("name", "framework", "app"), [("flask_app", "flask", "app"), ("django_app", "django", "application")]
)
async def test_the_wsgi_receivers(name: str, framework: str, app: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flask and Django, behind a real HTTP server."""
    pytest.importorskip(framework)
    module = load(name, monkeypatch)
    with serving(make_server("127.0.0.1", 0, getattr(module, app), handler_class=Quiet)) as url:
        assert await statuses(url) == [204, 204, 401]
    assert module.seen == {"evt_1"}


@pytest.mark.anyio
async def test_the_fastapi_receiver(monkeypatch: pytest.MonkeyPatch) -> None:
    """FastAPI, through its ASGI interface."""
    pytest.importorskip("fastapi")
    module = load("fastapi_app", monkeypatch)
    transport = httpx.ASGITransport(app=module.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://receiver") as client:
        answers = [
            await client.post("/stockpot", content=BODY.encode(), headers=signed(secret))
            for secret in (SECRET, SECRET, new_secret())
        ]
    assert [answer.status_code for answer in answers] == [204, 204, 401]
    assert module.seen == {"evt_1"}


@pytest.mark.anyio
async def test_the_openai_sdk_receiver(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stock SDK's `webhooks.unwrap`."""
    module = load("openai_sdk", monkeypatch)
    monkeypatch.setattr(module.Receiver, "log_message", lambda *ignored: None)
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), module.Receiver)) as url:
        assert await statuses(url) == [204, 204, 401]
    assert module.seen == {"evt_1"}


@pytest.mark.anyio
async def test_the_development_receiver_tells_what_it_got() -> None:
    """`webhooks listen`: one line for each request, verified or not."""
    import asyncio

    got: list[Received] = []
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    say: Callable[[str], None] = ready.set_result
    task = asyncio.create_task(listen("127.0.0.1", 0, SECRET, got.append, on_ready=say))
    assert await statuses(await ready + "any/path") == [204, 204, 401]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert [one.event is not None for one in got] == [True, True, False]
    assert "evt_1" in pretty(got[0])
    assert "job.completed" in pretty(got[0])
    assert "none of the webhook's signatures" in pretty(got[2])


def test_every_receiver_is_shown_in_the_documentation() -> None:
    """The page names each file, and no file is missing from it."""
    page = (RECEIVERS.parent / "webhooks.md").read_text(encoding="utf-8")
    names = {path.name for path in RECEIVERS.glob("*.py")}
    assert names == {"flask_app.py", "fastapi_app.py", "django_app.py", "openai_sdk.py"}
    assert all(f"receivers/{name}" in page for name in names)


def test_the_receivers_on_the_page_are_those_that_were_run() -> None:
    """Each piece of code in its section is, to the letter, a part of one of the programs above."""
    page = (RECEIVERS.parent / "webhooks.md").read_text(encoding="utf-8")
    section = page.partition("## Receive one\n")[2].partition("\n## ")[0]
    pieces = [block.partition("\n```")[0] for block in section.split("```python\n")[1:]]
    programs = {path.name: path.read_text(encoding="utf-8") for path in RECEIVERS.glob("*.py")}
    shown = [name for piece in pieces for name, program in programs.items() if piece in program]
    assert sorted(shown) == sorted(programs)
