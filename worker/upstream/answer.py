"""Reading a 2xx answer for what it is: events or one object, independent of its labels and of the request.

Providers and the proxies before them answer a request for a stream with one object and the other way round, label
either as the other, or compress what they were asked to leave plain. All of it was paid for. So the first bytes decide.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from worker.upstream.call import Call, ChunkSink, Progress
from worker.upstream.decoding import Decoder, Undecodable
from worker.upstream.endpoints import ENDPOINTS
from worker.upstream.outcome import Answer, Failure, Kind, Outcome
from worker.upstream.received import unpacked
from worker.upstream.stream import Stage, StreamReading
from worker.upstream.whole_body import is_complete, whole_outcome, wrong_content

#: What a line of an event stream begins with; a comment begins with a colon.
_FIELDS = (b"data:", b"event:", b"id:", b"retry:", b":")
_LONGEST = max(map(len, _FIELDS))
#: How an object begins that was encoded twice.
_IN_TEXT = b'"{'
#: What an object ends with.
_LAST = (b"}", b"}\n", b"}\r\n", b"}]", b'}"')
#: What may be the beginning of the one or the other.
_UNSURE = (*_FIELDS, _IN_TEXT)


class AnswerReading:
    """One answer. Feed `take` until it asks to look at `stage`, then ask for the `outcome`."""

    __slots__ = (
        "_body",
        "_broken",
        "_call",
        "_decoder",
        "_events",
        "_max_bytes",
        "_new_stream",
        "_on_chunk",
        "_progress",
        "_stage",
        "_start",
        "_streamed",
        "inflated",
        "plain_events",
    )

    def __init__(
        self,
        call: Call,
        progress: Progress,
        on_chunk: ChunkSink | None,
        elapsed: Callable[[], float],
        max_bytes: int,
        *,
        encoding: str = "",
        events: bool = False,
    ) -> None:
        """`encoding` and `events` are the labels: `Content-Encoding`, and whether the type is an event stream."""
        self._stage = Stage.WAITING
        self.inflated = 0  # bytes that compressed ones have come to
        #: The reading of its events, once there is nothing to decode: what comes may be fed to it alone.
        self.plain_events: StreamReading | None = None
        self._call = call
        self._progress = progress
        self._on_chunk = on_chunk
        self._max_bytes = max_bytes
        self._decoder = Decoder(encoding)
        self._streamed = events or call.stream
        self._new_stream = partial(StreamReading, call, progress, elapsed=elapsed, max_bytes=max_bytes)
        self._events: StreamReading | None = None
        self._start = b""
        self._body: bytearray | None = None
        self._broken: Outcome | None = None

    @property
    def stage(self) -> Stage:
        """How far it has come."""
        return self._stage if self._events is None or self._broken is not None else self._events.stage

    @property
    def events(self) -> StreamReading | None:
        """The reading of its events, once it is known to be a stream."""
        return self._events

    @property
    def may_be_over(self) -> bool:
        """Whether it is one object that may have come whole: cheap, for every piece."""
        return self._body is not None and self._body.endswith(_LAST)

    def is_over(self) -> bool:
        """Whether it is one object that has come whole, and states its end."""
        return self._body is not None and is_complete(bytes(self._body))

    def end(self) -> None:
        """The upstream closed the answer in good order."""
        try:
            for piece in self._decoder.close():
                self._take_plain(piece)
        except Undecodable as error:
            self._break(error)
        if self._events is None and self._body is None:
            self._begin(self._start, ended=True)
        if self._events is not None:
            self._events.end()

    def outcome(self, cut: Failure | None = None) -> Outcome:
        """The outcome; `cut` is the reason why reading stopped before the answer's own end."""
        if self._broken is not None:
            return self._broken
        if self._events is not None:
            return self._events.outcome(cut)
        body = bytes(self._body or self._start)
        sink = self._on_chunk if self._call.stream else None
        outcome = whole_outcome(self._call, self._progress, body, ENDPOINTS[self._call.endpoint], sink)
        if cut is not None:  # it is whole, or it was cut off
            return outcome if isinstance(outcome, Answer) else cut
        if isinstance(outcome, Failure) and outcome.code == "wrong_content" and b"{" in body:
            return self._as_events(body, outcome)
        return outcome

    def _as_events(self, body: bytes, otherwise: Outcome) -> Outcome:
        """What begins as an object may go on as events: one object and `[DONE]`, an object a line, a list of them.

        Behind one object that is a whole answer anything may follow.
        """
        first = unpacked(body, cut=True)[:1]
        inside = unpacked(body)
        if inside or b"\n" in body.strip():
            stream = self._new_stream(on_chunk=self._on_chunk)
            stream.take(b"".join(b"data: %b\n\n" % one for one in inside) or body)
            stream.end()
            outcome = stream.outcome()
            if self._progress.events and (isinstance(outcome, Answer) or not first):
                return outcome
            otherwise = outcome if self._progress.events else otherwise
        if first and first[0] != body:
            sink = self._on_chunk if self._call.stream else None
            whole = whole_outcome(self._call, self._progress, first[0], ENDPOINTS[self._call.endpoint], sink)
            if isinstance(whole, Answer) and whole.finish_reason is not None:
                self._progress.odd["after_end"] = self._progress.odd.get("after_end", 0) + 1
                return whole
        return otherwise

    def take(self, data: bytes) -> bool:
        """Take the next bytes; return whether `stage` has changed."""
        before = self.stage
        try:
            for piece in self._decoder.feed(data):
                self._take_plain(piece)
                if self.stage is Stage.FULL:
                    break
        except Undecodable as error:
            self._break(error)
        if self._events is not None and self._decoder.plain:
            self.plain_events = self._events
        return self.stage is not before

    def _take_plain(self, data: bytes) -> None:
        if not self._decoder.plain:
            self.inflated += len(data)
        if self._events is not None:
            self._events.take(data)
        elif self._body is None:
            self._begin(self._start + data)
        else:
            self._hold(data)

    def _begin(self, start: bytes, *, ended: bool = False) -> None:
        """Find out what the answer is, as soon as there is enough of it."""
        self._start = start
        text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
        if not ended and (not text or (len(text) < _LONGEST and any(known.startswith(text) for known in _UNSURE))):
            return
        whole = text[:1] in (b"{", b"[", b"<", b"") or text.startswith(_IN_TEXT)
        if text.startswith(_FIELDS) or (self._streamed and not whole):
            self._events = self._new_stream(on_chunk=self._on_chunk if self._call.stream else None)
            self._events.take(start)
        else:
            self._body = bytearray()
            self._stage = Stage.RUNNING
            self._hold(start)

    def _hold(self, data: bytes) -> None:
        if self._body is None:
            return
        self._body += data
        if len(self._body) > self._max_bytes:
            self._body.clear()
            message = f"the answer is larger than {self._max_bytes:,} bytes"
            self._broken = Failure(Kind.TERMINAL, "too_large", "response_too_large", message)
            self._stage = Stage.FULL

    def _break(self, error: Undecodable) -> None:
        broken = wrong_content(str(error), b"", None)
        if self._events is not None:
            self._broken = self._events.outcome(replace(broken, kind=Kind.PARTIAL, error_class="truncated"))
        else:
            self._broken = broken
        self._stage = Stage.FULL
