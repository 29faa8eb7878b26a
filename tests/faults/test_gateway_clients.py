"""Clients that stall, vanish and race at the gateway: one call stays one job and one bill (G15-G20)."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.rig import rawhttp
from tests.rig.gateway import gateway_process
from tests.rig.ports import free_port
from tests.rig.procs import Process
from tests.rig.stage import SetStage, Stage
from tests.rig.waiting import eventually
from tests.rig.witness import Witness

pytestmark = pytest.mark.fault

#: An answer that streams for about two seconds.
SLOW = "slow=50"
#: One that is larger than all the buffers between the gateway and a client.
LARGE = "tokens=6000+slow=0"


@pytest.fixture
def processes() -> Iterator[ExitStack]:
    """What a test starts, and ends with it."""
    with ExitStack() as stack:
        yield stack


def answered(gateway: Process, **what: Any) -> list[dict[str, Any]]:
    """The lines of a gateway's log that have these values."""
    lines = [json.loads(line) for line in gateway.output.splitlines() if line.startswith("{")]
    return [line for line in lines if all(line.get(name) == value for name, value in what.items())]


def dial(
    port: int, body: dict[str, Any], *, keep_back: int = 0, key: str = "once", read_bytes: int = 0
) -> socket.socket:
    """A connection on which a call was sent, but for the last bytes of its body."""
    content = json.dumps(body).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nIdempotency-Key: {key}\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    )
    sock = socket.socket()
    if read_bytes:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, read_bytes)
    sock.settimeout(60)
    sock.connect(("127.0.0.1", port))
    sock.sendall(head.encode() + content[: len(content) - keep_back])
    return sock


