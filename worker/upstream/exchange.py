"""One request and its answer: what is sent, how the answer is read, and the timers that bound it.

Four timers: connect; first event (from sending to the first event of a stream); idle (between pieces); total. Comments
and pings feed both middle ones: a slow reasoning model lives behind them, and the total bounds it. Without streaming a
provider answers when all is generated, so only connect and total bound the wait for the headers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from types import TracebackType
from typing import Self

import aiohttp

from worker.upstream.answer import AnswerReading
from worker.upstream.call import Call, ChunkSink, Progress
from worker.upstream.classify import classify
from worker.upstream.connections import WIRE, Wire, explain, lower, read_bounded
from worker.upstream.cost import cost_from_headers
from worker.upstream.decoding import Undecodable, decoded
from worker.upstream.outcome import Failure, Kind, Outcome
from worker.upstream.room import Share
from worker.upstream.stream import Stage
from worker.upstream.tap import take_all
from worker.upstream.transport import BROKEN
from worker.upstream.whole_body import take_money_of_error

MAX_ERROR_BYTES = 64 * 1024
"""Bytes of an error body that are read; more is no explanation but an attack."""

REFUSAL_SECONDS = 10.0
"""How long more of a refusal's body is awaited: its status decides, and some servers never end it."""

LINGER_SECONDS = 0.5
"""How long more is awaited of an answer that is whole: the provider's cost may follow, a held connection may not."""

USAGE_SECONDS = 5.0
"""How long the usage is awaited that should follow a finish reason; some providers send none and hold the connection."""

SETTLED = "settled"
"""What ends the reading of a body whose end nothing marks: it is a whole answer, and nothing follows."""


