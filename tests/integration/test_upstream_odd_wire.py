"""What stands between us and an upstream, and what it does to an answer's head: proxies, authorities, gateways."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.rig.certificates import self_signed, serving
from tests.rig.scripted_upstream import JSON, Peer, Request, scripted
from tests.rig.upstream_calls import KEY, OK, data, new_call, new_client, one, piece, talking
from worker.base.errors import Unreachable
from worker.base.settings import load
from worker.cli.operations import checks
from worker.provider.provider import Provider
from worker.upstream.client import UpstreamClient
from worker.upstream.outcome import Answer, Failure, Kind

pytestmark = pytest.mark.anyio
HELLO = b'{"model":"m","messages":[]}'


@pytest.mark.parametrize("status", ["200 OK", "429 Too Many Requests"])
@pytest.mark.parametrize(
    "head",
    [
        "x-model-group: " + "a" * 60_000 + "\r\n",
        "".join(f"x-h{number}: v\r\n" for number in range(900)),
        "content-length: {length}\r\n",
    ],
    ids=["long", "many", "length-twice"],
)
async def test_a_head_that_other_clients_read_is_read(head: str, status: str) -> None:
    """A refusal behind it is seen, too."""
    body = OK if status.startswith("200") else b'{"error":{"message":"slow"}}'

    async def script(_: Request, peer: Peer) -> None:
        await peer.reply(body, JSON + head.replace("{length}", str(len(body))), status)

    outcome = await one(script, new_call())
    if status.startswith("200"):
        assert isinstance(outcome, Answer)
    else:
        assert isinstance(outcome, Failure)
        assert outcome.kind is Kind.BUSY


@pytest.mark.parametrize("pieces", [1, 0])
async def test_a_head_in_pieces_behind_early_hints_is_read(pieces: int) -> None:
    """Byte by byte, and in one piece."""
    length = f"content-length: {len(OK)}\r\n"
    raw = f"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\n{JSON}{length}{length}\r\n".encode() + OK

    async def script(_: Request, peer: Peer) -> None:
        for start in range(0, len(raw), pieces or len(raw)):
            await peer.send(raw[start : start + (pieces or len(raw))])

    async with talking(script) as (upstream, client):
        for _number in range(2):
            assert isinstance(await client.call(new_call()), Answer)
    assert upstream.connections == 1, "the connection is used again"


async def test_two_lengths_that_differ_are_the_parsers_to_refuse() -> None:
    """In its own words, and it is no lost connection."""

    async def script(_: Request, peer: Peer) -> None:
        await peer.reply(OK, JSON + "content-length: 5\r\n")

    failure = await one(script, new_call())
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.code) == (Kind.RETRYABLE, "unreadable_answer")
    assert "ontent-Length" in failure.message


# --- what is added to a request --------------------------------------------------------------------------------------


REFUSES_OPTIONS = [
    ("400 Bad Request", {"error": {"message": "Unknown parameter: 'stream_options'."}}),
    (
        "422 Unprocessable Entity",
        {"detail": [{"loc": ["body", "stream_options", "include_usage"], "msg": "Extra inputs"}]},
    ),
    ("500 Oh", {"detail": "create() got an unexpected keyword argument 'stream_options'"}),
    ("404 Not Found", {"error": "unknown field stream_options"}),
    ("200 OK", {"error": {"message": "stream_options is not supported", "type": "BadRequestError"}}),
]


@pytest.mark.parametrize(("status", "refusal"), REFUSES_OPTIONS)
async def test_who_refuses_stream_options_is_asked_once_more_without_and_from_then_on(
    status: str, refusal: dict[str, Any]
) -> None:
    """For its model and key only; nothing was paid for the refusal."""

    async def script(request: Request, peer: Peer) -> None:
        if b"stream_options" in request.body and b"odd" in request.body:
            await peer.reply(json.dumps(refusal).encode(), status=status)
        else:
            await peer.stream(data(piece("hi", "stop")) + b"data: [DONE]\n\n")

    async with talking(script) as (upstream, client):
        for model in ("odd", "odd", "even"):
            body = b'{"model":"%s"}' % model.encode()
            outcome = await client.call(new_call(stream=True, body=body, model=model))
            assert isinstance(outcome, Answer)
            assert outcome.text == "hi"
    sent = [json.loads(request.body).get("stream_options") for request in upstream.requests]
    assert sent == [{"include_usage": True}, None, None, {"include_usage": True}]


async def test_an_error_that_merely_quotes_the_option_is_not_remembered() -> None:
    """Or all later answers of the model would come without their usage."""

    async def script(request: Request, peer: Peer) -> None:
        await peer.reply(
            b'{"error":{"message":"Bad prompt: what does stream_options mean?"}}', status="400 Bad Request"
        )

    async with talking(script) as (upstream, client):
        for _ in range(2):
            assert isinstance(await client.call(new_call(stream=True, body=b'{"model":"m"}', model="m")), Failure)
    sent = [json.loads(request.body).get("stream_options") for request in upstream.requests]
    assert sent == [{"include_usage": True}, None] * 2


async def test_a_refusal_of_the_callers_own_stream_options_is_the_callers() -> None:
    """And options that say nothing of usage are merged with ours."""

    async def script(request: Request, peer: Peer) -> None:
        await peer.reply(b'{"error":{"message":"Unknown parameter: stream_options"}}', status="400 Bad Request")

    async with talking(script) as (upstream, client):
        for options in ({"include_usage": False}, {"x": 1}):
            body = json.dumps({"model": "m", "stream_options": options}).encode()
            assert isinstance(await client.call(new_call(stream=True, body=body)), Failure)
    sent = [json.loads(request.body).get("stream_options") for request in upstream.requests]
    assert sent == [{"include_usage": False}, {"x": 1, "include_usage": True}, {"x": 1}]


async def test_headers_of_the_settings_go_along_and_a_query_stays() -> None:
    """Azure's key has a header of its own, which takes the place of ours where it is the same."""

    async def script(_: Request, peer: Peer) -> None:
        await peer.reply(OK)

    async with scripted(script) as upstream:
        for headers in ({"HTTP-Referer": "https://me"}, {"Authorization": "Basic eA=="}):
            settings = load(upstream_url=upstream.url + "?api-version=1", upstream_headers=headers)
            client = UpstreamClient.of(settings)
            assert isinstance(await client.call(new_call()), Answer)
            await client.close()
    first, second = upstream.requests
    assert (first.headers["http-referer"], first.headers["authorization"]) == ("https://me", f"Bearer {KEY}")
    assert second.headers["authorization"] == "Basic eA=="
    assert first.path == "/v1/chat/completions?api-version=1"
    assert first.headers["accept-encoding"] == "identity"


