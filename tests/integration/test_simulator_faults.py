"""The simulator's faults, seen from a raw socket: what arrives, and how the connection ends."""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.rig.waiting import eventually_async
from worker.simulator import Simulator, SimulatorConfig, oracle

pytestmark = pytest.mark.anyio

CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"


@pytest.fixture
async def url(anyio_backend: str) -> AsyncIterator[str]:
    simulator = Simulator(SimulatorConfig(first_token_delay=0, token_delay=0, charge_lag=0))
    yield await simulator.start()
    await simulator.stop()


@dataclass
class Seen:
    """A response as the socket saw it: head, body without chunk framing, how it ended."""

    status: int
    headers: dict[str, str]
    body: bytes
    end: str  # complete, fin (too early), rst, open (nothing more came)

    @property
    def text(self) -> str:
        """The content deltas of the stream, joined."""
        return "".join(
            choice["delta"].get("content") or "" for event in self.events() for choice in event.get("choices", [])
        )

    def events(self) -> list[Any]:
        """The JSON of each `data:` line, `[DONE]` left out."""
        lines = self.body.decode().replace("\r\n", "\n").replace("\r", "\n").split("\n")
        found = [line.removeprefix("data: ") for line in lines if line.startswith("data: {")]
        return [json.loads(line) for line in found]


def chat(script: str, *, stream: bool = True, **more: Any) -> dict[str, Any]:
    return {"model": f"m@sim:{script}", "messages": [{"role": "user", "content": "hi"}], "stream": stream, **more}


async def call(
    url: str, body: dict[str, Any], endpoint: str = CHAT, *, patience: float = 20, most: int = 1 << 30
) -> Seen:
    """One request; `patience` is how long to wait for more bytes, `most` how many to take."""
    raw, end = await exchange(url, body, endpoint, patience, most)
    head, _, rest = raw.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    status = int(first.split()[1]) if raw else 0
    if headers.get("transfer-encoding") == "chunked":
        rest, whole = dechunk(rest)
    else:
        whole = bool(raw) and len(rest) == int(headers.get("content-length", -1))
    return Seen(status, headers, rest, "complete" if whole and end != "rst" else end)


async def exchange(url: str, body: dict[str, Any], endpoint: str, patience: float, most: int) -> tuple[bytes, str]:
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    payload = json.dumps(body).encode()
    head = f"POST {endpoint} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer k\r\nConnection: close\r\n"
    writer.write(f"{head}Content-Length: {len(payload)}\r\n\r\n".encode() + payload)
    raw = bytearray()
    try:
        while len(raw) < most:
            piece = await asyncio.wait_for(reader.read(65536), patience)
            if not piece:
                return bytes(raw), "fin"
            raw += piece
    except ConnectionResetError:
        return bytes(raw), "rst"
    except TimeoutError:
        return bytes(raw), "open"
    finally:
        writer.close()
    return bytes(raw), "open"


def dechunk(raw: bytes) -> tuple[bytes, bool]:
    """The body of a chunked message, and whether its last chunk is there."""
    body = bytearray()
    while raw:
        size, found, rest = raw.partition(b"\r\n")
        if not found:
            break
        length = int(size, 16)
        if length == 0:
            return bytes(body), True
        body += rest[:length]
        raw = rest[length + 2 :]
    return bytes(body), False


def tokens(body: dict[str, Any], count: int) -> str:
    """The first tokens of the answer."""
    return "".join(oracle.expected(body).choices[0].tokens[:count])


@pytest.mark.parametrize(
    ("script", "status", "word"),
    [
        ("400", 400, "Body validation error"),
        ("401", 401, "Invalid API key"),
        ("403credits", 403, "You've run out of credits"),
        ("404", 404, "not found"),
        ("429", 429, "Too Many Requests"),
        ("status=503", 503, "Service unavailable"),
        ("504", 504, "Generation timeout"),
        ("maintenance", 500, "The model is under maintenance"),
    ],
)
async def test_a_status_comes_with_the_providers_words(url: str, script: str, status: int, word: str) -> None:
    """A 429 has no `Retry-After` unless the script gives it one."""
    seen = await call(url, chat(script))
    error = json.loads(seen.body)
    assert (seen.status, int(error["statusCode"])) == (status, status)
    assert word in error["message"]
    assert "retry-after" not in seen.headers
    assert seen.headers["x-inference-id"]


