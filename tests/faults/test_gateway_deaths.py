"""The gateway, its worker or its Redis dies in the middle of calls: one job each, one bill, the right answer (G1-G9).

Three unmodified SDKs call at once: a whole answer, a chat stream, a streamed response in the background.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.rig.gateway import Clients, gateway_process
from tests.rig.ports import free_port
from tests.rig.procs import Process
from tests.rig.stage import SetStage, Stage
from tests.rig.waiting import eventually
from tests.rig.witness import Witness

pytestmark = pytest.mark.fault

#: An answer that streams for about two seconds: long enough to be caught in the middle.
SLOW = "slow=50"


@pytest.fixture
def front(tmp_path: Path) -> Iterator[Callable[..., tuple[Process, Clients, int]]]:
    """Sets a gateway before a stage, and the three clients before it."""
    with ExitStack() as stack:

        def start(on: Stage, script: str = SLOW) -> tuple[Process, Clients, int]:
            port = free_port()
            process = stack.enter_context(gateway_process(on, tmp_path, port))
            clients = Clients(f"http://127.0.0.1:{port}/v1", script)
            stack.callback(clients.close)
            return process, clients, port

        yield start


def check(on: Stage, clients: Clients) -> None:
    """One job a call, and every client has the answer that stands in the database."""
    whole, chat, response = clients.whole.result(120), clients.chat.result(120), clients.response.result(120)
    jobs = on.rows("SELECT id, status FROM jobs_v ORDER BY id")
    assert [job["status"] for job in jobs] == ["completed"] * 3
    on.submitted += [job["id"] for job in jobs]
    assert sorted([whole, chat, response.output_text]) == sorted(str(on.pot.get(job["id"]).text) for job in jobs)
    numbers = [event.sequence_number for event in clients.events]
    assert numbers == sorted(set(numbers)), "an event twice or out of order"


@pytest.mark.parametrize("database", ["postgres", "sqlite"])
def test_the_gateway_is_killed_in_the_middle_of_each_call(
    stage: SetStage, front: Callable[..., tuple[Process, Clients, int]], tmp_path: Path, database: str
) -> None:
    """G1-G3: its jobs go on; the repeats join them, and the response is resumed where it was."""
    on = stage(database, workers=1)  # type: ignore[arg-type]
    gateway, clients, port = front(on)
    with Witness("the gateway died of SIGKILL while the upstream streamed") as witness:
        eventually(clients.streaming, what="both streams show text")
        running = on.running_calls()
        witness.inject(gateway.kill9)
        witness.saw(gateway.returncode == -signal.SIGKILL and len(running) == 3)
        with gateway_process(on, tmp_path, port, "gateway-2") if witness.faults_on else ExitStack():
            check(on, clients)
    assert len(on.calls()) == 3, "somebody paid twice"
    assert any("response" in one for one in clients.breaks)
    on.check()


@pytest.mark.long
def test_the_gateway_is_killed_in_the_middle_of_a_download_and_of_a_jobs_events(
    stage: SetStage, tmp_path: Path
) -> None:
    """G1-G3: both go on at the next gateway from where they were, to what is stored."""
    on = stage("postgres", workers=1)
    port = free_port()
    data = bytes(range(256)) * 40_000
    headers: dict[str, str] = {}
    got, seen = b"", list[tuple[str, str]]()
    with gateway_process(on, tmp_path, port) as gateway, ExitStack() as stack:
        http = stack.enter_context(httpx.Client(base_url=f"http://127.0.0.1:{port}/v1", timeout=60))
        file = http.post("/files", data={"purpose": "user_data"}, files={"file": ("f", data)}).json()["id"]
        job = http.post("/jobs", json=on.body(SLOW, stream=True)).json()["id"]
        with Witness("the gateway died of SIGKILL, and both connections with it") as witness:
            download = stack.enter_context(http.stream("GET", f"/files/{file}/content")).iter_raw()
            events = stack.enter_context(http.stream("GET", f"/jobs/{job}/events")).iter_lines()
            got += next(download)
            while sum(kind == "chunk" for kind, _ in seen) < 3:
                seen += frame_of(events)
            witness.inject(gateway.kill9)
            if witness.faults_on:
                with pytest.raises(httpx.TransportError):
                    while piece := next(download, b""):
                        got += piece
                with pytest.raises(httpx.TransportError):
                    while found := frame_of(events):
                        seen += found
                assert len(got) < len(data) and seen[-1][0] == "chunk"
                stack.enter_context(gateway_process(on, tmp_path, port, "gateway-2"))
                headers = {"last-event-id": seen[-1][1]}
            witness.saw(gateway.returncode == -signal.SIGKILL)
        if headers:
            got += http.get(f"/files/{file}/content", headers={"range": f"bytes={len(got)}-"}).content
            events = stack.enter_context(http.stream("GET", f"/jobs/{job}/events", headers=headers)).iter_lines()
        else:
            got += b"".join(download)
        while found := frame_of(events):
            seen += found
    assert got == data
    numbers = [int(number) for _, number in seen if number]
    assert numbers == sorted(set(numbers)) and seen[-1][0] == "job.completed"
    on.submitted.append(job)
    on.check()


def frame_of(lines: Iterator[str]) -> list[tuple[str, str]]:
    """The type and number of the next event; none at the end."""
    fields: dict[str, str] = {}
    for text in lines:
        name, _, value = text.partition(": ")
        if name == "data":
            fields["type"] = json.loads(value)["type"]
        elif name == "id":
            fields["id"] = value
        elif not text and "type" in fields:
            return [(fields["type"], fields.get("id", ""))]
    return []


def test_a_worker_is_killed_in_the_middle_of_each_call(
    stage: SetStage, front: Callable[..., tuple[Process, Clients, int]]
) -> None:
    """G4-G6: another worker goes on; the chat stream says so, and its repeat gets the next attempt."""
    on = stage("postgres", workers=1)
    _, clients, _ = front(on)
    with Witness("the upstream saw a client leave in the middle of its answer") as witness:
        eventually(clients.streaming, what="both streams show text")
        witness.inject(on.workers[0].kill9)
        on.start(1)
        check(on, clients)
        witness.saw([call for call in on.calls() if call.outcome == "aborted_by_client"])
    assert on.unexplained_calls() == 0
    assert any("broke off" in one for one in clients.breaks) and not any("response" in one for one in clients.breaks)


def test_redis_is_killed_in_the_middle_of_each_call(
    stage: SetStage, front: Callable[..., tuple[Process, Clients, int]]
) -> None:
    """G7-G9: the answers come from the database, at their end; no client sees an error, no call is made again."""
    on = stage("postgres", workers=1)
    _, clients, _ = front(on)
    with Witness("Redis died of SIGKILL, and came back empty") as witness:
        eventually(clients.streaming, what="both streams show text")
        before = on.valkey.pid
        witness.inject(on.valkey.kill9)
        witness.inject(lambda: on.valkey.restart(empty=True))
        check(on, clients)
        witness.saw(on.valkey.pid != before)
    assert len(on.calls()) == 3 and clients.breaks == []


def test_a_stopping_gateway_ends_its_streams_so_that_they_can_be_resumed(
    stage: SetStage, front: Callable[..., tuple[Process, Clients, int]], tmp_path: Path
) -> None:
    """G10: a rolling restart; who waits is asked to come back, who streams is told where to go on."""
    on = stage("postgres", workers=1)
    gateway, clients, port = front(on)
    with Witness("the gateway ended by SIGTERM while the upstream streamed") as witness:
        eventually(clients.streaming, what="both streams show text")
        running = on.running_calls()
        if witness.faults_on:
            gateway.term()
            witness.saw(gateway.wait() == 0 and len(running) == 3)
        with gateway_process(on, tmp_path, port, "gateway-2") if witness.faults_on else ExitStack():
            check(on, clients)
    assert len(on.calls()) == 3
    told = {one.partition(":")[0] for one in clients.breaks if "The gateway stops" in one}
    assert told == {"chat", "response"}, clients.breaks
