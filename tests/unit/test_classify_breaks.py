"""What a broken connection means for the bill, by aiohttp's error and not by httpx's name for it."""

from __future__ import annotations

import ssl

import aiohttp
import httpx
import pytest
from aiohttp.client_reqrep import ConnectionKey

from worker.upstream.connections import explain
from worker.upstream.outcome import Kind

KEY = ConnectionKey("h", 443, True, True, None, None, None)
REFUSED = aiohttp.ClientConnectorError(KEY, ConnectionRefusedError(111, "refused"))
DNS = aiohttp.ClientConnectorDNSError(KEY, OSError(-2, "unknown"))
CERTIFICATE = aiohttp.ClientConnectorCertificateError(KEY, ssl.SSLCertVerificationError("bad"))
HANDSHAKE = aiohttp.ClientConnectorSSLError(KEY, ssl.SSLError("bad"))
SLOW = aiohttp.ConnectionTimeoutError("slow")
GONE = aiohttp.ServerDisconnectedError()
STALE = aiohttp.ClientConnectionResetError("Cannot write to closing transport")


def wrapped(error: BaseException) -> BaseException:
    """As a transport raises it: one name for everything, the truth behind it."""
    outer = httpx.ConnectTimeout("x")
    outer.__cause__ = error
    return outer


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (REFUSED, "connect_failed"),
        (DNS, "dns"),
        (CERTIFICATE, "tls"),
        (HANDSHAKE, "tls"),
        (SLOW, "connect_timeout"),
        (GONE, "proxy"),  # which was asked for a tunnel
        (OSError("?"), "connect_failed"),
        (aiohttp.ClientConnectorError(KEY, OSError(24, "Too many open files")), "no_file_descriptors"),
    ],
)
def test_before_anything_was_sent_nothing_can_have_been_paid(error: BaseException, code: str) -> None:
    """Whatever the reason, trying again is free."""
    assert explain(wrapped(error), sent=False, headers=False)[:2] == (Kind.NOT_SENT, code)


def test_a_stale_connection_that_took_no_byte_was_not_sent() -> None:
    """aiohttp says so before it writes, although its trace had already announced the headers."""
    between = aiohttp.ClientConnectionError("Failed to send bytes into the underlying connection")
    between.__cause__ = STALE
    assert explain(wrapped(between), sent=True, headers=False)[0] is Kind.NOT_SENT


@pytest.mark.parametrize("error", [GONE, aiohttp.ClientOSError(104, "reset"), OSError(104, "reset")])
def test_after_sending_every_break_is_ambiguous(error: BaseException) -> None:
    """The server may have taken the request and hung up."""
    assert explain(wrapped(error), sent=True, headers=False)[0] is Kind.AMBIGUOUS


def test_after_the_headers_every_break_is_partial() -> None:
    """The answer had begun."""
    assert explain(aiohttp.ClientPayloadError("cut"), sent=True, headers=True)[0] is Kind.PARTIAL
    assert explain(STALE, sent=True, headers=True)[0] is Kind.PARTIAL
