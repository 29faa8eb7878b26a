"""The worker's HTTP door for machines: `/livez`, `/readyz`, `/metrics`. Off unless `STOCKPOT_HTTP_PORT` is set.

It is served by the engine's own loop, so a loop that is stuck does not answer at all.

    livez     both loops breathe: the engine's, and Celery's while it is connected. A dead Redis or database never
              fails it: restarting a worker mends neither
    readyz    the database answers and this worker claims
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import cast

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from sqlalchemy import Connection, text

from api_schemas import jsontext
from worker.base import metrics, ports
from worker.base.errors import Unreachable
from worker.db.threads import DatabaseThreads
from worker.engine.connections import BoundedConnections

#: A loop that has not breathed for so long is stuck; both breathe once a second.
STUCK_SECONDS = 20.0


class ConsumerHeartbeat:
    """When Celery's consumer loop last breathed; None while it has no broker to listen to."""

    def __init__(self) -> None:
        self._at: float | None = None

    def beat(self) -> None:
        """The loop is alive and connected."""
        self._at = time.monotonic()

    def lost(self) -> None:
        """The connection is gone; Celery is busy with finding it again, which is no illness of its own."""
        self._at = None

    @property
    def silence(self) -> float | None:
        """Seconds since the loop last breathed; None while it is not connected."""
        at = self._at
        return None if at is None else time.monotonic() - at

    @property
    def stuck(self) -> bool:
        """Whether the loop is connected and has not breathed for too long."""
        return (self.silence or 0) > STUCK_SECONDS


class HealthServer:
    """Serves the three pages on one port."""

    def __init__(
        self,
        database: DatabaseThreads,
        consumer: ConsumerHeartbeat,
        last_beat: Callable[[], float],
        closing: Callable[[], bool],
    ) -> None:
        """`pulse` is when the engine's loop last breathed (monotonic seconds), `closing` whether it claims no more."""
        self._database = database
        self._consumer = consumer
        self._last_beat = last_beat
        self._closing = closing
        self._runner: web.AppRunner | None = None
        self._listener: asyncio.Server | None = None

    async def start(self, port: int, host: str) -> None:
        """Listen. Raises SettingsError when the port is taken."""
        app = web.Application()
        app.router.add_get("/livez", self._livez)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        speak = cast("web.Server", self._runner.server)  # there since `setup`
        listening = asyncio.get_running_loop().create_server(BoundedConnections(speak), host, port)
        try:
            self._listener = await listening
        except OSError as error:
            await self._runner.cleanup()
            raise ports.taken("STOCKPOT_HTTP_PORT", host, port, error) from error

    async def close(self) -> None:
        """Stop listening."""
        if self._listener is not None:
            self._listener.close()
        if self._runner is not None:
            await self._runner.cleanup()

    async def _livez(self, _request: web.Request) -> web.Response:
        engine = time.monotonic() - self._last_beat() < STUCK_SECONDS
        return _page({"engine": engine, "consumer": not self._consumer.stuck})

    async def _readyz(self, _request: web.Request) -> web.Response:
        try:
            await self._database.read(_look)
            database = True
        except Unreachable:
            database = False
        return _page({"database": database, "claiming": not self._closing()})

    async def _metrics(self, _request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(metrics.REGISTRY), headers={"Content-Type": CONTENT_TYPE_LATEST})


def _look(conn: Connection) -> None:
    conn.execute(text("SELECT 1 FROM jobs LIMIT 1"))


def _page(checks: Mapping[str, bool]) -> web.Response:
    well = all(checks.values())
    body = jsontext.dumps({"ok": well, **checks})
    return web.Response(body=body, status=200 if well else 503, content_type="application/json")
