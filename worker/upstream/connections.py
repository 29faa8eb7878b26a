"""The aiohttp session that carries httpx, and the truth about what happened on the wire.

A refused connection was not paid for; a server that took the whole request and then hung up may have to be. An
error's type does not distinguish them, so the request itself records when its first bytes leave.
"""

from __future__ import annotations

import ssl
import weakref
from collections.abc import Callable, Mapping
from contextvars import ContextVar

import aiohttp

from worker.base.errors import out_of_files
from worker.base.sockets import is_readable
from worker.upstream.heads import mend_head_of
from worker.upstream.outcome import Kind

KEEPALIVE_SECONDS = 4.0
"""How long an idle connection is kept. A server that closes it first, while we send, leaves the call ambiguous. uvicorn
(vLLM, SGLang, LiteLLM) and Node's servers close after 5 s; a connection that is in use is spared the handshake all the same."""

DNS_TTL_SECONDS = 30
"""How long a resolved address is used; short, so that a provider's failover is followed."""

READ_BUFFER_BYTES = 64 * 1024
"""Above twice this aiohttp stops reading the socket, so a fast sender cannot fill our memory."""


MAX_HEADER_BYTES = 256 * 1024
"""Bytes of one header. LiteLLM and others send more than the 8 kB that aiohttp allows."""

MAX_HEADERS = 1024
"""Headers of one answer; aiohttp's 128 are too few for some gateways."""


class Wire:
    """What happened below httpx in one request."""

    def __init__(self, on_sent: Callable[[], None]) -> None:
        self.on_sent = on_sent
        self.response: aiohttp.ClientResponse | None = None

    def close(self) -> None:
        """Close the connection now unless the answer was read to its end (then it is already back in the pool).

        It forgets the call: timers keep a copy of the context with this wire in it, and what the wire knew would be
        left to the collector of cycles.
        """
        if self.response is not None:
            self.response.close()
        self.response, self.on_sent = None, _nothing


def _nothing() -> None:
    """What a wire calls when its call is over."""


WIRE: ContextVar[Wire | None] = ContextVar("stockpot_upstream_wire", default=None)
"""The wire of the request that this task is making."""


class StaleConnection(aiohttp.ClientConnectionResetError):
    """Something came over a kept connection between two requests: nothing of the request was written to it."""


#: The protocols of connections over which a request has gone.
_USED: weakref.WeakSet[object] = weakref.WeakSet()


class _Request(aiohttp.ClientRequest):
    """A request that reports when its bytes begin to leave. aiohttp's traces do too, at 50 µs of CPU a request."""

    async def send(self, conn: aiohttp.connector.Connection) -> aiohttp.ClientResponse:
        """Send it over a connection that stands; nothing of it has been written before.

        Raises:
            StaleConnection: the connection was kept, and is of no use any more.
        """
        if conn.protocol in _USED and _is_stale(conn):
            raise StaleConnection
        _USED.add(conn.protocol)
        wire = WIRE.get()
        if wire is not None:
            wire.on_sent()
        mend_head_of(conn)
        return await super().send(conn)


def _is_stale(conn: aiohttp.connector.Connection) -> bool:
    """Whether anything came over an idle connection: its end, or an answer to nothing, which the next call would take for its own.

    Also if the loop has not read it yet: on a busy one that takes a while.
    """
    protocol, transport = conn.protocol, conn.transport
    if protocol is None or transport is None or protocol.should_close:
        return True
    socket = transport.get_extra_info("socket")
    if socket is None or socket.fileno() < 0:
        return socket is not None
    return is_readable(socket.fileno())


def open_session(*, connect_timeout: float, tls: ssl.SSLContext, proxy: str | None = None) -> aiohttp.ClientSession:
    """A session without limits, cookies, redirects or decompression of its own; needs a running loop.

    `proxy` is the one to use. The environment is not read here: aiohttp would read `.netrc` along with it.
    """
    return aiohttp.ClientSession(
        # Our slots bound the number of calls; a second limit here would only make them queue unseen.
        connector=aiohttp.TCPConnector(
            limit=0,
            ssl=tls,
            ttl_dns_cache=DNS_TTL_SECONDS,
            keepalive_timeout=KEEPALIVE_SECONDS,
        ),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, connect=connect_timeout),
        auto_decompress=False,
        trust_env=False,
        proxy=proxy,
        max_line_size=MAX_HEADER_BYTES,
        max_field_size=MAX_HEADER_BYTES,
        max_headers=MAX_HEADERS,
        read_bufsize=READ_BUFFER_BYTES,
        request_class=_Request,
    )


