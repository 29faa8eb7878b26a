"""HTTP for other programs: OpenAI's wire over the producer. `worker.gateway:app` is the ASGI application.

A router module has its routes in `ROUTES`, made by `routing.route`; `app` puts them at `/v1` and without it.

answers      Answers: JSON, and OpenAI's lists
app          The application: routes, middleware, what lives as long as it does
auth         Who calls: a key, or nobody on loopback while there are no keys
bodies       Request bodies, bounded: JSON objects within the limits of a request
errors       The error body, and which status each error of the product has
health       `/livez`, `/readyz`, `/metrics`
middleware   What happens around every request: its id, its log line, headers, the last resort
models       `/models`: the upstream's models with their prices
routing      Routes of handlers that know who calls
serving      uvicorn with bounds: sockets, connections, a graceful stop
state        What all requests of a process share: settings and producers
"""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    """Build the application when a server asks for it: importing a module of the gateway costs nothing."""
    if name == "app":
        from worker.gateway import app as module

        return module.default()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
