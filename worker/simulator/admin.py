"""The routes under `/_sim/`: what a test sets in the simulator, and what it may read. No key is needed."""

from __future__ import annotations

from typing import Any, get_args

import orjson
from aiohttp import web
from pydantic import ValidationError

from worker.simulator.config import SimulatorConfig
from worker.simulator.keys import Status
from worker.simulator.state import State

#: Fixed while the simulator runs: the journal is open, the server made.
_FIXED = {"journal", "journal_fsync", "max_request_bytes"}


class Admin:
    """The admin routes over one state."""

    def __init__(self, state: State) -> None:
        self.state = state

    def routes(self) -> list[web.RouteDef]:
        """Every admin route."""
        return [
            web.get("/_sim/journal", self.journal),
            web.get("/_sim/stats", self.stats),
            web.get("/_sim/config", self.show_config),
            web.post("/_sim/config", self.configure),
            web.post("/_sim/keys/{key}", self.key),
            web.post("/_sim/reset", self.reset),
            web.post("/_sim/release", self.release),
        ]

    async def journal(self, request: web.Request) -> web.StreamResponse:
        """The journal's file as it is."""
        del request
        path = self.state.journal.path
        if path is None:
            return _wrong("the simulator was started without a journal", status=404)
        return web.Response(body=path.read_bytes(), content_type="application/x-ndjson")

    async def stats(self, request: web.Request) -> web.Response:
        """Counters: in flight now and at most, requests, billed, per status, outcome and step."""
        del request
        stats = self.state.stats
        return _json({name: getattr(stats, name) for name in stats.__slots__})

    async def show_config(self, request: web.Request) -> web.Response:
        """The settings in force."""
        del request
        return _json(self.state.config.model_dump(mode="json"))

    async def configure(self, request: web.Request) -> web.Response:
        """Change settings; the others stay."""
        change = await _object(request)
        if change is None or set(change) & _FIXED:
            return _wrong(f"expected an object of settings without {', '.join(sorted(_FIXED))}")
        try:
            self.state.config = SimulatorConfig.model_validate({**self.state.config.model_dump(), **change})
        except ValidationError as error:
            return _wrong("; ".join(f"{problem['loc'][0]}: {problem['msg']}" for problem in error.errors()))
        return await self.show_config(request)

    async def key(self, request: web.Request) -> web.Response:
        """Configure a key: `credits` (null: endless), `status` (active, revoked, limited)."""
        change = await _object(request)
        if change is None or set(change) - {"credits", "status"}:
            return _wrong("expected an object with credits and status")
        balance, status = change.get("credits"), change.get("status", "active")
        if isinstance(balance, bool) or not isinstance(balance, int | None):
            return _wrong("credits: expected a whole number or null")
        if status not in get_args(Status):
            return _wrong(f"status: expected one of {', '.join(get_args(Status))}")
        account = self.state.keys.configure(request.match_info["key"])
        if "credits" in change:
            account.credits = balance
        account.status = status
        return _json({"credits": account.credits, "status": account.status})

    async def reset(self, request: web.Request) -> web.Response:
        """Forget keys, counters, attempts, rows; the settings and the journal stay."""
        del request
        self.state.reset()
        return _json({})

    async def release(self, request: web.Request) -> web.Response:
        """End the hold of every call that has come."""
        del request
        self.state.release()
        return _json({})


async def _object(request: web.Request) -> dict[str, Any] | None:
    try:
        given = orjson.loads(await request.read() or b"{}")
    except orjson.JSONDecodeError:
        return None
    return given if isinstance(given, dict) else None


def _json(value: Any, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(value), status=status, content_type="application/json")


def _wrong(message: str, status: int = 400) -> web.Response:
    return _json({"error": message}, status)
