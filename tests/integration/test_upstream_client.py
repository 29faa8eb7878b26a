"""The upstream client against a real socket: whole answers, error statuses, look-ups."""

from __future__ import annotations

import gc
import gzip
import json
from decimal import Decimal

import aiohttp
import pytest

from tests.rig.scripted_upstream import JSON, SSE, Peer, Request, scripted
from tests.rig.upstream_calls import KEY, OK, new_call, new_client, one, talking
from worker.base.errors import Unreachable
from worker.upstream.call import CHAT, Call
from worker.upstream.exchange import Exchange, Watch
from worker.upstream.outcome import Answer, Failure, Kind

pytestmark = pytest.mark.anyio


async def test_a_whole_answer_comes_back_byte_for_byte_with_ids_usage_cost_and_times() -> None:
    """The ordinary call, and exactly what was sent for it."""

    async def script(_: Request, peer: Peer) -> None:
        ids = "x-inference-id: inf-1\r\nx-request-id: req-1\r\nx-aimlapi-usd-spent: 0.00012\r\nset-cookie: a=b\r\n"
        await peer.reply(OK, JSON + ids)

    async with talking(script) as (upstream, client):
        call = new_call(body=b'{ "model": "m" }')
        answer = await client.call(call)
        await client.call(call)
    assert isinstance(answer, Answer)
    assert (answer.status, answer.body, answer.text, answer.finish_reason) == (200, OK, "hi", "stop")
    assert (answer.provider_id, answer.model) == ("chatcmpl-1", "gpt-5.1")
    assert (answer.inference_id, answer.request_id, answer.cost_usd) == ("inf-1", "req-1", Decimal("0.00012"))
    assert answer.usage is not None
    assert answer.usage.total_tokens == 4
    times = answer.timings
    assert times.sent is not None and times.headers is not None and times.total is not None
    assert times.sent <= times.headers <= times.total
    first, second = upstream.requests
    assert (first.method, first.path, first.body) == ("POST", "/v1/chat/completions", b'{ "model": "m" }')
    assert first.headers["authorization"] == f"Bearer {KEY}"
    assert first.headers["x-client-request-id"] == "job_1.1"
    assert first.headers["accept-encoding"] == "identity"
    assert first.headers["content-type"] == "application/json"
    assert "cookie" not in second.headers
    assert upstream.connections == 1, "the connection is used again"


async def test_201_is_a_success_and_no_key_sends_no_header() -> None:
    """The provider documents neither."""

    async def script(_: Request, peer: Peer) -> None:
        await peer.reply(OK, status="201 Created")

    async with talking(script) as (upstream, client):
        answer = await client.call(Call(CHAT, b"{}", False, "j.1", None, 10))
    assert isinstance(answer, Answer)
    assert answer.status == 201
    assert "authorization" not in upstream.requests[0].headers


@pytest.mark.parametrize("how", ["whole", "stream", "refused"])
async def test_nothing_of_an_answered_call_is_left_to_the_collector_of_cycles(how: str) -> None:
    """A worker's bulk calls left forty objects each, and all streams stood still while those were found."""
    answers = {
        "whole": (OK, JSON, "200 OK"),
        "stream": (
            b'data: {"choices":[{"delta":{"content":"hi"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n',
            SSE,
            "200 OK",
        ),
        "refused": (b'{"error": {"message": "no"}}', JSON, "503 No"),
    }

    async def script(_: Request, peer: Peer) -> None:
        await peer.reply(*answers[how])

    async with talking(script) as (_, client):
        await client.call(new_call(stream=how == "stream"))
        gc.collect()
        gc.disable()
        try:
            await client.call(new_call(stream=how == "stream"))
            left = [one for one in gc.get_objects() if isinstance(one, (Exchange, Watch, aiohttp.ClientResponse))]
        finally:
            gc.enable()
    assert left == []


@pytest.mark.parametrize(
    ("status", "kind"), [(400, Kind.TERMINAL), (401, Kind.ACCOUNT), (429, Kind.BUSY), (503, Kind.RETRYABLE)]
)
@pytest.mark.parametrize("stream", [False, True])
async def test_an_error_status_is_classified_with_the_upstreams_words(status: int, kind: Kind, stream: bool) -> None:
    """Also for a stream; and the key that the body echoes is gone."""

    async def script(request: Request, peer: Peer) -> None:
        said = {"error": {"message": f"no: {request.headers['authorization']}"}}
        await peer.reply(json.dumps(said).encode(), JSON + "retry-after: 7\r\nx-inference-id: i\r\n", f"{status} No")

    failure = await one(script, new_call(stream=stream))
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.status, failure.retry_after, failure.inference_id) == (kind, status, 7, "i")
    assert failure.message == "no: Bearer ***"
    assert KEY.encode() not in (failure.body or b"")
    assert failure.timings.total is not None


async def test_an_endless_error_body_is_not_read_to_its_end() -> None:
    """64 kB are enough for an explanation."""

    async def script(_: Request, peer: Peer) -> None:
        await peer.head(JSON + "content-length: 1000000000\r\n", "500 No")
        while True:
            await peer.send(b"x" * 65_536)

    failure = await one(script, new_call())
    assert isinstance(failure, Failure)
    assert failure.kind is Kind.RETRYABLE
    assert len(failure.body or b"") == 8_192


