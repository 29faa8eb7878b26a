"""Faults below HTTP: connections that end where they should not, and bodies built to hurt.

The transport is used directly: aiohttp would end a response politely.
"""

from __future__ import annotations

import asyncio
import functools
import os
import socket
import struct
import zlib
from collections.abc import AsyncIterator

from aiohttp import web

from worker.simulator.script import Step

#: How much of a huge body is made at a time.
_PIECE = 64 * 1024
_MEGABYTE = 1024 * 1024


def reset(request: web.Request) -> None:
    """End the connection with RST: what was written before may or may not arrive."""
    transport = request.transport
    if transport is None:
        return
    given = transport.get_extra_info("socket")
    # A duplicate shares the connection's options and works alike on asyncio's and uvloop's transports.
    with socket.socket(fileno=os.dup(given.fileno())) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def close(request: web.Request) -> None:
    """End the connection with FIN, after what was written."""
    if request.transport is not None:
        request.transport.close()


def write_by_hand(request: web.Request, answer: bytes) -> None:
    """Write a whole answer, head and all, past aiohttp, and end the connection."""
    if request.transport is not None:
        request.transport.write(answer)
        request.transport.close()


def odd_headers(step: Step) -> dict[str, str]:
    """Headers that the step adds to an answer: a label of an encoding, and one of many bytes, and many."""
    headers = {}
    if "encoding" in step:
        headers["Content-Encoding"] = step.value("encoding")
    if "bighead" in step:
        headers["x-model-group-info"] = "a" * max(1, step.count("bighead", 9_000))
    if "manyheads" in step:
        headers |= {f"x-sim-{number}": "v" for number in range(step.count("manyheads", 200))}
    return headers


async def wait_for_goodbye() -> None:
    """Hold the connection open until the client leaves (the server cancels the request then)."""
    await asyncio.Event().wait()


async def filler(size: int) -> AsyncIterator[bytes]:
    """`size` bytes of `x`, in pieces."""
    piece = b"x" * _PIECE
    while size > 0:
        yield piece[:size]
        size -= _PIECE


@functools.lru_cache(maxsize=2)
def bomb(megabytes: int, prefix: bytes, suffix: bytes) -> bytes:
    """Gzip of `prefix`, that many megabytes of one letter, and `suffix`."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, 31)
    parts = [deflate.compress(prefix)]
    parts += [deflate.compress(b"a" * _MEGABYTE) for _ in range(megabytes)]
    return b"".join([*parts, deflate.compress(suffix), deflate.flush()])
