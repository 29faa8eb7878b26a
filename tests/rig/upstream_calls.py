"""Calls of the upstream client against a scripted provider; what the tests of `worker.upstream` share."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.rig.scripted_upstream import Script, ScriptedUpstream, scripted
from worker.upstream.call import CHAT, Call
from worker.upstream.client import UpstreamClient
from worker.upstream.outcome import Outcome

KEY = "sk-canary-0123456789"
OK = (
    b'{"id":"chatcmpl-1","model":"gpt-5.1","choices":[{"index":0,"message":{"role":"assistant","content":"hi"},'
    b'"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":1,"total_tokens":4}}'
)


def new_client(url: str, **changes: Any) -> UpstreamClient:
    """A client with timeouts that no healthy test reaches."""
    options: dict[str, Any] = {
        "connect_timeout": 5,
        "first_event_timeout": 20,
        "idle_timeout": 20,
        "max_response_bytes": 4_000_000,
    }
    return UpstreamClient(url, **options | changes)


def new_call(
    *, stream: bool = False, endpoint: str = CHAT, body: bytes = b'{"model":"m"}', total: float = 30, model: str = "m"
) -> Call:
    """A call with a canary for a key."""
    return Call(endpoint, body, stream, "job_1.1", KEY, total, model)


@asynccontextmanager
async def talking(script: Script, **changes: Any) -> AsyncIterator[tuple[ScriptedUpstream, UpstreamClient]]:
    """A scripted provider and a client that talks to it."""
    async with scripted(script) as upstream:
        client = new_client(upstream.url, **changes)
        try:
            yield upstream, client
        finally:
            await client.close()


def data(*events: Any) -> bytes:
    """Events as a stream carries them."""
    return b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)


def piece(content: str = "", finish: str | None = None) -> dict[str, Any]:
    """A chat chunk of choice 0."""
    return {"id": "c", "model": "m", "choices": [{"index": 0, "delta": {"content": content}, "finish_reason": finish}]}


async def one(script: Script, call: Call, **changes: Any) -> Outcome:
    """What one call to a scripted provider comes to."""
    async with talking(script, **changes) as (_, client):
        return await client.call(call)
