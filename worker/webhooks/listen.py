"""A local receiver for development: verifies what comes and prints it. The core of `stockpot webhooks listen`.

Stockpot reaches it only with `STOCKPOT_WEBHOOK_ALLOW_PRIVATE`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from aiohttp import web

from api_schemas.webhooks import SignatureError, verify

MAX_BODY = 1024 * 1024
"""Bytes of a request: four times the largest event."""


@dataclass(frozen=True, slots=True)
class Received:
    """One request. `event` is set when it is verified, `problem` when it is not."""

    webhook_id: str
    event: dict[str, Any] | None
    problem: str | None


async def listen(
    host: str,
    port: int,
    secret: str | Sequence[str],
    on_event: Callable[[Received], None],
    *,
    status: int = 204,
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Receive webhooks on any path until cancelled.

    Args:
        port: 0 takes a free one.
        secret: `whsec_…`; several are accepted while one is rotated.
        on_event: called on the event loop for each request.
        status: what a verified event is answered with; an unverified one gets 401.
        on_ready: called with the URL once it listens.

    Raises:
        OSError: the port is taken.
    """

    async def receive(request: web.Request) -> web.Response:
        body = await request.read()
        webhook_id = request.headers.get("webhook-id", "")
        try:
            event = verify(body, request.headers, secret)
        except SignatureError as error:
            on_event(Received(webhook_id, None, str(error)))
            return web.Response(status=401)
        on_event(Received(webhook_id, event, None))
        return web.Response(status=status)

    app = web.Application(client_max_size=MAX_BODY)
    app.router.add_post("/{path:.*}", receive)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        if on_ready is not None:
            bound = runner.addresses[0][1]
            on_ready(f"http://{f'[{host}]' if ':' in host else host}:{bound}/")
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


def pretty(received: Received) -> str:
    """One request as a line for people: what happened to which job, or why it is not trusted."""
    if received.event is None:
        return f"✗ {received.webhook_id or 'no id'}: {received.problem}"
    data = received.event.get("data")
    data = data if isinstance(data, dict) else {}
    parts = [str(received.event.get("type")), str(data.get("id", ""))]
    usage = data.get("usage")
    if isinstance(usage, dict) and usage.get("total_tokens") is not None:
        parts.append(f"{usage['total_tokens']} tokens")
    cost = data.get("cost_usd")
    if isinstance(cost, int | float):
        parts.append(f"${Decimal(str(cost)):f}")
    if isinstance(data.get("reason"), str):
        parts.append(data["reason"])
    error = data.get("error")
    if isinstance(error, dict):
        parts.append(f"{error.get('class')}: {error.get('message')}")
    return f"✓ {received.webhook_id}  " + "  ".join(parts)