async def test_an_authority_of_ones_own_is_trusted_and_no_other(tmp_path: Path) -> None:
    """`STOCKPOT_UPSTREAM_CA`."""
    certificate = self_signed(tmp_path / "own.pem", "127.0.0.1")

    async def script(_: Request, peer: Peer) -> None:
        await peer.reply(OK)

    async with scripted(script, serving(certificate)) as upstream:
        for ca in (None, certificate):
            client = UpstreamClient.of(load(upstream_url=upstream.url, upstream_ca=ca))
            outcome = await client.call(new_call())
            await client.close()
            if ca is None:
                assert isinstance(outcome, Failure)
                assert (outcome.kind, outcome.code) == (Kind.NOT_SENT, "tls")
            else:
                assert isinstance(outcome, Answer)
    assert len(upstream.requests) == 1


# --- proxies ---------------------------------------------------------------------------------------------------------


async def test_the_proxy_of_the_environment_is_used_and_no_proxy_names_exceptions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """For HTTP the proxy is asked for the whole address."""

    async def script(_: Request, peer: Peer) -> None:
        await peer.reply(OK)

    async with scripted(script) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url.removesuffix("/v1"))
        monkeypatch.setenv("http_proxy", proxy.url.removesuffix("/v1"))
        for exception, asked in (("elsewhere", 1), ("upstream.invalid", 1)):
            monkeypatch.setenv("NO_PROXY", exception)
            monkeypatch.setenv("no_proxy", exception)
            settings = load(upstream_url="http://upstream.invalid/v1", upstream_plain_http=True)
            client = UpstreamClient.of(settings)
            outcome = await client.call(new_call(total=10))
            await client.close()
            assert isinstance(outcome, Answer) is (exception == "elsewhere")
            assert len(proxy.requests) == asked
    assert proxy.requests[0].path == "http://upstream.invalid/v1/chat/completions"


