"""uvicorn with bounds: sockets, connections, a graceful stop.

On SIGTERM or Ctrl-C the gateway accepts no more, ends its streams so that they can be resumed, and lets calls without
a stream finish for STOCKPOT_DRAIN_SECONDS; what is left is cut off. The jobs go on in any case.
"""

from __future__ import annotations

import logging
import signal
import socket
from collections.abc import Callable

import uvicorn
from starlette.applications import Starlette

from worker.base.collector import SERVER_THRESHOLDS, freeze_permanent_objects
from worker.base.errors import SettingsError
from worker.base.settings import Settings
from worker.base.urls import is_loopback
from worker.db.connect import Database
from worker.gateway.app import build
from worker.gateway.connections import HEAD_BYTES, BoundedProtocol
from worker.producer.keys import Keys

#: Connections that the kernel holds until they are accepted.
BACKLOG = 2_048
#: The kernel's buffer of what a client has not read yet; it takes twice as much.
SEND_BYTES = 128 * 1024
#: Seconds for which an idle connection is kept for the client's next call.
KEEP_ALIVE_SECONDS = 75
#: Connections beyond the limit that are answered with a refusal.
_MARGIN = 500
#: How the line begins by which a gateway reports that it accepts calls.
READY = "Listening on "


def command(host: str, port: int, *, shared: bool = False) -> list[str]:
    """The module, with its arguments, of a gateway process; `shared`: one of several on the same port."""
    return ["worker.gateway", "--host", host, "--port", str(port), *(["--shared"] if shared else [])]


def check(settings: Settings, host: str) -> None:
    """Refuse to serve more than this machine while there are no keys. Raises SettingsError, Unreachable."""
    if not is_loopback(host) and not _keys_exist(settings):
        raise SettingsError(
            f"--host {host}: without keys only this machine is served; make one first: `stockpot keys create`"
        )


def who_is_served(settings: Settings) -> str:
    """A sentence about who may call."""
    if _keys_exist(settings):
        return "Calls with a key are served (`stockpot keys list`)."
    return "There are no keys, so only this machine is served; any API key will do. `stockpot keys create` makes one."


def _keys_exist(settings: Settings) -> bool:
    database = Database(settings, pool_size=1)
    try:
        return Keys(database).exist()
    finally:
        database.close()


def listen(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """A listening socket; `shared` lets other processes listen on the same port. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # What a client does not read waits here and in the server's own buffer, and no further.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BYTES)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((host, port))
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    sock.setblocking(False)
    return sock


def address_of(sock: socket.socket) -> str:
    """The URL of a listening socket."""
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Server(uvicorn.Server):
    """A server that notifies the application when it stops, before it waits for running requests."""

    def __init__(self, config: uvicorn.Config, app: Starlette, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._app = app
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept."""
        await super().startup(sockets)
        if self.started:
            freeze_permanent_objects(SERVER_THRESHOLDS)
            self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop."""
        self._app.state.gateway.closing.set()
        await super().shutdown(sockets)


def server(settings: Settings, ready: Callable[[], None] = lambda: None) -> Server:
    """A server of the gateway; `run([socket])` serves until it is asked to stop."""
    app = build(settings)
    config = uvicorn.Config(
        app,
        http=BoundedProtocol,
        ws="none",
        loop="auto",
        lifespan="on",
        log_config=None,
        log_level=logging.WARNING,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        # Above this uvicorn answers with a 503 that is no error body; `Around` has refused in our own words by then.
        limit_concurrency=settings.gateway_connections + _MARGIN,
        h11_max_incomplete_event_size=HEAD_BYTES,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=max(1, int(settings.drain_seconds)),
    )
    return Server(config, app, ready)


def serve(settings: Settings, sock: socket.socket, ready: Callable[[], None] = lambda: None) -> None:
    """Serve on a listening socket until SIGTERM or SIGINT; in the main thread."""
    # uvicorn raises the signal again once it has stopped; what was asked for is done by then, and is no failure.
    handlers = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        server(settings, ready).run([sock])
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
