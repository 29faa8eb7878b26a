"""Heads of answers that other clients read and aiohttp's parser refuses, put right before it sees them.

A proxy that repeats `Content-Length` with the same value repeats itself (RFC 9110, 8.6 allows to read it as one).
Beside `Transfer-Encoding` a `Content-Length` means nothing (RFC 9112, 6.3), nor does one that is no number; such a connection is not used again. Nor is
one whose head has space behind a header's name, or whose lines end without a CR, or behind whose body more has come: what is
beyond the length that a head states, or the last chunk, was no part of the answer. Where that comes later, aiohttp has the
answer by then, and closes the connection itself.
"""

from __future__ import annotations

import asyncio
import re
from typing import cast

import aiohttp

from worker.base.http_head import MOST_HINT_BYTES, NO_HTTP, HeadBuffer

MAX_HEAD_BYTES = 1024 * 1024
"""Bytes that are held for the end of a head; what has none by then is left to the parser."""

_END = b"\r\n\r\n"
_BARE_LF = re.compile(rb"(?<!\r)\n")
_LENGTH, _ENCODING = b"content-length", b"transfer-encoding"
_CLOSE = b"Connection: close"
#: A header with space behind its name.
_SPACED = re.compile(rb"(\r\n[!#$%&'*+.^_`|~0-9A-Za-z-]+)[ \t]+:")
_CHUNKED = re.compile(rb"(?i)\r\ntransfer-encoding:[^\r]*\bchunked[ \t]*(?=\r\n|$)")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\r\n]*)?\r\n")
_DIGITS = re.compile(rb"(?i)\r\ncontent-length:[ \t]*([0-9]{1,15})[ \t]*(?=\r\n|$)")


def protocol_of(transport: asyncio.Transport) -> asyncio.BaseProtocol | None:
    """The protocol of a transport; None of one of asyncio's for TLS that was closed, since that forgets it and raises."""
    try:
        return transport.get_protocol()
    except AttributeError:
        return None


def mend_head_of(conn: aiohttp.connector.Connection) -> None:
    """Look at the next head that comes over a connection before its protocol does."""
    transport = conn.transport
    if transport is not None:
        _HeadFirst(transport, cast("asyncio.Protocol", transport.get_protocol()))


def mended(head: bytes) -> bytes:
    """A head (without its empty line) that states the length of its body once."""
    if head.count(b"\n") != head.count(b"\r\n"):
        head = _BARE_LF.sub(b"\r\n", head) + b"\r\n" + _CLOSE
    if _SPACED.search(head) is not None:
        head = _SPACED.sub(rb"\1:", head) + b"\r\n" + _CLOSE
    lower = head.lower()
    if _LENGTH not in lower or (lower.count(_LENGTH) == 1 and _ENCODING not in lower and _DIGITS.search(head)):
        return head
    lines = head.split(b"\r\n")
    names = [line.partition(b":")[0].strip().lower() for line in lines]
    lengths = [position for position, name in enumerate(names) if name == _LENGTH]
    values = {part.strip() for position in lengths for part in lines[position].partition(b":")[2].split(b",")}
    if lengths and (_ENCODING in names or not any(value.isdigit() for value in values)):
        kept = [line for position, line in enumerate(lines) if position not in lengths]
        return b"\r\n".join([*kept, _CLOSE])
    if not lengths or len(values) != 1:
        return head  # none, or several that differ: that is for the parser to refuse
    lines[lengths[0]] = b"Content-Length: " + values.pop()
    return b"\r\n".join(line for position, line in enumerate(lines) if position not in lengths[1:])


def cut_to_end(head: bytes, body: bytes) -> tuple[bytes, bytes]:
    """A head (without its empty line) and what has come behind it, without what is beyond the end that the body itself has."""
    end: int | None = None
    if _ENCODING in head.lower():
        end = _end_of_chunks(body) if _CHUNKED.search(head) is not None else None
    elif (found := _DIGITS.search(head)) is not None:
        end = int(found[1])
    if end is None or len(body) <= end:
        return head, body
    return head + b"\r\n" + _CLOSE, body[:end]


def _end_of_chunks(body: bytes) -> int | None:
    """Where a body in chunks ends; None while it does not, or if it is none."""
    position = 0
    while (chunk := _CHUNK.match(body, position)) is not None:
        size = int(chunk[1], 16)
        if not size:
            last = chunk.end() - 2  # the empty line may follow at once, or behind trailers
            end = body.find(_END, last)
            return None if end < 0 else end + len(_END)
        position = chunk.end() + size + 2
    return None


class _HeadFirst(asyncio.Protocol):
    """Stands between a transport and aiohttp's protocol until one head has come."""

    __slots__ = ("_head", "_hints", "_inner", "_transport")

    def __init__(self, transport: asyncio.Transport, inner: asyncio.Protocol) -> None:
        self._transport, self._inner = transport, inner
        self._head = HeadBuffer()
        self._hints = 0  # bytes of interim answers
        transport.set_protocol(self)

    def data_received(self, data: bytes) -> None:
        """Bytes came: hand them on as soon as the head is whole."""
        head, held = self._head, self._head.held
        held += data
        while (end := head.end()) is not None:
            if held[9:10] != b"1":
                self._step_aside()
                lines, whole = bytes(held[: end[0]]), head.take()
                lines, body = cut_to_end(mended(lines), whole[end[1] :])
                self._inner.data_received(lines + _END + body)
                return
            self._hints += end[1]
            if self._hints > MOST_HINT_BYTES:
                self._step_aside()
                self._inner.data_received(NO_HTTP)
                return
            self._inner.data_received(head.take(end[1]))  # an interim answer (103 Early Hints): the real one follows
        if len(held) >= MAX_HEAD_BYTES or held[:5] != b"HTTP/"[: len(held)]:
            self._step_aside()
            self._flush()

    def eof_received(self) -> bool | None:
        """The peer will send no more."""
        self._flush()
        return self._inner.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._flush()
        self._inner.connection_lost(exc)

    def pause_writing(self) -> None:
        """The peer reads too slowly."""
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        """The peer reads again."""
        self._inner.resume_writing()

    def _flush(self) -> None:
        if held := self._head.take():
            self._inner.data_received(held)

    def _step_aside(self) -> None:
        if protocol_of(self._transport) is self:
            self._transport.set_protocol(self._inner)