async def test_retry_headers_come_as_the_script_says(url: str) -> None:
    """Seconds, milliseconds, a date, and whether to try again at all."""
    assert (await call(url, chat("429+ra=2"))).headers["retry-after"] == "2"
    assert (await call(url, chat("429+ra=NaN"))).headers["retry-after"] == "NaN"
    assert (await call(url, chat("429+ram=50"))).headers["retry-after-ms"] == "50"
    assert parsedate_to_datetime((await call(url, chat("503+rad=-60"))).headers["retry-after"]).tzinfo is not None
    refused = await call(url, chat("should-retry=false"))
    assert (refused.status, refused.headers["x-should-retry"]) == (500, "false")


async def test_an_error_may_have_openais_shape(url: str) -> None:
    """`openai` with a status."""
    error = json.loads((await call(url, chat("429+openai"))).body)["error"]
    assert set(error) == {"message", "type", "param", "code"}


async def test_a_redirect_names_its_place(url: str) -> None:
    """307, so that a client that follows it would send the body and the key there."""
    seen = await call(url, chat("redirect=http://127.0.0.1:9/canary"))
    assert (seen.status, seen.headers["location"]) == (307, "http://127.0.0.1:9/canary")


async def test_attempts_walk_through_the_script(url: str) -> None:
    """One step per attempt for the same body; the last one repeats."""
    body = chat("503,429,ok")
    assert [(await call(url, body)).status for _ in range(5)] == [503, 429, 200, 200, 200]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(("script", "end"), [("hangup", "fin"), ("rst", "rst")])
async def test_a_connection_may_end_without_a_byte(url: str, script: str, end: str, stream: bool) -> None:
    """After the request was read."""
    seen = await call(url, chat(script, stream=stream))
    assert (seen.status, seen.body, seen.end) == (0, b"", end)


@pytest.mark.parametrize("stream", [True, False])
async def test_a_reset_may_come_after_the_headers(url: str, stream: bool) -> None:
    """The status is there, the body is not."""
    seen = await call(url, chat("rst@headers", stream=stream))
    assert (seen.status, seen.body, seen.end) == (200, b"", "rst")


@pytest.mark.parametrize(
    ("script", "count", "end"),
    [("cut@3", 3, "fin"), ("cut@0", 0, "fin"), ("end@3", 3, "complete"), ("rst@3", 3, "rst"), ("stall@3", 3, "open")],
)
async def test_a_stream_may_end_after_some_tokens(url: str, script: str, count: int, end: str) -> None:
    """Never with a finish or `[DONE]`; `end` is polite, the others are not."""
    body = chat(script)
    seen = await call(url, body, patience=0.5 if end == "open" else 20)
    assert seen.end == end
    assert seen.text == tokens(body, count)
    assert b"[DONE]" not in seen.body
    assert not any(choice["finish_reason"] for event in seen.events() for choice in event["choices"])


async def test_a_responses_stream_may_be_cut_too(url: str) -> None:
    """After the same count of tokens."""
    body = {"model": "m@sim:cut@5", "input": "hi", "stream": True}
    seen = await call(url, body, RESPONSES)
    deltas = [event["delta"] for event in seen.events() if event["type"] == "response.output_text.delta"]
    assert (seen.end, "".join(deltas)) == ("fin", tokens(body, 5))


@pytest.mark.parametrize(
    ("script", "end"), [("cut@1", "fin"), ("end@1", "complete"), ("rst@1", "rst"), ("stall@1", "open")]
)
async def test_an_answer_in_one_piece_breaks_in_its_middle(url: str, script: str, end: str) -> None:
    """Half of the JSON arrives."""
    seen = await call(url, chat(script, stream=False), patience=0.5 if end == "open" else 20)
    assert seen.end == end
    assert seen.body.startswith(b'{"id":')
    with pytest.raises(json.JSONDecodeError):
        json.loads(seen.body)


@pytest.mark.parametrize("stream", [True, False])
async def test_headers_may_be_all_that_comes(url: str, stream: bool) -> None:
    """`silent` holds the connection open."""
    seen = await call(url, chat("silent", stream=stream), patience=0.3)
    assert (seen.status, seen.body, seen.end) == (200, b"", "open")


