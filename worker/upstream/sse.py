"""Server-sent events: bytes in, events out; no I/O and no clock.

The rules are those of the HTML standard, section 9.2.6 (https://html.spec.whatwg.org/multipage/server-sent-events.html):
lines end with LF, CRLF or CR and with nothing else, so U+2028 or U+0085 inside a JSON text stay what they are. Text
stays bytes: a character cut in two by a packet is whole again before anybody decodes it.

One deviation, on purpose: an event whose blank line never came is still reported by `close()`. The standard drops it,
but a provider that omits the last blank line has sent its finish reason and usage in it. Half a JSON text is reported
too; it does not parse, and the caller sees that the stream was cut.
"""

from __future__ import annotations

import re
from typing import NamedTuple

MAX_LINE_BYTES = 1024 * 1024
"""Bytes of one line: a chat chunk is below 1 kB, the largest recorded final `response` object below 100 kB."""

MAX_EVENT_BYTES = 4 * 1024 * 1024
"""Bytes of one event's data over all its lines; bounds what a stream without blank lines can make us hold."""

_BOM = b"\xef\xbb\xbf"
_LINE_END = re.compile(rb"[\r\n]")
_LF, _CR = 10, 13


class EventTooLarge(ValueError):
    """A line or an event is above its limit; the stream cannot be read any further."""


class ServerSentEvent(NamedTuple):
    """One event: its name (None when the stream gave none) and its data lines joined by LF."""

    event: str | None
    data: bytes


class EventParser:
    """Cuts a byte stream, in pieces of any size, into events."""

    __slots__ = (
        "_data",
        "_event",
        "_line",
        "_max_event",
        "_max_line",
        "_open",
        "_size",
        "_skip_lf",
        "_start",
    )

    def __init__(self, *, max_line: int = MAX_LINE_BYTES, max_event: int = MAX_EVENT_BYTES) -> None:
        self._max_line = max_line
        self._max_event = max_event
        self._start: bytes | None = b""  # the first bytes, until it is known whether they are a byte order mark
        self._line = bytearray()  # a line whose end has not come
        self._skip_lf = False  # the last byte was a CR: an LF now belongs to it
        self._open = False  # some line of the current event has been read
        self._event: str | None = None
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> list[ServerSentEvent]:
        """Take the next bytes and return the events they complete.

        Raises:
            EventTooLarge: a line or an event is above its limit.
        """
        if self._start is not None:
            data = self._without_bom(data)
        events: list[ServerSentEvent] = []
        position, length = 0, len(data)
        while position < length:
            if not (self._open or self._skip_lf or self._line):
                position = self._take_plain(data, position, events)
                if position >= length:
                    break
            position = self._take_lines(data, position, events)
        return events

    def close(self) -> list[ServerSentEvent]:
        """The stream ended: return the event that was under way, if it had data."""
        if self._start:
            self._line += self._start
        self._start = None
        events: list[ServerSentEvent] = []
        if self._line:
            self._end_line(bytes(self._line), events)
            self._line.clear()
        self._dispatch(events)
        return events

    def _without_bom(self, data: bytes) -> bytes:
        data = (self._start or b"") + data
        if len(data) < len(_BOM) and _BOM.startswith(data):
            self._start = data
            return b""
        self._start = None
        return data.removeprefix(_BOM)

    def _take_plain(self, data: bytes, position: int, events: list[ServerSentEvent]) -> int:
        """Take the events that are one `data: …` line and LF LF, as nearly all are; return where others begin."""
        length = len(data)
        while data.startswith(b"data: ", position):
            end = data.find(b"\n", position)
            if end < 0 or end + 1 >= length or data[end + 1] != _LF:
                return position
            if end - position > self._max_line:
                raise EventTooLarge(f"a line of {end - position:,} bytes; the limit is {self._max_line:,}")
            payload = data[position + 6 : end]
            if b"\r" in payload:
                return position
            events.append(ServerSentEvent(None, payload))
            position = end + 2
        return position

    def _take_lines(self, data: bytes, position: int, events: list[ServerSentEvent]) -> int:
        """Take line by line, any line end, until an event is complete or the bytes are used up."""
        if self._skip_lf:
            self._skip_lf = False
            if data[position] == _LF:
                position += 1
        before = len(events)
        for found in _LINE_END.finditer(data, position):
            end = found.start()
            if end < position:  # the LF of a CRLF that was taken with its CR
                continue
            self._hold(data, position, end)
            line = bytes(self._line)
            self._line.clear()
            position = end + 1
            if data[end] == _CR:
                if position < len(data):
                    position += data[position] == _LF
                else:
                    self._skip_lf = True
            self._end_line(line, events)
            if len(events) > before:
                return position
        self._hold(data, position, len(data))
        return len(data)

    def _hold(self, data: bytes, start: int, end: int) -> None:
        size = len(self._line) + end - start
        if size > self._max_line:
            raise EventTooLarge(f"a line of more than {self._max_line:,} bytes")
        self._line += data[start:end]

    def _end_line(self, line: bytes, events: list[ServerSentEvent]) -> None:
        if not line:
            self._dispatch(events)
            return
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._open = True
            self._data.append(value)
            self._size += len(value) + 1
            if self._size > self._max_event:
                raise EventTooLarge(f"an event of more than {self._max_event:,} bytes")
        elif name == b"event":
            self._open = True
            self._event = value.decode("utf-8", "replace") or None
        # A comment (no name), `id`, `retry` and unknown fields say nothing that a call needs.

    def _dispatch(self, events: list[ServerSentEvent]) -> None:
        if self._data:
            events.append(ServerSentEvent(self._event, b"\n".join(self._data)))
        self._open = False
        self._event = None
        self._data = []
        self._size = 0
