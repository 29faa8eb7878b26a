"""httpx over one aiohttp session: the only module that imports httpx.

`httpx.AsyncClient` spends 0.6 ms of CPU on a request (merging URLs, headers, cookies, auth flows and redirects that no
call of ours has), three times what the request costs itself. So a call's `httpx.Request` goes straight to an httpx
transport; the client in front of it serves the rare look-ups. The transport is our own instead of httpx-aiohttp's:
that one builds timeouts and proxies for each request, and it reports a refused connection and a server that took the
whole request and then hung up as the same `ConnectTimeout`. Here aiohttp's own errors come through.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Mapping
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path

import aiohttp
import httpx
from yarl import URL

from worker.upstream.connections import StaleConnection, open_session

BROKEN = (httpx.HTTPError, httpx.InvalidURL, aiohttp.ClientError, OSError, EOFError)
"""What a request, or the reading of its answer, can raise."""

Headers = tuple[tuple[str, str], ...]
"""Names and values of a request's headers."""

_ANSWER = "stockpot.answer"


class Transport:
    """Sends requests to one upstream; the answers are aiohttp's, from which a stream is read without further layers."""

    def __init__(self, *, connect_timeout: float, ca: Path | None = None, proxy: str | None = None) -> None:
        """Open the session; needs a running loop. The timeout is in seconds; see `UpstreamClient` for the others."""
        # certifi's authorities, or those that SSL_CERT_FILE names: slim images carry none of their own.
        tls = httpx.create_ssl_context()
        if ca is not None:
            tls.load_verify_locations(cafile=ca)
        self._wire = _OverAiohttp(open_session(connect_timeout=connect_timeout, tls=tls, proxy=proxy))
        self._client = httpx.AsyncClient(
            transport=self._wire,
            timeout=None,  # noqa: S113 - the session bounds the connecting, the callers' timers the rest
            trust_env=False,
            follow_redirects=False,
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        )

    async def post_json(self, url: str, headers: Headers, request_id: str, body: bytes) -> aiohttp.ClientResponse:
        """POST a JSON text; return when the answer's headers are here. Raises one of `BROKEN`."""
        request = httpx.Request("POST", _url(url), headers=_prepared(headers), stream=httpx.ByteStream(body))
        request.headers["x-client-request-id"] = request_id
        return _answer(await self._wire.handle_async_request(request))

    async def get(self, url: str, headers: Headers, params: Mapping[str, str | int] | None) -> aiohttp.ClientResponse:
        """GET an address; return when the answer's headers are here. Raises one of `BROKEN`."""
        request = self._client.build_request("GET", url, params=params, headers=headers)
        return _answer(await self._client.send(request, stream=True))

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()


class _OverAiohttp(httpx.AsyncBaseTransport):
    """An httpx transport; its responses carry aiohttp's own as an extension."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        body = request.stream
        whole = b"".join(body) if isinstance(body, httpx.SyncByteStream) else await request.aread()
        while True:
            try:
                answer = await self._session.request(
                    request.method,
                    URL(str(request.url)),  # yarl remembers the last addresses it has read
                    headers=[(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers.raw],
                    data=whole or None,
                    allow_redirects=False,
                )
                break
            except StaleConnection:  # it is closed now: the next one is another, and in the end a new one
                continue
        return httpx.Response(
            answer.status,
            headers=answer.raw_headers,
            stream=_Body(answer),
            request=request,
            extensions={_ANSWER: answer},
        )

    async def aclose(self) -> None:
        await self._session.close()


class _Body(httpx.AsyncByteStream):
    """An answer's body, for code that reads it through httpx."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self._answer = answer

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for data in self._answer.content.iter_any():
            yield data

    async def aclose(self) -> None:
        self._answer.close()


@functools.lru_cache(maxsize=64)
def _url(text: str) -> httpx.URL:
    """An upstream has two endpoints, and httpx takes 15 µs to read an address."""
    return httpx.URL(text)


@functools.lru_cache(maxsize=64)
def _prepared(headers: Headers) -> httpx.Headers:
    """All but the id is the same for each call with a key; httpx copies prepared headers in a tenth of the time."""
    return httpx.Headers((*headers, ("content-type", "application/json")))


def _answer(response: httpx.Response) -> aiohttp.ClientResponse:
    answer: aiohttp.ClientResponse = response.extensions[_ANSWER]
    return answer
