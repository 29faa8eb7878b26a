"""The way out: one POST to an address that was checked, and nothing else.

A name is resolved here, once per connection, within a budget; one forbidden answer refuses the whole name; the socket
is opened to a checked literal address, while Host, SNI and the certificate keep the name, so a name that resolves
anew in between (rebinding) gains nothing. As a last gate the socket's own address is checked where the socket is made.
No redirects, no proxies from the environment, no cookies, no compression, and at most 4 kB of the answer are read.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from api_schemas.text import storable
from api_schemas.webhook_urls import Target, parse_address, read_target
from worker.base.errors import InvalidRequest, StockpotError
from worker.webhooks.addresses import Policy
from worker.webhooks.lenient import LenientHandler

PUBLIC_PORTS = {"https": frozenset({443, 8443, 8080})}
"""Ports of public addresses, by scheme. Plain http to a public address would show the job's answer to the wire."""

RESOLVE_SECONDS = 3.0
"""A resolver that needs longer is down; the attempt is repeated later."""

CONNECT_SECONDS = 5.0
READ_BYTES = 4_096
KEPT_CHARACTERS = 1_024
"""Of the answer, for the delivery log: enough for an error message."""

_BODY_SECONDS = 1.0
"""For the answer's body after its status has come: the status decides, the body only informs."""

_KEEP_ALIVE_SECONDS = 1.0
"""Below the idle limits of common servers (gunicorn 2 s, uvicorn 5 s): a connection reused while the server closes it
would count as the receiver's failure."""

_RESOLVER_THREADS = 8

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Host and port to addresses, as text. Raises OSError."""


class Blocked(StockpotError):
    """The URL leads where no webhook may go. Trying again would not help."""


class Unanswered(StockpotError):
    """No answer came: the name did not resolve, the connection failed or broke, or time ran out.

    `unreachable`: no connection was made.
    """

    def __init__(self, why: str, *, unreachable: bool = False) -> None:
        super().__init__(why)
        self.unreachable = unreachable


@dataclass(frozen=True, slots=True)
class Reply:
    """A receiver's answer. `head` is the beginning of its body; `retry_after` is as it came, unparsed."""

    status: int
    head: str
    retry_after: str | None


class SystemResolver:
    """The machine's resolver, on threads of its own: a name server that hangs must not hold up other work."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_RESOLVER_THREADS, thread_name_prefix="webhook-dns")

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        """All addresses of the host."""
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._threads, self._look_up, host, port)
        return list(dict.fromkeys(str(entry[4][0]) for entry in found))

    def close(self) -> None:
        """Let the threads go; what they still look up is dropped."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    @staticmethod
    def _look_up(host: str, port: int) -> list[Any]:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)


