"""`pot.sse`, `pot.text` and signed URLs, on both faces: frames that a framework sends as they are."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest

from api_schemas.ids import job_id
from tests.factories import chat
from tests.fakes import Workplace
from worker.base.errors import InvalidRequest, NotAllowed, NotCompleted, NotFound
from worker.producer.async_stockpot import AsyncStockpot
from worker.producer.stockpot import Stockpot

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def parsed(frames: list[str]) -> list[dict[str, Any]]:
    """The events as a browser has them; ids are those of the data."""
    events = []
    for one in "".join(frames).split("\n\n"):
        lines = dict(line.split(": ", 1) for line in one.splitlines() if not line.startswith(":"))
        if "data" in lines:
            event = json.loads(lines["data"])
            assert int(lines["id"]) == event["seq"]
            events.append(event)
    return events


def test_frames_are_the_events_without_what_is_the_providers(place: Workplace, pot: Stockpot) -> None:
    """No raw objects and no price, unless asked for; the terminal one is the last."""
    place.start()
    job = pot.submit(chat("hi", model="m@sim:ok", stream=True))
    events = list(pot.events(job.id))
    shown = parsed(list(pot.sse(job.id)))
    hidden = [{name: value for name, value in event.items() if name not in {"data", "cost_usd"}} for event in events]
    assert shown == hidden
    assert shown[-1]["type"] == "job.completed"
    assert parsed(list(pot.sse(job.id, raw=True, cost=True))) == events


def test_a_stream_goes_on_after_the_last_event_id_and_says_the_end_to_who_has_it(
    place: Workplace, pot: Stockpot
) -> None:
    """As text, as bytes or as a number; at the end and beyond it the terminal event, always the same."""
    place.start()
    job = pot.submit(chat("hi", model="m@sim:ok", stream=True))
    events = parsed(list(pot.sse(job.id)))
    for event, rest in zip(events, [events[at + 1 :] or events[-1:] for at in range(len(events))], strict=True):
        for after in (event["seq"], str(event["seq"]), str(event["seq"]).encode()):
            assert parsed(list(pot.sse(job.id, after))) == rest
    for beyond in (2**53, "9" * 400):
        assert parsed(list(pot.sse(job.id, beyond))) == events[-1:]
    assert parsed(list(pot.sse(job.id, ""))) == events


@pytest.mark.parametrize("after", ["x", "-1", -1, "1.5", "٣", True, b"\xff"])
def test_a_last_event_id_that_is_none_is_refused(pot: Stockpot, after: int | str | bytes) -> None:
    with pytest.raises(InvalidRequest, match="seq"):
        pot.sse(job_id(), after)


def test_an_unknown_job_is_refused_before_the_first_frame(pot: Stockpot) -> None:
    """Where the call is made, not where the response is written; another tenant's job is unknown, too."""
    for unknown in (job_id(), "job_\0", "job_\ud83d", "", "x" * 10_000):
        with pytest.raises(NotFound):
            pot.sse(unknown)
    job = pot.submit(chat("hi"))
    with Stockpot(pot.settings, tenant="other") as other, pytest.raises(NotFound, match="of tenant other"):
        other.sse(job.id)


def test_silence_is_filled_and_a_reader_that_leaves_frees_its_thread(pot: Stockpot) -> None:
    """A job that nobody runs: comments come, so that a server finds out; closing the frames ends the reading."""
    job = pot.submit(chat("hi"), delay_seconds=600)
    frames = pot.sse(job.id, heartbeat=0.01)
    assert next(frames).startswith("retry: ")
    assert [next(frames) for _ in range(3)] == [": heartbeat\n\n"] * 3
    frames.close()  # type: ignore[attr-defined]  # what a server does with a response whose client left
    assert [event["type"] for event, _ in zip(pot.events(job.id, heartbeat=0.01), range(2), strict=False)] == [
        "heartbeat",
        "heartbeat",
    ]


def test_the_shortest_loop_prints_the_answer_once_over_a_broken_attempt(place: Workplace, pot: Stockpot) -> None:
    """README's loop: the attempt that broke said the same, so nothing is said twice."""
    place.start()
    job = pot.submit(chat("hi", model="m@sim:cut@3,slow=5", stream=True))
    loop = re.search(r"^for text in pot\.text.*?(?=^done = )", README, re.DOTALL | re.MULTILINE)
    assert loop is not None
    printed: list[str] = []
    exec(loop[0], {"pot": pot, "job": job, "print": lambda text, **_: printed.append(text)})
    done = pot.wait(job.id, timeout=60)
    assert done.attempts == 2, "an attempt broke"
    assert "".join(printed) == done.text


def test_a_job_without_an_answer_raises_from_its_text(place: Workplace, pot: Stockpot) -> None:
    place.start()
    job = pot.submit(chat("hi", model="m@sim:400", stream=True))
    with pytest.raises(NotCompleted) as caught:
        list(pot.text(job.id))
    assert caught.value.status == "failed"
    assert caught.value.error is not None and caught.value.error["class"] == "invalid_request"


def test_a_signed_url_opens_its_job_only(pot: Stockpot) -> None:
    """Under the key of the home, and for the tenant that made it."""
    url = pot.stream_url("job_1", expires=60, base="https://llm.example.com/")
    path, _, token = url.partition("?token=")
    assert path == "https://llm.example.com/jobs/job_1/events"
    with Stockpot(pot.settings, tenant="gateway") as gateway:
        assert gateway.verify_stream("job_1", token) == "default"
        with pytest.raises(NotAllowed):
            gateway.verify_stream("job_2", token)


@pytest.mark.anyio
async def test_the_awaiting_face_does_the_same(place: Workplace) -> None:
    place.start()
    async with AsyncStockpot(place.settings) as pot:
        job = await pot.submit(chat("hi", model="m@sim:cut@3,slow=5", stream=True))
        frames = [one async for one in pot.sse(job.id)]
        assert parsed(frames)[-1]["type"] == "job.completed"
        assert parsed([one async for one in await pot.sse(job.id, parsed(frames)[2]["seq"])]) == parsed(frames)[3:]
        assert "".join([text async for text in pot.text(job.id)]) == (await pot.get(job.id)).text
        with pytest.raises(NotFound):
            await pot.sse(job_id())
        assert pot.verify_stream(job.id, pot.stream_url(job.id).partition("?token=")[2]) == "default"


@pytest.mark.anyio
async def test_a_step_that_is_given_up_loses_nothing(place: Workplace) -> None:
    """`asyncio.wait_for(anext(events), …)` that times out again and again: the stream goes on, whole."""
    async with AsyncStockpot(place.settings) as pot:
        job = await pot.submit(chat("hi", model="m@sim:slow=20", stream=True))
        events, given_up, started = pot.events(job.id), 0, False
        seen: list[dict[str, Any]] = []
        while not seen or not seen[-1]["type"].startswith("job.comp"):
            try:
                seen.append(await asyncio.wait_for(anext(events), 0.003))
            except TimeoutError:
                given_up += 1
                if not started and given_up > 3:
                    place.start()
                    started = True
        assert given_up > 3
        assert seen == [event async for event in pot.events(job.id)]
        with pytest.raises(StopAsyncIteration):
            await anext(events)