async def test_a_redirect_is_not_followed_and_the_key_stays_here() -> None:
    """The canary must never be asked."""
    asked: list[Request] = []

    async def canary(request: Request, peer: Peer) -> None:
        asked.append(request)
        await peer.reply(OK)

    async with scripted(canary) as other:

        async def script(_: Request, peer: Peer) -> None:
            await peer.reply(b"", f"location: {other.url}/chat/completions\r\n", "307 Temporary Redirect")

        failure = await one(script, new_call())
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.code, failure.status) == (Kind.TERMINAL, "redirect", 307)
    assert asked == []


@pytest.mark.parametrize("stream", [False, True])
async def test_a_compressed_bomb_ends_at_the_limit(stream: bool) -> None:
    """20 kB on the wire would be 20 MB in memory."""
    bomb = gzip.compress(b"{" + b"0" * 20_000_000)

    async def script(_: Request, peer: Peer) -> None:
        await peer.reply(bomb, JSON + "content-encoding: gzip\r\n")

    failure = await one(script, new_call(stream=stream))
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.error_class) == (Kind.TERMINAL, "too_large")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_compression_that_nobody_can_read_is_named(stream: bool) -> None:
    """It was not asked for."""

    async def script(_: Request, peer: Peer) -> None:
        await peer.reply(b"\x28\xb5\x2f\xfd\x00\x01", JSON + "content-encoding: zstd\r\n")

    failure = await one(script, new_call(stream=stream))
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.code) == (Kind.RETRYABLE, "wrong_content")
    assert "zstd" in failure.message


@pytest.mark.parametrize("stream", [False, True])
async def test_an_endless_answer_ends_at_the_limit(stream: bool) -> None:
    """Neither a body nor a line may fill the memory."""

    async def script(_: Request, peer: Peer) -> None:
        await peer.head((SSE if stream else JSON) + "transfer-encoding: chunked\r\n")
        while True:
            await peer.chunk(b"data: x" + b"x" * 65_536)

    failure = await one(script, new_call(stream=stream), max_response_bytes=3_000_000)
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.error_class) == (Kind.TERMINAL, "too_large")


async def test_a_look_up_returns_status_headers_and_body() -> None:
    """Logs and billing stand beside /v1, models below it."""

    async def script(_: Request, peer: Peer) -> None:
        await peer.reply(b"[]", JSON + 'ETag: "x"\r\n')

    async with talking(script) as (upstream, client):
        status, headers, body = await client.get_json("/v2/logs", KEY, {"limit": 5})
        await client.get_json("/v1/models")
    assert (status, headers["etag"], body) == (200, '"x"', b"[]")
    assert [request.path for request in upstream.requests] == ["/v2/logs?limit=5", "/v1/models"]
    assert "authorization" not in upstream.requests[1].headers


async def test_a_look_up_says_when_nobody_answers() -> None:
    """One error for every reason."""

    async def script(_: Request, peer: Peer) -> None:
        peer.reset()

    async with talking(script) as (_, client):
        with pytest.raises(Unreachable):
            await client.get_json("/v2/logs", KEY)


@pytest.mark.parametrize(
    ("base", "path", "url"),
    [
        ("https://h/v1", "/v1/chat/completions", "https://h/v1/chat/completions"),
        ("https://h/v1/", "/v1/responses", "https://h/v1/responses"),
        ("https://h:8000", "/v1/responses", "https://h:8000/v1/responses"),
        ("https://h/api/v1", "/v1/responses", "https://h/api/v1/responses"),
        ("https://h/v1beta/openai", "/v1/chat/completions", "https://h/v1beta/openai/chat/completions"),
        ("https://h/v1", "/v2/logs", "https://h/v2/logs"),
        ("https://h", "/v2/logs", "https://h/v2/logs"),
        ("https://h/api/v1", "/models/metrics", "https://h/api/models/metrics"),
    ],
)
async def test_paths_join_any_base_as_the_official_sdk_would(base: str, path: str, url: str) -> None:
    """A base is what the SDK takes, with or without /v1."""
    assert new_client(base).url(path) == url


async def test_a_key_that_no_header_can_carry_is_the_accounts_trouble() -> None:
    """A newline at the end of a key file must not become a crash or a second header."""

    async def script(_: Request, peer: Peer) -> None:
        await peer.reply(OK)

    async with talking(script) as (upstream, client):
        failure = await client.call(Call(CHAT, b"{}", False, "j.1", "sk-1\r\nx: y", 10))
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.error_class) == (Kind.ACCOUNT, "authentication")
    assert upstream.requests == []


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (JSON, b"[" + b"1," * 1_000_000 + b"1]"),
        (JSON + "content-encoding: gzip\r\n", gzip.compress(b"[" + b"1," * 1_000_000 + b"1]")),
        (JSON, b"\x28\xb5\x2f\xfd\x00"),
    ],
)
async def test_a_look_up_is_bounded_whatever_it_is_packed_in(headers: str, body: bytes) -> None:
    """Half an answer would be read as a whole one."""

    async def script(_: Request, peer: Peer) -> None:
        await peer.reply(body, headers)

    async with talking(script, max_response_bytes=1_000_000) as (_, client):
        with pytest.raises(Unreachable):
            await client.get_json("/v2/logs", KEY)
