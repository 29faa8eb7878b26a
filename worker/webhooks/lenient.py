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

from worker.base.http_head import MOST_HINT_BYTES, NO_HTTP, HeadBuffer

MOST_HEAD_BYTES = 64 * 1024
"""Of an answer's head; more is not read."""

_STATUS = re.compile(rb"HTTP/(?P<version>\d(?:\.\d)?) +(?P<code>\d{3})[^\n]*\n")
_KEPT = (b"content-length", b"transfer-encoding", b"connection", b"keep-alive", b"retry-after")
_WITHOUT_BODY = (204, 304)


class LenientHandler(ResponseHandler):
    """aiohttp's reader of answers, given a head that it understands."""

    _head: HeadBuffer = HeadBuffer()
    _hints: int = 0  # bytes of interim answers that came before
    _head_is_read: bool = True
    _ignores_rest: bool = False

    def set_response_params(self, **params: Any) -> None:
        """A request begins: its answer's head comes next."""
        self._head, self._hints = HeadBuffer(), 0
        self._head_is_read, self._ignores_rest = False, False
        super().set_response_params(**params)

    def data_received(self, data: bytes) -> None:
        """Take bytes of the answer; each is looked at a few times at most, in whatever pieces they come."""
        if self._ignores_rest:
            return
        if self._head_is_read:
            super().data_received(data)
            return
        head, held = self._head, self._head.held
        held += data if held else data.lstrip()
        while (end := head.end()) is not None:
            status = _STATUS.match(held)
            if status is None:
                self._refuse()
                return
            code = int(status["code"])
            if not 100 <= code < 200:
                old, begin, whole = status["version"] != b"1.1", status.end(), head.take()
                self._head_is_read = True
                self._hand_on(code, whole[begin : end[0]], whole[end[1] :], old=old)
                return
            self._hints += end[1]
            if self._hints > MOST_HINT_BYTES:
                self._refuse()
                return
            head.take(end[1])
        self._without_end()

    def _without_end(self) -> None:
        """What has come is no whole head yet: wait for more, unless there is too much of it already."""
        held = self._head.held
        if not b"HTTP/".startswith(held[:5]):
            self._refuse()
        elif len(held) > MOST_HEAD_BYTES:
            status = _STATUS.match(held)
            if status is None:
                self._refuse()
            else:
                self._head_is_read = True
                self._hand_on(int(status["code"]), b"", b"", ends=True)

    def _refuse(self) -> None:
        """It is no answer: aiohttp raises its error, and closes the connection."""
        self._head_is_read = self._ignores_rest = True
        super().data_received(NO_HTTP)

    def connection_lost(self, exc: BaseException | None) -> None:
        """A connection that ends behind the status line has answered."""
        if not self._head_is_read and (status := _STATUS.match(self._head.held + b"\n")) is not None:
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