@pytest.mark.parametrize(("stream", "ping"), [(True, b": ping\n\n"), (False, b"\n")])
async def test_pings_never_end(url: str, stream: bool, ping: bytes) -> None:
    """Bytes come, an answer does not."""
    seen = await call(url, chat("pings=1", stream=stream), most=1000)
    assert seen.end == "open"
    assert seen.body.startswith(ping * 10)


async def test_a_refusal_may_have_any_body_and_an_answer_many_heads(url: str) -> None:
    """What explains a refusal is as various as the proxies before a provider."""
    for body, kind in (
        ("<title>Busy</title>", "text/html"),
        ('{"detail":"no"}', "application/json"),
        ("no", "text/plain"),
    ):
        seen = await call(url, chat(f"503+body={body}"))
        assert (seen.status, seen.body.decode(), seen.headers["content-type"].partition(";")[0]) == (503, body, kind)
    seen = await call(url, chat("manyheads=300"))
    assert (seen.status, len([name for name in seen.headers if name.startswith("x-sim-")])) == (200, 300)


async def test_done_may_be_missing_and_so_may_the_finish(url: str) -> None:
    """`nodone` is finished without the word, `donenofinish` the word without being finished."""
    seen = await call(url, chat("nodone"))
    assert b"[DONE]" not in seen.body
    assert seen.events()[-2]["choices"][0]["finish_reason"] == "stop"
    seen = await call(url, chat("donenofinish"))
    assert seen.body.endswith(b"data: [DONE]\n\n")
    assert not any(choice["finish_reason"] for event in seen.events() for choice in event["choices"])


async def test_errors_may_come_inside_a_stream(url: str) -> None:
    """As an event of its own, as OpenAI's error object, as a finish reason."""
    body = chat("error@2")
    seen = await call(url, body)
    assert seen.text == tokens(body, 2)
    assert seen.events()[-1]["error"]["type"] == "server_error"
    assert (await call(url, chat("errorevent@2"))).body.count(b"event: error\ndata: ") == 1
    finishes = [c["finish_reason"] for e in (await call(url, chat("finisherror"))).events() for c in e["choices"]]
    assert finishes[-1] == "error"
    failed = await call(url, {"model": "m@sim:finisherror", "input": "hi", "stream": True}, RESPONSES)
    assert failed.events()[-1]["type"] == "response.failed"


@pytest.mark.parametrize("script", ["crlf", "onebyte+tokens=3", "comments", "bom", "u2028", "usagelast", "nousage"])
async def test_the_same_answer_may_be_written_differently(url: str, script: str) -> None:
    """The text is what the oracle says under every way of writing."""
    body = chat(script)
    assert (await call(url, body)).text == oracle.expected_text(CHAT, body)


async def test_lines_may_end_in_cr_alone_and_spread_over_several(url: str) -> None:
    """Both are what the specification of server-sent events allows."""
    seen = await call(url, chat("cr"))
    assert b"\n" not in seen.body
    assert seen.body.endswith(b"data: [DONE]\r\r")
    seen = await call(url, chat("multiline"))
    first = seen.body.split(b"\n\n")[0].split(b"\n")
    assert len(first) > 5
    assert json.loads(b"\n".join(line.removeprefix(b"data: ") for line in first))["object"] == "chat.completion.chunk"


async def test_usage_may_ride_on_the_last_choice(url: str) -> None:
    """`usagelast` with a request that asks for usage: no chunk of its own."""
    seen = await call(url, chat("usagelast", stream_options={"include_usage": True}))
    with_usage = [event for event in seen.events() if event.get("usage")]
    assert [event["choices"][0]["finish_reason"] for event in with_usage] == ["stop"]


async def test_a_charge_may_go_unmentioned(url: str) -> None:
    """Neither in the headers nor in the body."""
    seen = await call(url, chat("nocost", stream=False))
    assert "meta" not in json.loads(seen.body)
    assert not any(name.startswith("x-aimlapi") for name in seen.headers)
    assert b"meta" not in (await call(url, chat("nocost"))).body