def explain(error: BaseException, *, sent: bool, headers: bool) -> tuple[Kind, str, str]:
    """Kind, code and words for a call that broke; `sent` and `headers` are how far it had come."""
    root = _root(error)
    unreadable = _parser_words(error)
    if headers:
        words = f": {unreadable}" if unreadable else ""
        return Kind.PARTIAL, "connection_lost", f"the connection broke in the middle of the answer{words}"
    if isinstance(root, aiohttp.ClientHttpProxyError):
        return Kind.NOT_SENT, "proxy", f"the proxy answered {root.status} instead of connecting to the upstream"
    if sent and isinstance(root, aiohttp.ClientResponseError):
        # An answer came, so the connection was not lost: no look-up in the provider's log is needed.
        return Kind.RETRYABLE, UNREADABLE, f"the upstream's answer is no HTTP: {unreadable or 'it cannot be read'}"
    if isinstance(root, aiohttp.ClientConnectionResetError):
        # aiohttp raises it while it writes: the connection was gone before the whole request had left.
        return Kind.NOT_SENT, "connection_lost", "the connection was lost before the whole request was sent"
    if sent:
        return Kind.AMBIGUOUS, "connection_lost", "the connection broke after the request was sent"
    if out_of_files(error):
        return Kind.NOT_SENT, NO_FILES, "this worker may open no more files"
    if isinstance(root, aiohttp.ClientConnectorDNSError):  # the upstream's, or its proxy's
        return Kind.NOT_SENT, "dns", f"the name {root.host} cannot be resolved"
    if isinstance(root, aiohttp.ClientResponseError):
        return Kind.NOT_SENT, "proxy", f"the proxy's answer is no HTTP: {unreadable or 'it cannot be read'}"
    for kind, code, words in _NOT_SENT:
        if isinstance(root, kind):
            return Kind.NOT_SENT, code, words
    return Kind.NOT_SENT, "connect_failed", "the upstream cannot be reached"


#: The error code of an answer that HTTP's rules do not allow to be read.
UNREADABLE = "unreadable_answer"

#: The error code of a call for which this process had no file descriptor left: no sign of trouble upstream.
NO_FILES = "no_file_descriptors"

_HUNG_UP = "the proxy hung up instead of connecting to the upstream"

#: Most specific first: a certificate error is also a connector error.
_NOT_SENT: tuple[tuple[type[BaseException], str, str], ...] = (
    (aiohttp.ClientProxyConnectionError, "proxy", "the proxy to the upstream cannot be reached"),
    (aiohttp.ClientConnectorCertificateError, "tls", "the upstream's certificate is not valid"),
    (aiohttp.ClientSSLError, "tls", "no TLS connection to the upstream"),
    (aiohttp.ServerTimeoutError, "connect_timeout", "the upstream did not accept a connection in time"),
    (aiohttp.ClientConnectorError, "connect_failed", "the upstream refuses connections"),
    # Before a request leaves, only a proxy is spoken to: it was asked for a tunnel.
    (aiohttp.ServerDisconnectedError, "proxy", _HUNG_UP),
    (aiohttp.ClientOSError, "proxy", _HUNG_UP),
)


async def read_bounded(
    response: aiohttp.ClientResponse, limit: int, touch: Callable[[], None], body: bytearray
) -> bool:
    """Read a body of at most `limit` bytes into `body`, where it stands although it breaks off; whether that was all of it."""
    while data := await response.content.readany():
        touch()
        body += data
        if len(body) > limit:
            return False
    return True


def lower(headers: Mapping[str, str]) -> dict[str, str]:
    """Headers with lower-case names; of a repeated header the first counts."""
    found: dict[str, str] = {}
    for name, value in headers.items():
        found.setdefault(name.lower(), value)
    return found


def _parser_words(error: BaseException) -> str:
    """The HTTP parser's error for an answer, in one line; empty when it was not the parser that gave up."""
    step: BaseException | None = error
    while step is not None:
        if isinstance(step, aiohttp.http.HttpProcessingError) and step.message:
            return step.message.strip().splitlines()[0][:300]
        if isinstance(step, aiohttp.ClientResponseError) and step.message:
            return step.message.strip().splitlines()[0][:300]
        step = step.__cause__
    return ""


def _root(error: BaseException) -> BaseException:
    """The error that aiohttp raised: one of httpx's may stand before it, the operating system's stands behind it."""
    chain: list[BaseException] = []
    step: BaseException | None = error
    while step is not None:
        chain.append(step)
        step = step.__cause__
    known = [found for found in chain if isinstance(found, aiohttp.ClientError)]
    resets = [found for found in known if isinstance(found, aiohttp.ClientConnectionResetError)]
    return (resets or known or chain)[0]
