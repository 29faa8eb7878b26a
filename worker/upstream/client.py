"""The upstream client: one call, one HTTP request, one outcome. It retries nothing and follows no redirect.

Every end of a call is a value (`Answer` or `Failure`), except a cancellation, which closes the connection and goes on.
Whether a failed call may have been paid is never guessed from an exception's type: see `connections`.

    nothing left this machine       NOT_SENT
    sent, and no headers came       AMBIGUOUS
    headers came, the body broke    PARTIAL

Four timers: connect; first event (from sending to the first event of a stream); idle (between events; comments and
keep-alives do not count as events); total. Without streaming a provider answers when all is generated, so only
connect and total bound the wait for the headers.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime

import aiohttp

from worker.base.errors import Unreachable
from worker.upstream.call import Call, ChunkSink, Progress, wire_body
from worker.upstream.classify import classify
from worker.upstream.connections import WIRE, Wire, explain, is_plain, lower, read_bounded
from worker.upstream.cost import cost_from_headers
from worker.upstream.outcome import Failure, Kind, Outcome
from worker.upstream.stream import StreamReading
from worker.upstream.tap import take_all
from worker.upstream.transport import BROKEN, Headers, Transport
from worker.upstream.watch import Watch
from worker.upstream.whole_body import unstreamed_outcome, whole_outcome, wrong_content

MAX_ERROR_BYTES = 64 * 1024
"""Bytes of an error body that are read; more is no explanation but an attack."""

LINGER_SECONDS = 1.0
"""How long the rest of a stream is awaited after [DONE]: the provider's cost may follow, a held connection may not."""

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
    ) -> None:
        """`base_url` is what the OpenAI SDK takes (`https://host/v1`); a bare host works too. Timeouts are seconds."""
        self._base = base_url.rstrip("/")
        self._connect_timeout = connect_timeout
        self._first_event_timeout = first_event_timeout
        self._idle_timeout = idle_timeout
        self._max_bytes = max_response_bytes
        self._opened: Transport | None = None

    async def call(self, call: Call, on_chunk: ChunkSink | None = None, progress: Progress | None = None) -> Outcome:
        """Make the call and say what it came to. An exception of `on_chunk` ends the call and is raised.

        Cancelling closes the connection at once; `progress` then says what had been sent and received.
        """
        progress = progress if progress is not None else Progress()
        if call.key is not None and not (call.key.isascii() and call.key.isprintable()):
            message = "the API key holds characters that no HTTP header can carry"
            return Failure(Kind.ACCOUNT, "authentication", "malformed_key", message)
        watch = Watch(call.total_timeout)
        exchange = _Exchange(self, call, progress, on_chunk, watch)
        try:
            outcome = await exchange.run()
        finally:
            progress.total = watch.elapsed()
        if isinstance(outcome, Failure):
            outcome = replace(
                outcome,
                status=outcome.status or progress.status,
                inference_id=outcome.inference_id or progress.inference_id,
                request_id=outcome.request_id or progress.request_id,
            )
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
                    self.url(path), _headers(key, "application/json"), params
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
        if not whole:
            raise Unreachable("upstream", f"the answer is larger than {self._max_bytes:,} bytes")
        if not is_plain(headers):
            raise Unreachable("upstream", "the answer is compressed although it was asked not to be")
        return response.status, headers, body

    async def close(self) -> None:
        """Close all connections. The client may be used again; it then opens new ones."""
        opened, self._opened = self._opened, None
        if opened is not None:
            await opened.close()

    def url(self, path: str) -> str:
        """The address of a path. `/v1/…` joins a base that ends in `/v1` or has another prefix in its place."""
        bare = "/" not in self._base.partition("://")[2]
        if path.startswith("/v1/"):
            return self._base + (path if bare else path.removeprefix("/v1"))
        return self._base.removesuffix("/v1") + path

    async def post(self, call: Call, wire: Wire) -> aiohttp.ClientResponse:
        """Send the call's request; return when the response's headers are here."""
        headers = _headers(call.key, "text/event-stream" if call.stream else "application/json")
        wire.response = await self._transport().post_json(
            self.url(call.endpoint), headers, call.client_request_id, wire_body(call)
        )
        return wire.response

    @property
    def limits(self) -> tuple[float, float, int]:
        """First-event timeout and idle timeout in seconds, and the largest answer in bytes."""
        return self._first_event_timeout, self._idle_timeout, self._max_bytes

    def _transport(self) -> Transport:
        if self._opened is None:
            self._opened = Transport(connect_timeout=self._connect_timeout)
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
        self._stream: StreamReading | None = None

    async def run(self) -> Outcome:
        """The exchange, its timers and its failures; leaves no open connection behind that is not reusable."""
        token = WIRE.set(self._wire)
        try:
            async with self._watch:
                return await self._request()
        except TimeoutError as error:
            if self._watch.fired is None:
                return self._broke(error)
            return self._timed_out(self._watch.fired)
        except BROKEN as error:
            return self._broke(error)
        finally:
            self._wire.close()
            WIRE.reset(token)

    async def _request(self) -> Outcome:
        call, progress = self._call, self._progress
        response = await self._client.post(call, self._wire)
        headers = lower(response.headers)
        progress.headers_after = self._watch.elapsed()
        progress.status = response.status
        progress.inference_id = headers.get("x-inference-id")
        progress.request_id = headers.get("x-request-id")
        progress.rate_limits = {name: said for name, said in headers.items() if name.startswith("x-ratelimit-")}
        progress.cost_usd = cost_from_headers(headers)
        if not call.stream or response.status // 100 != 2:
            self._watch.phase("idle_timeout", self._idle)
        plain = is_plain(headers)
        if response.status // 100 != 2:
            body = (await read_bounded(response, MAX_ERROR_BYTES, self._watch.touch))[0] if plain else b""
            return classify(response.status, headers, body, now=datetime.now(UTC), key=call.key)
        if not plain:
            return wrong_content("the upstream compressed its answer although it was asked not to", b"", None)
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if call.stream and kind in ("text/event-stream", "text/plain", "application/octet-stream", ""):
            return await self._read_stream(response)
        if kind == "text/event-stream":
            return wrong_content("the upstream answered with a stream that was not asked for", b"", None)
        body, whole = await read_bounded(response, self._max_bytes, self._watch.touch)
        if not whole:
            message = f"the answer is larger than {self._max_bytes:,} bytes"
            return Failure(Kind.TERMINAL, "too_large", "response_too_large", message)
        return unstreamed_outcome(call, body) if call.stream else whole_outcome(call, progress, body)

    async def _read_stream(self, response: aiohttp.ClientResponse) -> Outcome:
        watch = self._watch
        stream = StreamReading(self._call, self._progress, self._on_chunk, watch.elapsed, self._max_bytes)
        self._stream = stream
        take_events, touch = stream.take, watch.touch
        waiting, lingering = True, False

        def take(data: bytes) -> bool:
            nonlocal waiting, lingering
            if take_events(data):
                if waiting:
                    waiting = False
                    watch.phase("idle_timeout", self._idle)
                touch()
                if stream.done and not lingering:
                    lingering = True
                    watch.phase("linger", LINGER_SECONDS)
            return stream.broken

        await take_all(response, take)
        stream.end()
        return stream.outcome()

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
        return cut if self._stream is None else self._stream.outcome(cut)

    def _broke(self, error: BaseException) -> Outcome:
        progress = self._progress
        kind, code, words = explain(error, sent=progress.sent, headers=progress.headers_after is not None)
        if kind is Kind.NOT_SENT:
            progress.sent_after = None
            return Failure(kind, "timeout" if code == "connect_timeout" else "upstream", code, words)
        if kind is Kind.AMBIGUOUS:
            return Failure(kind, "ambiguous", code, words)
        cut = Failure(kind, "truncated", code, words)
        return cut if self._stream is None else self._stream.outcome(cut)


@functools.lru_cache(maxsize=64)
def _headers(key: str | None, accept: str) -> Headers:
    """What each request says. What an upstream compresses all the same is refused."""
    said = (("user-agent", "stockpot"), ("accept-encoding", "identity"), ("accept", accept))
    return (*said, ("authorization", f"Bearer {key}")) if key else said
