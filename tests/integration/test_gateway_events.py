"""A job's live events through the gateway: with a key or by a signed URL, resumed by number, cut off by nobody."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.factories import chat
from tests.fakes import Workplace
from tests.rig.gateway import Gateway
from worker.producer.stockpot import Stockpot

#: What a request through a proxy looks like: whoever sends it has no leave without a key or a signed URL.
STRANGER = {"x-forwarded-for": "203.0.113.9"}


@pytest.fixture
def pot(served: Workplace) -> Iterator[Stockpot]:
    """A producer beside the gateway."""
    with Stockpot(served.settings) as pot:
        yield pot


def events_of(http: httpx.Client, url: str, **headers: str) -> list[dict[str, Any]]:
    """The events of a stream that ends by itself, each with the id of its frame."""
    answer = http.get(url, headers=headers)
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/event-stream")
    frames = [
        dict(line.split(": ", 1) for line in one.splitlines() if line[:1] != ":") for one in answer.text.split("\n\n")
    ]
    events = [json.loads(frame["data"]) | {"id": int(frame["id"])} for frame in frames if "data" in frame]
    assert all(event["id"] == event["seq"] for event in events)
    return events


def finished(pot: Stockpot) -> str:
    job = pot.submit({**chat("hi", model="sim:ok"), "stream": True}).id
    pot.wait(job, timeout=60)
    return job


def test_a_stream_is_whole_and_goes_on_behind_a_number(gateway: Gateway, pot: Stockpot) -> None:
    """From its start, behind `Last-Event-ID`, behind `after`; whichever is further."""
    job = finished(pot)
    with gateway.http() as http:
        url = f"/v1/jobs/{job}/events"
        whole = events_of(http, url)
        assert "".join(event.get("text", "") for event in whole if event["type"] == "chunk") == pot.get(job).text
        assert whole[-1]["type"] == "job.completed"
        middle = whole[len(whole) // 2]["id"]
        rest = [event["id"] for event in whole if event["id"] > middle]
        assert [event["id"] for event in events_of(http, url, **{"last-event-id": str(middle)})] == rest
        assert [event["id"] for event in events_of(http, f"{url}?after={middle}", **{"last-event-id": "1"})] == rest
        for bad in ("after=x", "colour=red", "raw=maybe"):
            assert http.get(f"{url}?{bad}").status_code == 400
        assert http.get(url, headers={"last-event-id": "x"}).status_code == 400
        assert http.get("/jobs/job_nope/events").status_code == 404


def test_a_signed_url_opens_one_jobs_events_and_nothing_else(gateway: Gateway, pot: Stockpot) -> None:
    """For anybody who has it; not for another job, not changed, not after its time; and without what a page shall not see."""
    job, other = finished(pot), finished(pot)
    with gateway.http() as http:
        http.headers.update(STRANGER)
        assert http.get(f"/jobs/{job}/events").status_code == 401
        url = pot.stream_url(job)
        assert events_of(http, url)[-1]["type"] == "job.completed"
        assert not any("cost_usd" in event or "data" in event for event in events_of(http, url))
        wrong = [
            url.replace(job, other),
            url[:-1] + ("A" if url[-1] != "A" else "B"),
            url + "x",
            f"/jobs/{job}/events?token=",
            f"/jobs/{job}/events?token=1.ZGVmYXVsdA.AAAA",
        ]
        for one in wrong:
            answer = http.get(one)
            assert answer.status_code == 401 and answer.json()["error"]["code"] == "invalid_token", one
        for more in ("&raw=true", "&cost=1"):
            assert http.get(url + more).status_code == 403
        for path in (f"/jobs/{job}", f"/jobs/{job}/cancel", "/jobs", "/files"):
            token = url.split("?", 1)[1]
            assert http.get(f"{path}?{token}").status_code in {401, 405}
        assert http.post(f"/jobs/{job}/cancel?{url.split('?', 1)[1]}").status_code == 401


def test_a_gateway_that_stops_ends_its_streams_and_the_next_one_goes_on(served: Workplace, pot: Stockpot) -> None:
    """Nothing missed, nothing twice, over two gateways; the job never hears of it."""
    job = pot.submit({**chat("hi", model="sim:tokens=30+slow=100"), "stream": True}).id
    url = pot.stream_url(job)
    with Gateway(served.settings) as first, first.http() as http, http.stream("GET", url) as stream:
        assert stream.status_code == 200
        seen: list[int] = []
        for line in stream.iter_lines():
            if line.startswith("id: "):
                seen.append(int(line[4:]))
            if len(seen) == 3:
                first.server.should_exit = True
    with Gateway(served.settings) as second, second.http() as http:
        rest = events_of(http, url, **{"last-event-id": str(seen[-1])})
    assert rest[-1]["type"] == "job.completed"
    numbers = seen + [event["id"] for event in rest]
    assert numbers == sorted(set(numbers))
    assert len(pot.get(job).attempt_log) == 1


def test_the_script_for_pages_is_served_to_anybody(gateway: Gateway) -> None:
    """With an ETag, so that a page asks again for nothing."""
    with gateway.http() as http:
        http.headers.update(STRANGER)
        answer = http.get("/stockpot.js")
        assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/javascript")
        assert "EventSource" in answer.text
        assert http.get("/stockpot.js", headers={"if-none-match": answer.headers["etag"]}).status_code == 304
