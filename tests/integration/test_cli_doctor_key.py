"""`stockpot doctor` on the key: a refusal is the key's fault and not the URL's, and who asks for none needs none."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from click.testing import CliRunner
from pydantic import SecretStr

from tests.factories import claimed, settled, settlement, submitted
from tests.fakes import Provider
from worker.base.settings import Settings
from worker.cli.app import main
from worker.cli.operations import checks
from worker.cli.operations.check import Check
from worker.db.connect import Database
from worker.local.running import beside, noted, running

Answer = Callable[[web.Request], Awaitable[web.Response]]


@asynccontextmanager
async def server(answer: Answer) -> AsyncIterator[str]:
    """A server that answers everything so; its base URL."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        await runner.cleanup()


async def asked(answer: Answer, key: str | None) -> dict[str, Check]:
    """What doctor finds at such a server."""
    async with server(answer) as url:
        settings = Settings(upstream_url=url, api_key=None if key is None else SecretStr(key))
        return {check.name: check for check in await checks.upstream(settings)}


async def refusing(request: web.Request) -> web.Response:
    """As OpenAI-compatible servers that ask for a key."""
    if request.headers.get("Authorization") == "Bearer good":
        return web.json_response({"error": {"message": "model: unknown", "type": "invalid_request_error"}}, status=400)
    return web.json_response({"error": {"message": "Incorrect API key provided"}}, status=401)


async def open_to_all(request: web.Request) -> web.Response:
    """As Ollama and vLLM: it asks for no key."""
    if request.method == "GET":
        return web.json_response({"object": "list", "data": [{"id": "llama3"}]})
    return web.json_response({"error": {"message": "model 'stockpot-doctor' not found"}}, status=404)


@pytest.mark.anyio
async def test_a_401_is_the_keys_fault() -> None:
    """The URL is fine, somebody there asks for keys; the words are the provider's."""
    found = await asked(refusing, "wrong")
    assert found["upstream"].outcome == "ok"
    assert found["key"].outcome == "failed"
    assert "Incorrect API key provided" in found["key"].detail
    assert "URL is right" in found["key"].mend
    assert (await asked(refusing, None))["key"].detail == "there is none, and the upstream asks for one (401)"
    assert (await asked(refusing, "good"))["key"].outcome != "failed"


@pytest.mark.anyio
async def test_a_server_that_asks_for_no_key_needs_none() -> None:
    """All is well without one."""
    found = await asked(open_to_all, None)
    assert {name: check.outcome for name, check in found.items() if not name.startswith("clock")} == {
        "upstream": "ok",
        "key": "ok",
    }


def test_up_without_a_key_starts_for_a_server_of_ones_own_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The default upstream asks for a key, so it is refused there at once, with what to set."""
    for name in ("AIMLAPI_API_KEY", "STOCKPOT_API_KEY", "STOCKPOT_UPSTREAM_URL"):
        monkeypatch.delenv(name, raising=False)
    done = CliRunner().invoke(main, ["up"])
    assert done.exit_code == 2
    assert "Ollama" in done.stderr


def test_beside_up_commands_have_its_simulator_and_after_it_not(tmp_path: Path) -> None:
    """A note while it runs; one that a killed `up` has left says nothing."""
    settings = Settings(home=tmp_path)
    assert beside(settings) is settings
    with noted(tmp_path, "http://127.0.0.1:1/v1"):
        there = beside(settings)
        assert (there.upstream_url, there.key) == ("http://127.0.0.1:1/v1", "simulated")
        note = (tmp_path / "up.json").read_text()
    assert running(tmp_path) is None
    (tmp_path / "up.json").write_text(note.replace(str(os.getpid()), "999999999"))
    assert running(tmp_path) is None
    with noted(tmp_path, None):
        assert beside(settings) is settings, "it calls the real one"
        (tmp_path / "up.json").write_text("another's")
    assert (tmp_path / "up.json").read_text() == "another's"


def test_reconcile_beside_up_asks_its_simulator_and_never_the_real_provider(
    sqlite: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the real account's bill is compared with calls that were never made there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STOCKPOT_HOME", str(tmp_path))
    monkeypatch.setenv("AIMLAPI_API_KEY", "sk-a-real-one")
    monkeypatch.setenv("STOCKPOT_UPSTREAM_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("STOCKPOT_DATABASE_URL", sqlite.settings.database_url)
    settled(sqlite, settlement(*claimed(sqlite, *submitted(sqlite))))
    with Provider(tmp_path) as simulated, noted(tmp_path, simulated.url):
        done = CliRunner().invoke(main, ["reconcile", "--since", "1h"])
    assert done.exit_code == 0, done.output
    alone = CliRunner().invoke(main, ["reconcile", "--since", "1h"])
    assert alone.exit_code == 3, "nothing listens where the real one would be"


def test_the_checks_run_on_their_own_loop() -> None:
    """Nothing listens: unreachable, and the key is not judged."""
    found = {
        check.name: check for check in asyncio.run(checks.upstream(Settings(upstream_url="http://127.0.0.1:9/v1")))
    }
    assert found["upstream"].outcome == "unreachable"
    assert "key" not in found