class Egress:
    """Sends webhooks. One per process, on one event loop.

    Args:
        policy: which addresses may be reached.
        seconds: for the whole attempt, from resolving to the answer's status.
        resolve: the resolver; tests give their own.
        tls: certificates to trust; None is the system's.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        seconds: float = 15.0,
        resolve: Resolve | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._policy = policy
        self._seconds = seconds
        self._system = SystemResolver()
        self._resolve = resolve or self._system
        self._tls = tls
        self._sessions: dict[str, aiohttp.ClientSession] = {}

    async def post(self, url: str, body: bytes, headers: dict[str, str]) -> Reply:
        """POST a body, and read the status and the beginning of the answer.

        Raises:
            Blocked: the URL or an address behind it is forbidden; no connection was made.
            Unanswered: no status came in time.
        """
        try:
            target = read_target(url)
        except InvalidRequest as error:
            raise Blocked(str(error)) from None
        if target.address is not None:
            self._check(str(target.address), target.scheme, target.port)
        try:
            return await self._send(target, body, headers)
        except aiohttp.ConnectionTimeoutError as error:  # also a TimeoutError
            raise Unanswered(in_words(error), unreachable=True) from None
        except TimeoutError:
            raise Unanswered(f"no answer within {self._seconds:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise Unanswered(in_words(error), unreachable=isinstance(error, aiohttp.ClientConnectorError)) from None

    async def close(self) -> None:
        """Close all connections."""
        for session in self._sessions.values():
            await session.close()
        self._sessions.clear()
        self._system.close()

    async def _send(self, target: Target, body: bytes, headers: dict[str, str]) -> Reply:
        given = headers | {"Accept-Encoding": "identity", "Accept": "*/*"}
        deadline = asyncio.timeout(self._seconds)
        async with (
            deadline,
            self._session(target.scheme).post(
                # As it was given and checked: no second opinion on the escapes of path and query.
                URL(target.url, encoded=True),
                data=body,
                headers=given,
                allow_redirects=False,
            ) as response,
        ):
            deadline.reschedule(None)
            head = await _read_head(response)
            if not response.content.at_eof():
                response.close()  # the rest is not wanted, and the connection is not fit for another request
            return Reply(response.status, head, response.headers.get("Retry-After"))

    def _session(self, scheme: str) -> aiohttp.ClientSession:
        """One session per scheme, as the scheme decides what an address may be used for."""
        session = self._sessions.get(scheme)
        if session is None:
            connector = aiohttp.TCPConnector(
                resolver=_CheckedResolver(self, scheme),
                use_dns_cache=False,
                limit=0,  # the deliverer bounds what is in flight
                keepalive_timeout=_KEEP_ALIVE_SECONDS,
                ssl=self._tls or True,
                socket_factory=lambda info: self._open_socket(info, scheme),
            )
            # aiohttp has no public place for it: the reader of answers is made by its connector.
            connector._factory = functools.partial(LenientHandler, loop=asyncio.get_running_loop())  # type: ignore[assignment]  # noqa: SLF001
            session = self._sessions[scheme] = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
                auto_decompress=False,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
                read_bufsize=READ_BYTES,
            )
        return session

    async def addresses(self, host: str, scheme: str, port: int) -> list[str]:
        """Resolve a name and check every answer.

        Raises:
            Blocked: one of the answers is forbidden.
            OSError: the name does not resolve within the budget.
        """
        try:
            async with asyncio.timeout(RESOLVE_SECONDS):
                found = await self._resolve(host, port)
        except TimeoutError:
            raise OSError(f"the name did not resolve within {RESOLVE_SECONDS:g} s") from None
        if not found:
            raise OSError("the name has no address")
        for text in found:
            self._check(text, scheme, port)
        return list(found)

    def _check(self, text: str, scheme: str, port: int) -> None:
        refusal = self._refusal(text, scheme, port)
        if refusal is not None:
            raise Blocked(refusal)

    def _refusal(self, text: str, scheme: str, port: int) -> str | None:
        return _refusal(self._policy, text, scheme, port)

    def _open_socket(self, info: Any, scheme: str) -> socket.socket:
        """The last gate: make the socket for one address, or refuse."""
        family, kind, protocol, _, place = info
        refusal = self._refusal(str(place[0]), scheme, int(place[1]))
        if refusal is not None:
            raise PermissionError(refusal)
        return socket.socket(family, kind, protocol)


class _CheckedResolver(AbstractResolver):
    """Gives the connector checked literal addresses, and the name beside them for TLS."""

    def __init__(self, egress: Egress, scheme: str) -> None:
        self._egress = egress
        self._scheme = scheme

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Resolve for aiohttp; see `Egress.addresses`."""
        return [
            ResolveResult(
                hostname=host,
                host=text,
                port=port,
                family=socket.AF_INET6 if ":" in text else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for text in await self._egress.addresses(host, self._scheme, port)
        ]

    async def close(self) -> None:
        """Nothing is held."""


def objection(url: str, policy: Policy) -> str | None:
    """Why nothing would be delivered to a URL, as far as this machine can see now; None where nothing stands against it.

    It resolves the name, for `RESOLVE_SECONDS` at most. Raises InvalidRequest as `check_url`.
    """
    target = read_target(url)
    if target.address is not None:
        return _refusal(policy, str(target.address), target.scheme, target.port)
    if not policy.allowed and target.port not in PUBLIC_PORTS.get(target.scheme, frozenset()):
        return _refused_port(target.scheme, target.port)
    found: list[Any] = []

    def look_up() -> None:
        with contextlib.suppress(OSError):
            found.extend(socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM))

    looking = threading.Thread(target=look_up, daemon=True)  # nothing else bounds a resolver
    looking.start()
    looking.join(RESOLVE_SECONDS)
    if not found:
        return "its name does not resolve here"
    reasons = (_refusal(policy, str(entry[4][0]), target.scheme, target.port) for entry in found)
    return next((why for why in reasons if why is not None), None)


def _refused_port(scheme: str, port: int) -> str:
    return f"{scheme} on port {port} is not allowed to public addresses; use https on 443, 8443 or 8080"


def _refusal(policy: Policy, text: str, scheme: str, port: int) -> str | None:
    try:
        address = parse_address(text)
    except ValueError:
        return "the resolver gave something that is no address"
    refusal = policy.refusal(address)
    if refusal is not None or policy.is_allowed(address):
        return refusal
    if port not in PUBLIC_PORTS.get(scheme, frozenset()):
        return _refused_port(scheme, port)
    if _is_ours(text, port):
        return "the address is this machine's own"
    return None


def in_words(error: Exception) -> str:
    """Why no answer came, in words that the receiver's operator understands."""
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return f"its name does not resolve ({error.strerror or error.os_error})"
    if isinstance(error, aiohttp.ClientConnectorCertificateError | ssl.SSLCertVerificationError):
        why = getattr(error, "certificate_error", error)
        return f"its certificate is not trusted ({getattr(why, 'verify_message', '') or why})"[:300]
    if isinstance(error, aiohttp.ClientConnectorSSLError | ssl.SSLError):
        return "it does not speak TLS on this port"
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return f"no connection within {CONNECT_SECONDS:g} s"
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"no connection: {(error.strerror or str(error.os_error)).lower()}"[:300]
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "it closed the connection without an answer"
    if isinstance(error, aiohttp.ClientResponseError):
        return "its answer is not HTTP"
    if isinstance(error, OSError) and error.strerror:
        return f"the connection broke: {error.strerror.lower()}"
    return f"the connection broke ({error})"[:300]


def _is_ours(text: str, port: int) -> bool:
    """Whether a public address is one of this machine's: then the way to it begins at the address itself.

    Connecting a datagram socket only looks up the route; nothing is sent.
    """
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((text, port))
        except OSError:
            return False  # no route: the connection itself will fail with that
        return bool(parse_address(probe.getsockname()[0]) == parse_address(text))


async def _read_head(response: aiohttp.ClientResponse) -> str:
    """The first bytes of the body as text that a database can keep; what came, when the body is slow or breaks."""
    head = bytearray()
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            while len(head) < READ_BYTES:
                piece = await response.content.read(READ_BYTES - len(head))
                if not piece:
                    break
                head += piece
    except (TimeoutError, aiohttp.ClientError, OSError):
        response.close()
    return storable(head.decode("utf-8", "replace"))[:KEPT_CHARACTERS]
