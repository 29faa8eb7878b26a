"""The upstream client: one call, one HTTP request, one outcome. It retries nothing and follows no redirect.

One exception: a request to which we added `stream_options`, and which is refused for it, goes out once more without.
Nothing was paid for the refusal, and the model is asked without from then on, unless that is refused likewise: then the
words were about something else.

Every end of a call is a value (`Answer` or `Failure`), except a cancellation, which closes the connection and goes on.
Whether a failed call may have been paid is never guessed from an exception's type: see `connections`.

    nothing left this machine       NOT_SENT
    sent, and no headers came       AMBIGUOUS
    headers came, the body broke    PARTIAL

An outcome, success or failure, holds all usage and cost that the answer stated, so that they are booked.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Self

import aiohttp

from worker.base.base_url import BaseUrl
from worker.base.errors import Unreachable
from worker.base.proxies import proxy_for
from worker.base.settings import Settings
from worker.upstream.call import Call, ChunkSink, Progress, asks_for_usage, wire_body
from worker.upstream.connections import WIRE, Wire, explain, lower, read_bounded
from worker.upstream.decoding import Undecodable, decoded
from worker.upstream.exchange import Exchange
from worker.upstream.outcome import Failure, Kind, Outcome
from worker.upstream.room import Room
from worker.upstream.transport import BROKEN, Headers, Transport

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
        self._bounds = (first_event_timeout, idle_timeout, max_response_bytes)
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
        route = (call.key, call.model)
        with_usage = route not in self._without_usage
        outcome = await self._exchange(call, on_chunk, progress, call.total_timeout, with_usage=with_usage)
        if with_usage and _refuses_usage(call, outcome, progress):
            left = call.total_timeout - (progress.total or 0.0)
            progress.restart()
            outcome = await self._exchange(call, on_chunk, progress, left, with_usage=False)
            if not _names_options(outcome):
                self._without_usage.add(route)
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
        sent = asyncio.Event()
        wire = Wire(sent.set)
        token = WIRE.set(wire)
        try:
            async with asyncio.timeout(GET_SECONDS) as limit:
                wire.response = response = await self._transport().get(
                    self.url(path), _headers(key, "application/json", self._headers), params
                )
                headers = lower(response.headers)
                body = bytearray()
                whole = await read_bounded(response, self._max_bytes, lambda: None, body)
        except BROKEN as error:
            if limit.expired():
                raise Unreachable("upstream", f"no answer within {GET_SECONDS:g} s") from None
            words = explain(error, sent=sent.is_set(), headers=wire.response is not None)[2]
            raise Unreachable("upstream", words) from error
        finally:
            wire.close()
            WIRE.reset(token)
        too_large = f"the answer is larger than {self._max_bytes:,} bytes"
        if not whole:
            raise Unreachable("upstream", too_large)
        try:
            plain = decoded(bytes(body), headers.get("content-encoding", ""), self._max_bytes + 1)
        except Undecodable as error:
            raise Unreachable("upstream", str(error)) from None
        if len(plain) > self._max_bytes:
            raise Unreachable("upstream", too_large)
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

    async def _exchange(
        self, call: Call, on_chunk: ChunkSink | None, progress: Progress, seconds: float, *, with_usage: bool
    ) -> Outcome:
        """One request and its answer, in so many seconds at most."""

        def send(wire: Wire) -> Awaitable[aiohttp.ClientResponse]:
            headers = _headers(call.key, "text/event-stream" if call.stream else "application/json", self._headers)
            body = wire_body(call, with_usage=with_usage)
            return self._transport().post_json(self.url(call.endpoint), headers, call.client_request_id, body)

        return await Exchange(call, progress, on_chunk, seconds, self._bounds, self.room.share()).run(send)

    def _transport(self) -> Transport:
        if self._opened is None:
            self._opened = Transport(connect_timeout=self._connect_timeout, ca=self._ca, proxy=self._proxy)
        return self._opened


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


def _refuses_usage(call: Call, outcome: Outcome, progress: Progress) -> bool:
    """Whether the request was refused for the stream options that we had added.

    Mostly with 400 or 422; Python's servers fail with 500, and some put the refusal into a 200.
    """
    if not (_names_options(outcome) and isinstance(outcome, Failure) and asks_for_usage(call)):
        return False
    return outcome.kind in (Kind.TERMINAL, Kind.RETRYABLE) and not _booked(outcome, progress).begun


def _names_options(outcome: Outcome) -> bool:
    """Whether a failure names the option."""
    if not isinstance(outcome, Failure):
        return False
    words = (outcome.body or b"").lower() + outcome.message.lower().encode("utf-8", "replace")
    return b"stream_options" in words or b"include_usage" in words


@functools.lru_cache(maxsize=64)
def _headers(key: str | None, accept: str, more: Headers) -> Headers:
    """The headers of each request. `br` and `zstd` are not requested; an answer in them is still read where possible."""
    own: Headers = (("user-agent", "stockpot"), ("accept-encoding", "identity"), ("accept", accept))
    if key and not any(name == "authorization" for name, _ in more):
        own = (*own, ("authorization", f"Bearer {key}"))
    given = {name for name, _ in more}
    return (*(header for header in own if header[0] not in given), *more)
