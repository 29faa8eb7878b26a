"""The limit: a bare asyncio loop on uvloop with aiohttp. It calls, splits SSE, parses JSON, adds up text.

Nothing is durable, nothing is published, nothing is retried. Whatever does more cannot cost less.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from typing import Any

import aiohttp
import orjson
import uvloop

from ops.bench import wire
from ops.bench.peers.speaking import listen, say


async def one_stream(session: aiohttp.ClientSession, url: str, body: bytes) -> int:
    """Read one streamed answer to its end. Returns the length of its text."""
    text: list[str] = []
    rest = b""
    async with session.post(url, data=body) as response:
        async for data in response.content.iter_any():
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                if line.startswith(b"data: ") and line != b"data: [DONE]":
                    choices = orjson.loads(line[6:])["choices"]
                    if choices:
                        text.append(choices[0]["delta"].get("content") or "")
    return len("".join(text))


async def one_call(session: aiohttp.ClientSession, url: str, body: bytes) -> int:
    """Read one whole answer. Returns the length of its text."""
    async with session.post(url, data=body) as response:
        return len(orjson.loads(await response.read())["choices"][0]["message"]["content"])


async def run(url: str, question: dict[str, Any]) -> dict[str, int]:
    """Do `jobs` jobs, at most `in_flight` at once."""
    stream = question["stream"]
    one = one_stream if stream else one_call
    bodies: Iterator[bytes] = (
        orjson.dumps(wire.request_body(number, model=question["model"], stream=stream))
        for number in range(question["first"], question["first"] + question["jobs"])
    )
    counts = {"done": 0, "characters": 0}

    async def slot(session: aiohttp.ClientSession) -> None:
        for body in bodies:
            length = await one(session, url, body)
            counts["characters"] += length
            counts["done"] += 1

    headers = {"authorization": "Bearer bench", "content-type": "application/json"}
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), headers=headers, timeout=timeout
    ) as session:
        await asyncio.gather(*(slot(session) for _ in range(min(question["in_flight"], question["jobs"]))))
    return counts


def main(base_url: str) -> None:
    """Ready, then one run per question."""
    say(ready=True)
    while (question := listen()) is not None:
        say(**uvloop.run(run(f"{base_url}/chat/completions", question)))


if __name__ == "__main__":
    main(sys.argv[1])
