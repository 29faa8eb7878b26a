"""How a webhook receiver may behave, by path; the table in `hookd` says it in words."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from aiohttp import web

from tests.rig.link import Link

#: `/slowbody` sends one byte this often.
_DRIP_SECONDS = 0.2
#: `/bigbody`: what a receiver without shame would send.
_BIG_BYTES = 1024**3
_PIECE = b"x" * 65536

Answer = Callable[[], Awaitable[web.StreamResponse]]


@dataclass(slots=True, frozen=True)
class Visit:
    """One delivery to a path: the request, how often this id came to this path before, and the receiver's end."""

    request: web.Request
    earlier: int
    closing: asyncio.Event

    def asked(self, name: str, default: str) -> str:
        """A parameter of the path's query."""
        return str(self.request.query.get(name, default))


@dataclass(slots=True, frozen=True)
class Behaviour:
    """The status that the sender will be told (0: none), and how."""

    status: int
    answer: Answer


def behave(visit: Visit) -> Behaviour:
    """What the visited path does; 404 for one that is not in the table."""
    script = _SCRIPTS.get(visit.request.path)
    return script(visit) if script is not None else _plain(404)


def _plain(status: int, headers: Mapping[str, str] | None = None) -> Behaviour:
    async def answer() -> web.StreamResponse:
        return web.Response(status=status, headers=headers)

    return Behaviour(status, answer)


def _flaky(visit: Visit) -> Behaviour:
    return _plain(500 if visit.earlier < int(visit.asked("fail", "1")) else 200)


def _hang(visit: Visit) -> Behaviour:
    async def answer() -> web.StreamResponse:
        await visit.closing.wait()
        return web.Response(status=503)

    return Behaviour(0, answer)


def _reset(visit: Visit) -> Behaviour:
    async def answer() -> web.StreamResponse:
        if visit.request.transport is not None:
            Link.reset_socket(visit.request.transport.get_extra_info("socket"), close=False)
            visit.request.transport.abort()
        return web.Response()

    return Behaviour(0, answer)


def _slow_body(visit: Visit) -> Behaviour:
    async def answer() -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(visit.request)
        while not visit.closing.is_set():
            await response.write(b"x")
            await asyncio.sleep(_DRIP_SECONDS)
        return response

    return Behaviour(200, answer)


def _big_body(visit: Visit) -> Behaviour:
    async def answer() -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(visit.request)
        for _ in range(_BIG_BYTES // len(_PIECE)):
            if visit.closing.is_set():
                break
            await response.write(_PIECE)
        return response

    return Behaviour(200, answer)


_SCRIPTS: dict[str, Callable[[Visit], Behaviour]] = {
    "/ok": lambda _: _plain(200),
    "/fail": lambda visit: _plain(int(visit.asked("status", "500"))),
    "/flaky": _flaky,
    "/hang": _hang,
    "/slowbody": _slow_body,
    "/bigbody": _big_body,
    "/redirect": lambda visit: _plain(307, {"Location": visit.request.query["to"]}),
    "/410": lambda _: _plain(410),
    "/429": lambda visit: _plain(429, {"Retry-After": visit.asked("ra", "5")}),
    "/reset": _reset,
}