def reset(sock: socket.socket) -> None:
    """End a connection as the kernel does for a process that was killed with data unread: RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def sdk_at(port: int, processes: ExitStack) -> openai.OpenAI:
    return processes.enter_context(openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="any", timeout=100))


def one_job(on: Stage, text: str | None) -> None:
    [job] = on.rows("SELECT id, status FROM jobs_v")
    assert (job["status"], on.pot.get(job["id"]).text) == ("completed", text)
    assert len(on.calls()) == 1, "somebody paid twice"
    on.submitted.append(job["id"])
    on.check()


@pytest.mark.long
def test_a_head_a_body_and_an_upload_stop_in_the_middle(stage: SetStage, processes: ExitStack, tmp_path: Path) -> None:
    """G15: each is given up in its time and leaves nothing, and others are served meanwhile."""
    on = stage("postgres", workers=1)
    port = free_port()
    gateway = processes.enter_context(gateway_process(on, tmp_path, port))
    kind = "Content-Type: multipart/form-data; boundary=b"
    part = b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n' + b"x" * 2_000_000
    with Witness("what was begun did not come in time") as witness:
        if witness.faults_on:
            url = f"http://127.0.0.1:{port}"
            head = processes.enter_context(rawhttp.dial(url, b"POST /v1/chat/completions HTTP/1.1\r\nHost: local"))
            body = processes.enter_context(dial(port, on.body(), keep_back=20))
            file = rawhttp.request("POST", "/v1/files", None, kind, "Content-Length: 3000000") + part
            upload = processes.enter_context(rawhttp.dial(url, file))
        done = sdk_at(port, processes).chat.completions.create(**on.body())
        if witness.faults_on:
            for slow in (body, upload):
                late = rawhttp.reply(slow)
                assert (late.status, late.error["code"]) == (408, "timeout")
            assert head.recv(1) == b""
        witness.saw(len(answered(gateway, status=408)) == 2)
        assert list(sdk_at(port, processes).files.list()) == []
    eventually(lambda: on.count(table="file_pieces") == 0, what="the pieces are removed")
    one_job(on, done.choices[0].message.content)


def test_a_client_vanishes_in_the_middle_of_its_body(stage: SetStage, processes: ExitStack, tmp_path: Path) -> None:
    """G15, G16: nothing is accepted of half a body, and a whole one later is a call of its own."""
    on = stage("postgres", workers=1)
    port = free_port()
    gateway = processes.enter_context(gateway_process(on, tmp_path, port))
    with Witness("the request ended before its body did") as witness:
        if witness.faults_on:
            reset(dial(port, on.body(), keep_back=20))
            eventually(lambda: answered(gateway, route="/chat/completions"), what="the half body is refused")
            assert answered(gateway, route="/chat/completions")[0]["status"] >= 400
            witness.saw(answered(gateway, route="/chat/completions"))
        assert on.count() == 0
        done = sdk_at(port, processes).chat.completions.create(**on.body())
    one_job(on, done.choices[0].message.content)


def test_a_reader_stops_reading_and_comes_back(stage: SetStage, processes: ExitStack, tmp_path: Path) -> None:
    """G17: it is cut off, its job goes on, and its repeat gets the whole answer."""
    on = stage("postgres", workers=1)
    port = free_port()
    gateway = processes.enter_context(gateway_process(on, tmp_path, port, gateway_send_seconds=2))
    body = on.body(LARGE, stream=True)
    with Witness("the gateway cut a reader off that did not read") as witness:
        if witness.faults_on:
            stalled = dial(port, body, read_bytes=4_096)
            processes.callback(stalled.close)
            eventually(lambda: answered(gateway, event="slow_reader_cut_off"), what="the reader is cut off")
        url, headers = f"http://127.0.0.1:{port}/v1/chat/completions", {"Idempotency-Key": "once"}
        whole = httpx.post(url, json=body, headers=headers, timeout=100).text
        witness.saw(answered(gateway, event="slow_reader_cut_off"))
    assert whole.endswith("data: [DONE]\n\n")
    chunks = [json.loads(line.removeprefix("data: ")) for line in whole.split("\n\n") if line.startswith("data: {")]
    one_job(on, "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks if chunk["choices"]))


def test_a_client_is_killed_in_the_middle_of_its_stream(stage: SetStage, processes: ExitStack, tmp_path: Path) -> None:
    """G18: its connection is reset; the call goes on, and whoever repeats it gets the answer from its start."""
    on = stage("postgres", workers=1)
    port = free_port()
    processes.enter_context(gateway_process(on, tmp_path, port))
    body = on.body(SLOW, stream=True)
    with Witness("the client's connection was reset while the upstream streamed to the gateway") as witness:
        if witness.faults_on:
            sock = dial(port, body)
            came = b""
            while b"chat.completion.chunk" not in came:
                piece = sock.recv(65_536)
                assert piece, came
                came += piece
            reset(sock)
            metrics = f"http://127.0.0.1:{port}/metrics"
            eventually(lambda: "stockpot_open_streams 0.0" in httpx.get(metrics).text, what="the stream is closed")
            witness.saw(on.running_calls())
        headers = {"Idempotency-Key": "once"}
        raw: Any = sdk_at(port, processes).chat.completions.with_raw_response.create(**body, extra_headers=headers)
        chunks = list(raw.parse())
        assert not witness.faults_on or raw.headers["stockpot-joined"] == "true"
    one_job(on, "".join(chunk.choices[0].delta.content or "" for chunk in chunks))


def test_one_of_two_gateways_is_killed_while_equal_calls_come_to_both(
    stage: SetStage, processes: ExitStack, tmp_path: Path
) -> None:
    """G19: whichever of them accepted the call, it is one; who was at the dead one goes to the other."""
    on = stage("postgres", workers=1)
    ports = (free_port(), free_port())
    gateways = [
        processes.enter_context(gateway_process(on, tmp_path, port, f"gateway-{number}"))
        for number, port in enumerate(ports)
    ]
    body, headers = on.body(SLOW), {"Idempotency-Key": "once"}

    def call(number: int) -> str:
        with ExitStack() as mine:
            try:
                done = sdk_at(ports[number % 2], mine).chat.completions.create(**body, extra_headers=headers)
            except openai.APIConnectionError:
                done = sdk_at(ports[1], mine).chat.completions.create(**body, extra_headers=headers)
            return str(done.choices[0].message.content)

    with Witness("a gateway died of SIGKILL with calls that waited") as witness, ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(call, number) for number in range(8)]
        eventually(on.running_calls, what="the upstream is called")
        witness.inject(gateways[0].kill9)
        texts = {one.result(120) for one in calls}
        witness.saw(gateways[0].returncode == -9 and texts)
    assert len(texts) == 1
    one_job(on, texts.pop())


def test_the_log_of_a_stream_is_lost_before_its_reader_comes_back(
    stage: SetStage, processes: ExitStack, tmp_path: Path
) -> None:
    """G20: the stream goes on from the stored answer, behind what the reader has, to an equal object."""
    on = stage("postgres", workers=1)
    port = free_port()
    processes.enter_context(gateway_process(on, tmp_path, port))
    sdk = sdk_at(port, processes)
    events: list[Any] = list(
        sdk.responses.create(model="openai/gpt-4o-mini@sim:ok", input="hi", background=True, stream=True)
    )
    final = events[-1].response
    with Witness("the log of the stream was in Redis no more") as witness:
        witness.inject(lambda: on.valkey.client().flushall())
        witness.saw(not on.valkey.client().exists(f"stockpot:job:{final.id.replace('resp_', 'job_')}"))
        rest: list[Any] = list(sdk.responses.retrieve(final.id, stream=True, starting_after=2))
    numbers = [event.sequence_number for event in rest]
    assert numbers == sorted(set(numbers)) and numbers[0] > 2
    assert rest[-1].type == "response.completed" and rest[-1].response == final == sdk.responses.retrieve(final.id)
    assert len(on.calls()) == 1
