"""The upstream client: one call, one HTTP request, one outcome. It retries nothing and follows no redirect.

One exception: a request to which we added `stream_options`, and which is refused for it, goes out once more without.
Nothing was paid for the refusal, and the model is asked without from then on.

Every end of a call is a value (`Answer` or `Failure`), except a cancellation, which closes the connection and goes on.
Whether a failed call may have been paid is never guessed from an exception's type: see `connections`.

    nothing left this machine       NOT_SENT
    sent, and no headers came       AMBIGUOUS
    headers came, the body broke    PARTIAL

An outcome, success or failure, holds all usage and cost that the answer stated, so that they are booked.

Four timers: connect; first event (from sending to the first event of a stream); idle (between pieces); total. Comments
and pings feed both middle ones: a slow reasoning model lives behind them, and the total bounds it. Without streaming a
provider answers when all is generated, so only connect and total bound the wait for the headers.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

import aiohttp

from worker.base.base_url import BaseUrl
from worker.base.errors import Unreachable
from worker.base.proxies import proxy_for
from worker.base.settings import Settings
from worker.upstream.answer import AnswerReading
from worker.upstream.call import Call, ChunkSink, Progress, asks_for_usage, wire_body
from worker.upstream.classify import classify
from worker.upstream.connections import WIRE, Wire, explain, lower, read_bounded
from worker.upstream.cost import cost_from_headers
from worker.upstream.decoding import Undecodable, decoded
from worker.upstream.outcome import Failure, Kind, Outcome
from worker.upstream.room import Room
from worker.upstream.stream import Stage
from worker.upstream.tap import take_all
from worker.upstream.transport import BROKEN, Headers, Transport
from worker.upstream.watch import Watch
from worker.upstream.whole_body import take_money_of_error

MAX_ERROR_BYTES = 64 * 1024
"""Bytes of an error body that are read; more is no explanation but an attack."""

LINGER_SECONDS = 0.5
"""How long more is awaited of an answer that is whole: the provider's cost may follow, a held connection may not."""

USAGE_SECONDS = 5.0
"""How long the usage is awaited that should follow a finish reason; some providers send none and hold the connection."""

GET_SECONDS = 30.0
"""The whole time of a look-up (models, logs, billing); these answer in well under a second."""


