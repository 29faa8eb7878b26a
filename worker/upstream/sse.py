"""Server-sent events: bytes in, events out; no I/O and no clock.

The rules are those of the HTML standard, section 9.2.6 (https://html.spec.whatwg.org/multipage/server-sent-events.html):
lines end with LF, CRLF or CR and with nothing else, so U+2028 or U+0085 inside a JSON text stay what they are. Text
stays bytes: a character cut in two by a packet is whole again before it is decoded.

Deviations, on purpose, each for streams that are in use and whole:

- An event whose blank line never came is still reported by `close()`: a provider that omits the last blank line has
  sent its finish reason and usage in it. Half a JSON text is reported too; it does not parse, and the caller sees that
  the stream was cut.
- Events that are one line of JSON each may follow each other without a blank line.
- A line that is no field at all (a JSON object put raw into the stream, a proxy's words) is an event of its own.
- An object that was printed over several lines is one event, whether or not each of them is a field.
- Names of fields are read in capitals, too, and behind spaces.
- A field called `error` is an event of that name: llama.cpp's server writes its errors so.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_BOM = b"\xef\xbb\xbf"
_LINE_END = re.compile(rb"[\r\n]")
_LF, _CR = 10, 13
#: Makes an event without the call that a named tuple's own constructor makes, once a chunk.
_new = tuple.__new__
_FIELD = re.compile(rb"[A-Za-z][A-Za-z0-9_-]*")
#: What the data of an event begin with: an object, or `[DONE]`.
_BEGINS = (b"{", b"[")
#: The first line of an object that is printed over several.
_OPENED = (b"{", b"[")
_KNOWN = frozenset({b"", b"data", b"event", b"id", b"retry", b"error"})


class EventTooLarge(ValueError):
    """An event is above the limit; the stream cannot be read any further."""


class ServerSentEvent(NamedTuple):
    """One event: its name (None when the stream gave none) and its data lines joined by LF."""

    event: str | None
    data: bytes


class EventParser:
    """Cuts a byte stream, in pieces of any size, into events of at most `max_bytes` each."""

    __slots__ = (
        "_data",
        "_event",
        "_late",
        "_line",
        "_max",
        "_open",
        "_raw",
        "_size",
        "_skip_lf",
        "_start",
    )

    def __init__(self, max_bytes: int) -> None:
        self._max = max_bytes
        self._start: bytes | None = b""  # the first bytes, until it is known whether they are a byte order mark
        self._line = bytearray()  # a line whose end has not come
        self._skip_lf = False  # the last byte was a CR: an LF now belongs to it
        self._open = False  # some line of the current event has been read
        self._event: str | None = None
        self._late: str | None = None  # an event's name that came after its data: it may be the next one's
        self._data: list[bytes] = []
        self._raw = False  # the data so far are lines that are no fields
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
            if end - position > self._max:
                raise EventTooLarge(f"an event of {end - position:,} bytes; the limit is {self._max:,}")
            payload = data[position + 6 : end]
            if b"\r" in payload:
                return position
            events.append(_new(ServerSentEvent, (None, payload)))
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
        if size > self._max:
            raise EventTooLarge(f"an event of more than {self._max:,} bytes")
        self._line += data[start:end]

    def _end_line(self, line: bytes, events: list[ServerSentEvent]) -> None:
        if not line:
            self._dispatch(events)
            return
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name not in _KNOWN and (bare := name.strip().lower()) in _KNOWN and bare:
            name = bare
        if name == b"data":
            if self._raw or (self._data and self._ends_before(value)):
                late = self._late
                self._late = None
                self._dispatch(events)
                self._event = late
            self._add(value)
        elif name == b"event":
            if self._raw:
                self._dispatch(events)
            named = value.decode("utf-8", "replace") or None
            if self._data:
                self._late = named
            else:
                self._event = named
            self._open = True
        elif name == b"error" and not self._raw:
            self._dispatch(events)
            self._event = "error"
            self._add(value if value.startswith(_BEGINS) else line)
            self._dispatch(events)
        elif name and (self._raw or not _FIELD.fullmatch(name)):
            printed = bool(self._data) and self._data[0] in _OPENED
            if self._data and not printed and (not self._raw or line.startswith(b"{")):
                self._dispatch(events)
            self._raw = True
            self._add(line)
        # A comment (no name), `id`, `retry` and unknown fields hold nothing that a call needs.

    def _add(self, value: bytes) -> None:
        self._open = True
        self._data.append(value)
        self._size += len(value) + 1
        if self._size > self._max:
            raise EventTooLarge(f"an event of more than {self._max:,} bytes")

    def _ends_before(self, value: bytes) -> bool:
        """Whether the one line of data so far is a whole object, and this line begins another."""
        return (
            len(self._data) == 1 and self._data[0][:1] == b"{" and self._data[0].endswith(b"}") and value[:1] in _BEGINS
        )

    def _dispatch(self, events: list[ServerSentEvent]) -> None:
        if self._data:
            events.append(ServerSentEvent(self._late or self._event, b"\n".join(self._data)))
        self._open = self._raw = False
        self._event = self._late = None
        self._data = []
        self._size = 0
