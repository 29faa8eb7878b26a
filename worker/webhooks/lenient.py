"""A receiver's answer is read for its status line: the rest of its head is taken leniently, within bounds.

Receivers send what no strict reader takes: a 204 with a body, headers of many kilobytes or with names that are no names,
bare line feeds. The event has arrived all the same, and sending it again for days would not help. So the head is read
here and handed to aiohttp anew: the status, and of the headers the few that mean something to us. A head without an end
counts by its status line once it is too long or the connection is closed.
"""

from __future__ import annotations

import re
from typing import Any

from aiohttp.client_proto import ResponseHandler

MOST_HEAD_BYTES = 64 * 1024
"""Of an answer's head; more is not read."""

_STATUS = re.compile(rb"\s*HTTP/(?P<version>\d(?:\.\d)?) +(?P<code>\d{3})[^\n]*\n")
_END = re.compile(rb"\r?\n\r?\n")
_KEPT = (b"content-length", b"transfer-encoding", b"connection", b"keep-alive", b"retry-after")
_WITHOUT_BODY = (204, 304)


class LenientHandler(ResponseHandler):
    """aiohttp's reader of answers, given a head that it understands."""

    _received: bytes = b""
    _head_is_read: bool = True
    _ignores_rest: bool = False

    def set_response_params(self, **params: Any) -> None:
        """A request begins: its answer's head comes next."""
        self._received, self._head_is_read, self._ignores_rest = b"", False, False
        super().set_response_params(**params)

    def data_received(self, data: bytes) -> None:
        """Take bytes of the answer."""
        if self._ignores_rest:
            return
        if self._head_is_read:
            super().data_received(data)
            return
        self._received += data
        while not self._head_is_read:
            status = _STATUS.match(self._received)
            end = _END.search(self._received)
            if end is None or status is None:
                self._without_end(status)
                return
            code, rest = int(status["code"]), self._received[end.end() :]
            if 100 <= code < 200:  # a hint before the answer
                self._received = rest
                continue
            self._head_is_read, head, self._received = True, self._received[status.end() : end.start()], b""
            self._hand_on(code, head, rest, old=status["version"] != b"1.1")

    def _without_end(self, status: re.Match[bytes] | None) -> None:
        """What has come is no whole head yet: wait for more, unless there is too much of it already."""
        if len(self._received) <= MOST_HEAD_BYTES:
            if status is None and self._received.strip() and not b"HTTP/".startswith(self._received.strip()[:5]):
                self._head_is_read = True  # no HTTP at all: aiohttp raises its error
                super().data_received(self._received)
            return
        self._head_is_read = True
        if status is None:
            super().data_received(self._received)
        else:
            self._hand_on(int(status["code"]), b"", b"", ends=True)

    def connection_lost(self, exc: BaseException | None) -> None:
        """A connection that ends behind the status line has answered."""
        if not self._head_is_read and (status := _STATUS.match(self._received + b"\n")) is not None:
            self._head_is_read = True
            self._hand_on(int(status["code"]), b"", b"", ends=True)
        super().connection_lost(exc)

    def _hand_on(self, code: int, head: bytes, rest: bytes, *, ends: bool = False, old: bool = False) -> None:
        """Give aiohttp the head as it reads one, and what came behind it; `old` versions close unless kept alive."""
        fields = dict(_fields(head))
        if old:
            fields.setdefault(b"connection", b"close")
        if not fields.get(b"content-length", b"0").isdigit() or (
            b"transfer-encoding" in fields and b"content-length" in fields
        ):
            fields.pop(b"content-length", None)
        length = int(fields.get(b"content-length", b"0")) if len(fields.get(b"content-length", b"0")) < 19 else 0
        if code in _WITHOUT_BODY:
            ends = ends or bool(rest) or bool(length) or b"transfer-encoding" in fields
            fields.pop(b"content-length", None)
            fields.pop(b"transfer-encoding", None)
        if ends:  # what else comes on this connection belongs to no request
            fields = {name: value for name, value in fields.items() if name == b"retry-after"}
            fields |= {b"connection": b"close", b"content-length": b"0"}
            if code in _WITHOUT_BODY:
                del fields[b"content-length"]
            rest, self._ignores_rest = b"", True
        lines = [b"HTTP/1.1 %d Answered" % code, *(b"%b: %b" % field for field in fields.items())]
        super().data_received(b"\r\n".join(lines) + b"\r\n\r\n")
        if rest:
            super().data_received(rest)


def _fields(head: bytes) -> list[tuple[bytes, bytes]]:
    """The fields that mean something to us, of those lines that are fields."""
    found = []
    for line in head.split(b"\n"):
        name, colon, value = line.strip().partition(b":")
        if colon and name.strip().lower() in _KEPT and value.strip().isascii() and b"\0" not in value:
            found.append((name.strip().lower(), value.strip()[:200]))
    return found
