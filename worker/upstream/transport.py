"""httpx over one aiohttp session: the only module that imports httpx.

`httpx.AsyncClient` spends 0.6 ms of CPU on a request (merging URLs, headers, cookies, auth flows and redirects that no
call of ours has), three times what the request costs itself. So a call's `httpx.Request` goes straight to an httpx
transport; the client in front of it serves the rare look-ups. The transport is our own instead of httpx-aiohttp's:
that one builds timeouts and proxies for each request, and it reports a refused connection and a server that took the
whole request and then hung up as the same `ConnectTimeout`. Here aiohttp's own errors come through.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from http.cookiejar import CookieJar, DefaultCookiePolicy

import aiohttp
import httpx
from yarl import URL

from worker.upstream.connections import open_session

BROKEN = (httpx.HTTPError, httpx.InvalidURL, aiohttp.ClientError, OSError, EOFError)
"""What a request, or the reading of its answer, can raise."""

_ANSWER = "stockpot.answer"


class Transport:
    """Sends requests to one upstream; the answers are aiohttp's, from which a stream is read without further layers."""

    def __init__(self, *, connect_timeout: float) -> None:
        """Open the session; needs a running loop. The timeout is in seconds."""
        # certifi's authorities, or those that SSL_CERT_FILE names: slim images carry none of their own.
        tls = httpx.create_ssl_context()
        self._wire = _OverAiohttp(open_session(connect_timeout=connect_timeout, tls=tls))
        self._client = httpx.AsyncClient(
            transport=self._wire,
            timeout=None,  # the session has its own for connecting; the calls' timers bound the rest
            trust_env=False,
            follow_redirects=False,
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        )
        self._urls: dict[str, httpx.URL] = {}

    async def post(self, url: str, headers: list[tuple[bytes, bytes]], body: bytes) -> aiohttp.ClientResponse:
        """POST a body; return when the answer's headers are here. Raises one of `BROKEN`."""
        address = self._urls.get(url)
        if address is None:  # an upstream has two endpoints
            address = self._urls[url] = httpx.URL(url)
        request = httpx.Request("POST", address, headers=headers, stream=httpx.ByteStream(body))
        return _answer(await self._wire.handle_async_request(request))

    async def get(
        self, url: str, headers: list[tuple[bytes, bytes]], params: Mapping[str, str | int] | None
    ) -> aiohttp.ClientResponse:
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
        body = await request.aread()
        answer = await self._session.request(
            request.method,
            URL(str(request.url)),  # yarl remembers the last addresses it has read
            headers=request.headers.multi_items(),
            data=body or None,
            allow_redirects=False,
        )
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
    """An answer's body, for whoever reads it through httpx."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self._answer = answer

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for data in self._answer.content.iter_any():
            yield data

    async def aclose(self) -> None:
        self._answer.close()


def _answer(response: httpx.Response) -> aiohttp.ClientResponse:
    answer: aiohttp.ClientResponse = response.extensions[_ANSWER]
    return answer