class Watch:
    """Ends the block it guards with `TimeoutError` when time is up; `fired` then names the timer.

    At ten thousand chunks a second a timer per chunk is too dear. So `since` only notes the time, and the one timer,
    when it fires, looks whether anything happened since and sleeps on.
    """

    __slots__ = (
        "_end",
        "_loop",
        "_phase",
        "_resting",
        "_scope",
        "_settling",
        "_timer",
        "_window",
        "fired",
        "now",
        "since",
        "started",
    )

    def __init__(self, total: float) -> None:
        """`total` is in seconds, counted from here; needs a running loop."""
        self.fired: str | None = None
        self._loop = asyncio.get_running_loop()
        self.now = self._loop.time  # seconds
        self.started = self.now()
        self._end = self.started + total
        self._phase = "total_timeout"
        self._window: float | None = None
        self.since = self.started  # when something happened last: set it to `now()`
        self._resting: float | None = None
        self._settling: tuple[float, Callable[[], bool]] | None = None
        self._scope = asyncio.timeout(None)
        self._timer: asyncio.TimerHandle | None = None

    def elapsed(self) -> float:
        """Seconds since the start of the call."""
        return self._loop.time() - self.started

    def phase(self, name: str, window: float) -> None:
        """From now on at most `window` seconds may pass between touches; `name` becomes the value of `fired`."""
        self._phase = name
        self._window = window
        self.since = self._loop.time()
        self._look()

    def settle(self, window: float, over: Callable[[], bool]) -> None:
        """Once nothing has happened for `window` seconds `over` is asked, once: if it is over, `fired` becomes `SETTLED`."""
        self._settling = (window, over)
        self._look()

    def touch(self) -> None:
        """Something happened: the window starts again."""
        self.since = self._loop.time()

    def rest(self) -> None:
        """The answer is not read on for reasons of ours: no timer runs until `wake`."""
        if self._resting is None:
            self._resting = self._loop.time()
            if self._timer is not None:
                self._timer.cancel()

    def wake(self) -> None:
        """It is read on: every timer goes on where it stood, and the window starts again."""
        if self._resting is not None:
            self.since = self._loop.time()
            self._end += self.since - self._resting
            self._resting = None
            self._look()

    async def __aenter__(self) -> Self:
        await self._scope.__aenter__()
        self._look()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None  # it knows this watch
        self._window, self._end, self._settling = None, float("inf"), None
        await self._scope.__aexit__(kind, error, trace)

    def _look(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self.fired is not None or self._resting is not None:
            return
        due = self._end if self._window is None else min(self._end, self.since + self._window)
        now = self._loop.time()
        if self._settling is not None:
            settled, over = self.since + self._settling[0], self._settling[1]
            if settled <= now:
                self._settling = None
                if over():
                    self.fired = SETTLED
                    self._scope.reschedule(now)
                    return
            due = due if self._settling is None else min(due, settled)
        if now < due:
            self._timer = self._loop.call_at(due, self._look)
            return
        self.fired = "total_timeout" if due == self._end else self._phase
        self._scope.reschedule(now)


class Exchange:
    """One request and its answer."""

    def __init__(
        self,
        call: Call,
        progress: Progress,
        on_chunk: ChunkSink | None,
        seconds: float,
        bounds: tuple[float, float, int],
        share: Share,
    ) -> None:
        """It takes `seconds` at most. Needs a running loop.

        `bounds` are the first-event timeout and the idle timeout in seconds, and the largest answer in bytes.
        """
        self._call = call
        self._progress = progress
        self._watch = Watch(seconds)
        self._first_event, self._idle, self._max_bytes = bounds
        self._wire = Wire(self._sent)
        self._on_chunk = on_chunk
        self._answer: AnswerReading | None = None
        #: What an answer that is no success comes to, as far as its body has come.
        self._refusal: Callable[[], Failure] | None = None
        self._share = progress.room = share

    async def run(self, send: Callable[[Wire], Awaitable[aiohttp.ClientResponse]]) -> Outcome:
        """The exchange, its timers and its failures; leaves no open connection behind that is not reusable.

        Args:
            send: sends the request, and returns when the response's headers are here.
        """
        token = WIRE.set(self._wire)
        try:
            async with self._watch:
                return await self._request(send)
        except TimeoutError as error:
            if self._watch.fired is None:
                return self._broke(error)
            return self._timed_out(self._watch.fired)
        except BROKEN as error:
            return self._broke(error)
        finally:
            self._progress.total = self._watch.elapsed()
            self._wire.close()
            WIRE.reset(token)
            self._answer = self._refusal = None

    async def _request(self, send: Callable[[Wire], Awaitable[aiohttp.ClientResponse]]) -> Outcome:
        call, progress, watch = self._call, self._progress, self._watch
        response = self._wire.response = await send(self._wire)
        headers = lower(response.headers)
        progress.headers_after = watch.elapsed()
        progress.status = response.status
        progress.inference_id = headers.get("x-inference-id")
        progress.request_id = headers.get("x-request-id")
        progress.rate_limits = {name: value for name, value in headers.items() if name.startswith("x-ratelimit-")}
        progress.cost_usd = cost_from_headers(headers)
        encoding = headers.get("content-encoding", "")
        if response.status // 100 != 2:
            watch.phase("idle_timeout", min(REFUSAL_SECONDS, self._idle))
            body = bytearray()
            self._refusal = partial(self._refused, response.status, headers, body)
            await read_bounded(response, MAX_ERROR_BYTES, watch.touch, body)
            return self._refusal()
        if not call.stream:
            watch.phase("idle_timeout", self._idle)
        events = headers.get("content-type", "").lower().startswith("text/event-stream")
        self._answer = answer = AnswerReading(
            call, progress, self._on_chunk, watch.elapsed, self._max_bytes, encoding=encoding, events=events
        )
        await take_all(
            response, self._taker(answer, open_ended="content-length" not in headers), self._share, self._may_go_on
        )
        answer.end()
        return answer.outcome()

    def _refused(self, status: int, headers: dict[str, str], body: bytearray) -> Failure:
        """The failure of an answer that is no success; its status counts, though its body broke off or never ended."""
        try:
            plain = decoded(bytes(body), headers.get("content-encoding", ""), MAX_ERROR_BYTES)
        except Undecodable:
            plain = b""
        take_money_of_error(self._progress, plain)
        failure = classify(status, headers, plain, now=datetime.now(UTC), key=self._call.key)
        if failure.kind is Kind.NOT_SENT:
            self._progress.sent_after = None
        return failure

    def _taker(self, answer: AnswerReading, *, open_ended: bool) -> Callable[[bytes], bool]:
        """What is done with each piece of the body: it is read, and the timers follow how far the answer has come.

        `open_ended`: only the end of the connection, or of its chunks, ends the body; some servers hold it open.
        """
        watch, idle, share = self._watch, self._idle, self._share
        now = watch.now
        ending = False

        def take(data: bytes) -> bool:
            nonlocal ending
            if not ending:
                watch.since = now()
            events = answer.plain_events
            if events is not None:  # as for nearly every piece
                changed, size = events.take(data), len(data)
            else:
                inflated = answer.inflated
                changed, size = answer.take(data), len(data) + answer.inflated - inflated
            share.take(size)
            if events is None and open_ended and answer.may_be_over:
                watch.settle(min(LINGER_SECONDS, idle), answer.is_over)
            if not changed:
                return False
            stage = answer.stage
            if stage is Stage.RUNNING:
                ending = False
                watch.phase("idle_timeout", idle)
            elif stage is Stage.FINISHED:
                ending = True
                watch.phase("linger", min(USAGE_SECONDS, idle))
            elif stage is Stage.ENDING:
                ending = True
                watch.phase("linger", min(LINGER_SECONDS, idle))
            return stage is Stage.FULL

        return take

    def _may_go_on(self, on_room: Callable[[], None]) -> bool:
        """Whether there is room for more of the answer; while there is none, no timer runs."""
        share = self._share
        if share.free(on_room):
            self._watch.wake()
            return True
        self._watch.rest()
        return False

    def _sent(self) -> None:
        if self._progress.sent_after is None:
            self._progress.sent_after = self._watch.elapsed()
            if self._call.stream:
                self._watch.phase("first_event_timeout", self._first_event)

    def _timed_out(self, timer: str) -> Outcome:
        if self._refusal is not None:
            return self._refusal()
        if timer == SETTLED and self._answer is not None:
            self._answer.end()
            return self._answer.outcome()
        progress = self._progress
        words = f"the upstream was silent for too long ({timer.replace('_', ' ')})"
        if not progress.sent:
            return Failure(Kind.NOT_SENT, "timeout", timer, "time ran out before the request was sent")
        if progress.headers_after is None:
            return Failure(Kind.AMBIGUOUS, "ambiguous", timer, words)
        cut = Failure(Kind.PARTIAL, "timeout", timer, words)
        return cut if self._answer is None else self._answer.outcome(cut)

    def _broke(self, error: BaseException) -> Outcome:
        if self._refusal is not None:
            return self._refusal()
        progress = self._progress
        kind, code, words = explain(error, sent=progress.sent, headers=progress.headers_after is not None)
        if kind is Kind.NOT_SENT:
            progress.sent_after = None
            return Failure(kind, "timeout" if code == "connect_timeout" else "upstream", code, words)
        if kind is Kind.AMBIGUOUS:
            return Failure(kind, "ambiguous", code, words)
        if kind is Kind.RETRYABLE:
            return Failure(kind, "upstream", code, words)
        cut = Failure(kind, "truncated", code, words)
        return cut if self._answer is None else self._answer.outcome(cut)