@pytest.mark.parametrize("stream", [True, False])
async def test_json_that_hurts_is_there(url: str, stream: bool) -> None:
    """Depth, numbers that are none, digits, NUL and a lone surrogate."""
    assert b"[" * 100_000 in (await call(url, chat("deep", stream=stream))).body
    assert b"[NaN,Infinity,-Infinity,1e999]" in (await call(url, chat("nan", stream=stream))).body
    assert b"9" * 5000 in (await call(url, chat("bigint", stream=stream))).body
    assert b"\\u0000" in (await call(url, chat("nul", stream=stream))).body
    assert b"\\ud83c" in (await call(url, chat("surrogate", stream=stream))).body
    for script in ("nul", "surrogate"):
        body = chat(script)
        assert (await call(url, body)).text == oracle.expected_text(CHAT, body)


@pytest.mark.parametrize("stream", [True, False])
async def test_bytes_may_be_no_utf8(url: str, stream: bool) -> None:
    """In the middle of the text."""
    with pytest.raises(UnicodeDecodeError):
        (await call(url, chat("badutf8@1", stream=stream))).body.decode()


@pytest.mark.parametrize("stream", [True, False])
async def test_a_line_may_be_big_and_still_be_json(url: str, stream: bool) -> None:
    """A client without a limit would get its answer."""
    body = chat("bigline=300000", stream=stream)
    seen = await call(url, body)
    assert max(len(line) for line in seen.body.split(b"\n")) > 300_000
    assert seen.text == oracle.expected_text(CHAT, body) if stream else json.loads(seen.body)["choices"]


@pytest.mark.parametrize("stream", [True, False])
async def test_an_answer_may_be_endless(url: str, stream: bool) -> None:
    """Until the client leaves."""
    assert len((await call(url, chat("endless", stream=stream), most=3_000_000)).body) > 2_000_000


async def test_gzip_grows_when_it_is_opened(url: str) -> None:
    """A few kilobytes become two megabytes."""
    seen = await call(url, chat("gzip=2", stream=False))
    assert seen.headers["content-encoding"] == "gzip"
    assert len(seen.body) < 10_000
    assert len(json.loads(zlib.decompress(seen.body, 31))["sim_big"]) == 2 * 1024 * 1024


async def test_the_content_may_be_wrong(url: str) -> None:
    """HTML, nothing, JSON for a stream, a stream for JSON, another type, 201."""
    seen = await call(url, chat("html"))
    assert (seen.status, seen.headers["content-type"], seen.body[:9]) == (200, "text/html; charset=utf-8", b"<!DOCTYPE")
    seen = await call(url, chat("empty"))
    assert (seen.status, seen.body, seen.end) == (200, b"", "complete")
    seen = await call(url, chat("jsonforstream"))
    assert seen.headers["content-type"].startswith("application/json")
    assert json.loads(seen.body)["choices"]
    seen = await call(url, chat("streamforjson", stream=False))
    assert seen.headers["content-type"].startswith("text/event-stream")
    assert seen.body.endswith(b"data: [DONE]\n\n")
    assert (await call(url, chat("wrongtype"))).headers["content-type"].startswith("text/plain")
    assert (await call(url, chat("status201", stream=False))).status == 201


async def test_held_calls_wait_for_the_release(anyio_backend: str) -> None:
    """Both kinds, as soon as they are seen, wherever they are; what comes later waits for the next one."""
    simulator = Simulator(SimulatorConfig(first_token_delay=0, token_delay=0))
    url = await simulator.start()
    held = [asyncio.create_task(call(url, chat("hold", stream=stream))) for stream in (True, False)]

    async def both_there() -> bool:
        return simulator.state is not None and simulator.state.stats.in_flight == 2

    await eventually_async(both_there)
    assert not any(task.done() for task in held)
    assert simulator.state is not None
    simulator.state.release()
    assert [(await task).end for task in held] == ["complete", "complete"]
    assert simulator.state.stats.in_flight == 0
    assert simulator.state.stats.max_in_flight == 2
    later = asyncio.create_task(call(url, chat("hold")))

    async def one_more_came() -> bool:
        return simulator.state is not None and simulator.state.stats.requests == 3

    await eventually_async(one_more_came)
    assert not later.done()
    simulator.state.release()
    assert (await later).end == "complete"
    await simulator.stop()
