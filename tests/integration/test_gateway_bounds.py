"""The gateway as a server: slow heads, bodies and readers, too many connections, clients that go, races of equal calls."""

from __future__ import annotations

import logging
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from api_schemas import jsontext
from tests.factories import rows
from tests.fakes import Provider, Workplace, workplace
from tests.rig.gateway import Gateway
from tests.rig.waiting import eventually
from worker.gateway import bodies, connections

MODEL = "openai/gpt-4o-mini"


def body(script: str = "ok", **more: Any) -> dict[str, Any]:
    return {"model": f"{MODEL}@sim:{script}", "messages": [{"role": "user", "content": "hi"}], **more}


def dialled(gateway: Gateway, sent: bytes, *, receive_bytes: int | None = None) -> socket.socket:
    """A connection that has sent these bytes."""
    host, port = gateway.url.removeprefix("http://").split(":")
    sock = socket.socket()
    if receive_bytes is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    sock.settimeout(60)
    sock.connect((host, int(port)))
    sock.sendall(sent)
    return sock


def post(content: bytes, length: int | None = None, headers: str = "") -> bytes:
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length or len(content)}\r\n{headers}\r\n"
    return head.encode() + content


def everything(sock: socket.socket) -> bytes:
    """All that comes until the other side closes."""
    with sock:
        received = b""
        while piece := sock.recv(65_536):
            received += piece
        return received


def test_a_head_that_does_not_come_whole_is_given_up(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.2)
    assert everything(dialled(gateway, b"POST /v1/chat/completions HTTP/1.1\r\nHost: local")) == b""
    assert everything(dialled(gateway, b"")) == b""


def test_a_head_that_is_too_large_is_refused(gateway: Gateway) -> None:
    sent = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nX-Long: " + b"x" * 100_000
    with dialled(gateway, b"") as sock:
        try:
            sock.sendall(sent)
            assert b" 400 " in everything(sock)
        except ConnectionError:
            pass  # it was closed before all of it was sent


def test_a_body_that_does_not_come_is_given_up(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "IDLE_SECONDS", 0.2)
    with dialled(gateway, post(b"{", length=100)) as sock:
        assert b" 408 " in sock.recv(65_536)


def test_a_client_that_goes_in_the_middle_of_its_body_leaves_no_job(gateway: Gateway, served: Workplace) -> None:
    dialled(gateway, post(jsontext.dumps(body())[:-10], length=500)).close()
    with gateway.http() as http:
        assert http.post("/v1/chat/completions", json=body()).status_code == 200
    assert rows(served.database, "SELECT count(*) AS n FROM jobs")[0]["n"] == 1


def test_a_reader_that_does_not_read_is_cut_off_and_its_job_goes_on(
    provider: Provider, sqlite_url: str, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What it costs until then is bounded: nothing is made that is not sent."""
    with workplace(provider, sqlite_url, redis_url, gateway_send_seconds=0.5) as place:
        place.start()
        asked = post(jsontext.dumps(body("tokens=20000+slow=0", stream=True)))
        # What is asked for stays true once it was: a slow machine may not look while the stream is open.
        with (
            caplog.at_level(logging.INFO),
            Gateway(place.settings) as gateway,
            dialled(gateway, asked, receive_bytes=4_096) as sock,
        ):
            eventually(lambda: "slow_reader_cut_off" in caplog.text, what="the stream is cut off")
            assert not everything(sock).endswith(b"0\r\n\r\n")  # no clean end, so no client takes it for one
            [job] = rows(place.database, "SELECT id FROM jobs")
            assert place.ended(job["id"]).status == "completed"


def test_more_connections_than_it_may_hold_are_asked_to_come_back(
    provider: Provider, sqlite_url: str, redis_url: str
) -> None:
    with workplace(provider, sqlite_url, redis_url, gateway_connections=2) as place:
        place.start()
        with Gateway(place.settings) as gateway, gateway.http() as http, ThreadPoolExecutor(2) as pool:
            held = [pool.submit(http.post, "/v1/chat/completions", json=body("hold", stream=False)) for _ in range(2)]
            eventually(lambda: len(rows(place.database, "SELECT id FROM jobs")) == 2, what="two calls wait")
            answer = http.get("/v1/models")
            assert answer.status_code == 503 and answer.json()["error"]["code"] == "full"
            assert answer.headers["x-should-retry"] == "true"
            for job in rows(place.database, "SELECT id FROM jobs"):
                place.running(job["id"])
            httpx.post(provider.url.removesuffix("/v1") + "/_sim/release", json={})
            assert [one.result(60).status_code for one in held] == [200, 200]


@pytest.mark.parametrize(("header", "status"), [("continue", "completed"), ("cancel", "cancelled")])
@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_ends_its_call_only_if_it_said_so(
    gateway: Gateway, served: Workplace, provider: Provider, header: str, status: str, *, stream: bool
) -> None:
    script = "slow=100" if stream else "delay=1500"
    asked = jsontext.dumps(body(script, stream=stream))
    with dialled(gateway, post(asked, headers=f"Stockpot-On-Disconnect: {header}\r\n")) as sock:
        jobs = eventually(lambda: rows(served.database, "SELECT id FROM jobs"), what="the call is accepted")
        served.running(jobs[0]["id"])
        if stream:
            sock.recv(10)
    assert served.ended(jobs[0]["id"]).status == status
    ends = ["completed" if status == "completed" else "aborted_by_client"]
    eventually(lambda: provider.ends(jobs[0]["id"]) == ends, what="the upstream has seen the end")


def test_equal_calls_that_come_at_once_to_two_gateways_are_one_job(
    provider: Provider, postgres_url: str, redis_url: str
) -> None:
    """By their idempotency key; the loser of the race leaves nothing behind."""
    with workplace(provider, postgres_url, redis_url) as place:
        place.start()
        with Gateway(place.settings) as one, Gateway(place.settings) as two, ThreadPoolExecutor(12) as pool:

            def call(number: int) -> str:
                with (one, two)[number % 2].http() as http:
                    answer = http.post("/v1/chat/completions", json=body(), headers={"Idempotency-Key": "k"})
                    return str(answer.json()["id"])

            ids = set(pool.map(call, range(12)))
        assert len(ids) == 1 and rows(place.database, "SELECT count(*) AS n FROM jobs")[0]["n"] == 1
        assert rows(place.database, "SELECT count(*) AS n FROM requests")[0]["n"] == 1