#: What a proxy sends for a tunnel that it does not make, and what is written of it.
_REFUSED_TUNNELS = (
    (b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n", "the proxy answered 407"),
    (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "the proxy's answer is no HTTP"),
    (b"\x15\x03\x01\x00\x02\x02\x16", "the proxy's answer is no HTTP"),
    (b"HTTP/1.1 200 Conn", "the proxy hung up"),
    (b"", "the proxy hung up"),
)


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_tunnel_carries_tls_and_a_proxy_that_gives_none_is_named(
    scheme: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nothing of the request has left then, so nothing was paid. The proxy may have TLS itself, and a user."""
    certificate = self_signed(tmp_path / "own.pem", "127.0.0.1")
    asked: list[bytes] = []
    refusal: bytes | None = None

    async def tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        if refusal is not None:
            writer.write(refusal)
            writer.close()
            return
        host, _, port = asked[-1].split()[1].decode().partition(":")
        behind, onward = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await asyncio.gather(_copy(reader, onward), _copy(behind, writer))

    async def script(_: Request, peer: Peer) -> None:
        await peer.reply(OK)

    tls = serving(certificate) if scheme == "https" else None
    server = await asyncio.start_server(tunnel, "127.0.0.1", 0, ssl=tls)
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, f"{scheme}://us%40er:p%3Ass@127.0.0.1:{server.sockets[0].getsockname()[1]}")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    async with server, scripted(script, serving(certificate)) as upstream:
        client = UpstreamClient.of(load(upstream_url=upstream.url, upstream_ca=certificate))
        for refusal, words in _REFUSED_TUNNELS:
            failure = await client.call(new_call())
            assert isinstance(failure, Failure)
            assert (failure.kind, failure.code) == (Kind.NOT_SENT, "proxy"), refusal
            assert words in failure.message
            with pytest.raises(Unreachable, match=re.escape(words)):
                await client.get_json("/v1/models")
        refusal = None
        assert isinstance(await client.call(new_call()), Answer)
        await client.close()
        assert all(head.startswith(b"CONNECT 127.0.0.1:") and KEY.encode() not in head for head in asked)
        user = b"Proxy-Authorization: Basic " + base64.b64encode(b"us@er:p:ss")
        assert all(user in head and b"\r\nAuthorization:" not in head for head in asked)
        assert user not in b"".join(str(request.headers).encode() for request in upstream.requests)


async def test_a_plain_request_that_a_proxy_refuses_was_not_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """407 is the proxy's own: the job waits, and nothing was paid."""

    async def script(_: Request, peer: Peer) -> None:
        await peer.reply(b"<h1>Proxy Authentication Required</h1>", status="407 Proxy Authentication Required")

    async with scripted(script) as proxy:
        for name in ("HTTP_PROXY", "http_proxy"):
            monkeypatch.setenv(name, proxy.url.removesuffix("/v1"))
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        client = UpstreamClient.of(load(upstream_url="http://upstream.invalid/v1", upstream_plain_http=True))
        failure = await client.call(new_call())
        await client.close()
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.code, failure.status) == (Kind.NOT_SENT, "proxy", 407)
    assert failure.timings.sent is None


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece_of_it := await reader.read(65_536):
        writer.write(piece_of_it)
        await writer.drain()
    writer.close()


# --- what only AI/ML API has, and what doctor asks -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "usd", "pays"),
    [
        (b'{"current_balance": 0.5, "currency": "USD"}', 0.5, True),
        (b'{"current_balance": 0}', 0.0, False),
        (b"<html>", None, None),
        (b"[]", None, None),
        (b'{"current_balance": "12"}', None, None),
        (b'{"current_balance": true}', None, None),
    ],
)
async def test_a_balance_is_read_only_where_it_is_one(body: bytes, usd: float | None, pays: bool | None) -> None:
    """Anything else says nothing, so that a call must find out."""

    async def script(_: Request, peer: Peer) -> None:
        await peer.reply(body)

    async with scripted(script) as upstream:
        client = new_client(upstream.url)
        balance = await Provider(client, lambda: KEY).balance()
        await client.close()
    assert (balance.usd, balance.pays) == (usd, pays)


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (("400 Bad Request", b'{"error":{"message":"messages: at least one"}}'), "ok"),
        (("404 Not Found", b'{"error":{"message":"The model stockpot-doctor does not exist"}}'), "ok"),
        (("401 Unauthorized", b'{"error":{"message":"Invalid API key"}}'), "ok"),
        (("404 Not Found", b'{"detail":"Not Found"}'), "failed"),
        (("405 Method Not Allowed", b""), "failed"),
        (("200 OK", b"<html><title>Welcome</title></html>"), "failed"),
        (("502 Bad Gateway", b""), "failed"),
    ],
)
async def test_doctor_makes_the_request_of_a_job(answer: tuple[str, bytes], outcome: str) -> None:
    """A list of models at one address says nothing of the endpoint at another."""

    async def script(request: Request, peer: Peer) -> None:
        if request.method == "GET":
            await peer.reply(b'{"data":[]}')
        else:
            await peer.reply(answer[1], status=answer[0])

    async with scripted(script) as upstream:
        found: dict[str, Any] = {
            check.name: check for check in await checks.upstream(load(upstream_url=upstream.url, api_key=KEY))
        }
    assert found["upstream"].outcome == outcome, found["upstream"]
    (asked,) = [request for request in upstream.requests if request.method == "POST"]
    assert asked.path == "/v1/chat/completions"
    assert asked.headers["authorization"] == f"Bearer {KEY}"