class UpstreamClient:
    """Calls one upstream. Safe to make anywhere; opens its connections in the event loop of the first call."""

    def __init__(
        self,
        base_url: str,
        *,
        connect_timeout: float,
        first_event_timeout: float,
        idle_timeout: float,
        max_response_bytes: int,
        answer_memory_bytes: int = 1 << 62,
        headers: Mapping[str, str] | None = None,
        ca: Path | None = None,
        proxy: str | None = None,
    ) -> None:
        """`base_url` is what the OpenAI SDK takes (`https://host/v1`); see `BaseUrl` for what works beside it.

        Timeouts are seconds. `answer_memory_bytes` is what all answers may take together (see `room`); who makes a
        call gives its part back (`Progress.give_back`). `headers` go along with each request, `ca` is a file of authorities to trust beside the
        usual ones, `proxy` the URL of an HTTP proxy.
        """
        self._base = BaseUrl.parse(base_url)
        self._connect_timeout = connect_timeout
        self._first_event_timeout = first_event_timeout
        self._idle_timeout = idle_timeout
        self._max_bytes = max_response_bytes
        self.room = Room(answer_memory_bytes)
        self._headers = tuple((name.lower(), value) for name, value in (headers or {}).items())
        self._ca, self._proxy = ca, proxy
        self._opened: Transport | None = None
        self._urls: dict[str, str] = {}
        self._without_usage: set[tuple[str | None, str]] = set()  # keys and models that refuse `stream_options`

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The client that the settings ask for.

        Raises:
            SettingsError: the environment names a proxy of a kind that cannot be used.
        """
        return cls(
            settings.upstream_url,
            connect_timeout=settings.connect_timeout,
            first_event_timeout=settings.first_event_timeout,
            idle_timeout=settings.idle_timeout,
            max_response_bytes=settings.max_response_bytes,
            answer_memory_bytes=settings.answer_memory_bytes,
            headers={name: value.get_secret_value() for name, value in (settings.upstream_headers or {}).items()},
            ca=settings.upstream_ca,
            proxy=proxy_for(settings.upstream_url),
        )

    async def call(self, call: Call, on_chunk: ChunkSink | None = None, progress: Progress | None = None) -> Outcome:
        """Make the call and return its outcome. An exception of `on_chunk` ends the call and is raised.

        Cancelling closes the connection at once; `progress` then holds what had been sent and received.
        """
        progress = progress if progress is not None else Progress()
        if call.key is not None and not (call.key.isascii() and call.key.isprintable()):
            message = "the API key holds characters that no HTTP header can carry"
            return Failure(Kind.ACCOUNT, "authentication", "malformed_key", message)
        watch = Watch(call.total_timeout)
        route = (call.key, call.model)
        with_usage = route not in self._without_usage
        try:
            outcome = await _Exchange(self, call, progress, on_chunk, watch).run(with_usage=with_usage)
            if with_usage and _refuses_usage(call, outcome):
                self._without_usage.add(route)
                watch = Watch(call.total_timeout - watch.elapsed())
                progress.restart()
                outcome = await _Exchange(self, call, progress, on_chunk, watch).run(with_usage=False)
        finally:
            progress.total = watch.elapsed()
        if isinstance(outcome, Failure):
            outcome = _booked(outcome, progress)
        return replace(outcome, timings=progress.timings)

    async def get_json(
        self, path: str, key: str | None = None, params: Mapping[str, str | int] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """GET a path (`/v1/models`, `/v2/logs`, …); return status, headers (lower-case names) and the bounded body.

        Raises:
            Unreachable: no whole answer came in time.
        """
        wire = Wire(lambda: None)
        token = WIRE.set(wire)
        try:
            async with asyncio.timeout(GET_SECONDS) as limit:
                wire.response = response = await self._transport().get(
                    self.url(path), _headers(key, "application/json", self._headers), params
                )
                headers = lower(response.headers)
                body, whole = await read_bounded(response, self._max_bytes, lambda: None)
        except BROKEN as error:
            if limit.expired():
                raise Unreachable("upstream", f"no answer within {GET_SECONDS:g} s") from None
            words = explain(error, sent=False, headers=wire.response is not None)[2]
            raise Unreachable("upstream", words) from error
        finally:
            wire.close()
            WIRE.reset(token)
        try:
            plain = decoded(body, headers.get("content-encoding", ""), self._max_bytes + 1)
        except Undecodable as error:
            raise Unreachable("upstream", str(error)) from None
        if not whole or len(plain) > self._max_bytes:
            raise Unreachable("upstream", f"the answer is larger than {self._max_bytes:,} bytes")
        return response.status, headers, plain

    async def close(self) -> None:
        """Close all connections. The client may be used again; it then opens new ones."""
        opened, self._opened = self._opened, None
        if opened is not None:
            await opened.close()

    def url(self, path: str) -> str:
        """The address of a path. `/v1/…` joins a base that ends in `/v1` or has another prefix in its place."""
        known = self._urls.get(path)
        if known is None:
            known = self._urls[path] = self._base.of(path)
        return known

    async def post(self, call: Call, wire: Wire, *, with_usage: bool) -> aiohttp.ClientResponse:
        """Send the call's request; return when the response's headers are here."""
        headers = _headers(call.key, "text/event-stream" if call.stream else "application/json", self._headers)
        wire.response = await self._transport().post_json(
            self.url(call.endpoint), headers, call.client_request_id, wire_body(call, with_usage=with_usage)
        )
        return wire.response

    @property
    def limits(self) -> tuple[float, float, int]:
        """First-event timeout and idle timeout in seconds, and the largest answer in bytes."""
        return self._first_event_timeout, self._idle_timeout, self._max_bytes

    def _transport(self) -> Transport:
        if self._opened is None:
            self._opened = Transport(connect_timeout=self._connect_timeout, ca=self._ca, proxy=self._proxy)
        return self._opened


class _Exchange:
    """One request and its answer."""

    def __init__(
        self, client: UpstreamClient, call: Call, progress: Progress, on_chunk: ChunkSink | None, watch: Watch
    ) -> None:
        self._client = client
        self._call = call
        self._progress = progress
        self._watch = watch
        self._first_event, self._idle, self._max_bytes = client.limits
        self._wire = Wire(self._sent)
        self._on_chunk = on_chunk
        self._answer: AnswerReading | None = None
        self._share = progress.room = client.room.share()

    async def run(self, *, with_usage: bool) -> Outcome:
        """The exchange, its timers and its failures; leaves no open connection behind that is not reusable."""
        token = WIRE.set(self._wire)
        try:
            async with self._watch:
                return await self._request(with_usage=with_usage)
        except TimeoutError as error:
            if self._watch.fired is None:
                return self._broke(error)
            return self._timed_out(self._watch.fired)
        except BROKEN as error:
            return self._broke(error)
        finally:
            self._wire.close()
            WIRE.reset(token)
            self._answer = None  # the wire knows its exchange: what was read must not wait for the collector of cycles

    async def _request(self, *, with_usage: bool) -> Outcome:
        call, progress, watch = self._call, self._progress, self._watch
        response = await self._client.post(call, self._wire, with_usage=with_usage)
        headers = lower(response.headers)
        progress.headers_after = watch.elapsed()
        progress.status = response.status
        progress.inference_id = headers.get("x-inference-id")
        progress.request_id = headers.get("x-request-id")
        progress.rate_limits = {name: value for name, value in headers.items() if name.startswith("x-ratelimit-")}
        progress.cost_usd = cost_from_headers(headers)
        encoding = headers.get("content-encoding", "")
        if not call.stream or response.status // 100 != 2:
            watch.phase("idle_timeout", self._idle)
        if response.status // 100 != 2:
            raw = (await read_bounded(response, MAX_ERROR_BYTES, watch.touch))[0]
            try:
                body = decoded(raw, encoding, MAX_ERROR_BYTES)
            except Undecodable:
                body = b""
            take_money_of_error(progress, body)
            return classify(response.status, headers, body, now=datetime.now(UTC), key=call.key)
        events = headers.get("content-type", "").lower().startswith("text/event-stream")
        self._answer = answer = AnswerReading(
            call, progress, self._on_chunk, watch.elapsed, self._max_bytes, encoding=encoding, events=events
        )
        await take_all(response, self._taker(answer), self._share, self._may_go_on)
        answer.end()
        return answer.outcome()

    def _taker(self, answer: AnswerReading) -> Callable[[bytes], bool]:
        """What is done with each piece of the body: it is read, and the timers follow how far the answer has come."""
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
        progress = self._progress
        words = f"the upstream was silent for too long ({timer.replace('_', ' ')})"
        if not progress.sent:
            return Failure(Kind.NOT_SENT, "timeout", timer, "time ran out before the request was sent")
        if progress.headers_after is None:
            return Failure(Kind.AMBIGUOUS, "ambiguous", timer, words)
        cut = Failure(Kind.PARTIAL, "timeout", timer, words)
        return cut if self._answer is None else self._answer.outcome(cut)

    def _broke(self, error: BaseException) -> Outcome:
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


def _booked(failure: Failure, progress: Progress) -> Failure:
    """The failure with all that was seen of the call. What was billed counts as begun, whatever else came."""
    usage, cost = failure.usage or progress.usage, failure.cost_usd
    cost = progress.cost_usd if cost is None else cost
    billed = bool(cost) or (usage is not None and usage.output_tokens > 0)
    return replace(
        failure,
        status=failure.status or progress.status,
        inference_id=failure.inference_id or progress.inference_id,
        request_id=failure.request_id or progress.request_id,
        usage=usage,
        cost_usd=cost,
        begun=failure.begun or billed,
    )


def _refuses_usage(call: Call, outcome: Outcome) -> bool:
    """Whether the request was refused for the stream options that we had added."""
    if not isinstance(outcome, Failure) or outcome.status not in (400, 422) or not asks_for_usage(call):
        return False
    words = (outcome.body or b"").lower()
    return b"stream_options" in words or b"include_usage" in words


@functools.lru_cache(maxsize=64)
def _headers(key: str | None, accept: str, more: Headers) -> Headers:
    """The headers of each request. `br` and `zstd` are not requested; an answer in them is still read where possible."""
    own: Headers = (("user-agent", "stockpot"), ("accept-encoding", "identity"), ("accept", accept))
    if key and not any(name == "authorization" for name, _ in more):
        own = (*own, ("authorization", f"Bearer {key}"))
    given = {name for name, _ in more}
    return (*(header for header in own if header[0] not in given), *more)
