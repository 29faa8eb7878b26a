"""Following through `Stockpot` and `AsyncStockpot`: events as they come, after the end, after the log is gone; waiting."""

from __future__ import annotations

import threading

import pytest
import redis

from api_schemas.ids import job_id
from tests.factories import chat
from tests.fakes import Workplace
from tests.rig.invariants import check_stream, shown_text
from worker.base.errors import NotFound, WaitTimeout
from worker.producer.async_stockpot import AsyncStockpot
from worker.producer.stockpot import Stockpot


def test_events_come_live_and_end_with_the_terminal_one(place: Workplace, pot: Stockpot) -> None:
    """In order over a retry, with a gap between two claims and before the end only; the text is the final one."""
    place.start()
    job = pot.submit(chat("hi", model="m@sim:cut@3,slow=5", stream=True))
    events = list(pot.events(job.id))
    assert list(check_stream(job.id, events, "completed", pot.get(job.id).text)) == []
    kinds = [event["type"] for event in events]
    assert (kinds[0], kinds[-1], kinds.count("attempt.reset")) == ("job.started", "job.completed", 1)
    done = pot.wait(job.id, timeout=60)
    assert shown_text(events) == done.text
    assert events[-1]["usage"] == (done.usage and done.usage.model_dump())
    assert {event["job"] for event in events} == {job.id}


def test_after_the_end_the_log_tells_all_again_from_any_place(place: Workplace, pot: Stockpot) -> None:
    place.start()
    job = pot.submit(chat("hi", model="m@sim:ok", stream=True))
    events = list(pot.events(job.id))
    assert list(pot.events(job.id)) == events
    assert list(pot.events(job.id, after=1)) == events[1:]
    assert list(pot.events(job.id, after=events[-1]["seq"])) == events[-1:]
    assert list(pot.events(job.id, after=str(10**30))) == events[-1:]


def test_when_the_log_is_gone_the_database_gives_the_text_and_the_end(place: Workplace, pot: Stockpot) -> None:
    place.start()
    job = pot.submit(chat("hi", model="m@sim:ok", stream=True))
    done = pot.wait(job.id, timeout=60)
    with redis.Redis.from_url(str(place.settings.redis_url)) as client:
        client.flushall()
    events = list(pot.events(job.id))
    assert events[-1]["type"] == "job.completed"
    assert shown_text(events) == done.text


def test_leaving_the_events_early_is_fine(place: Workplace, pot: Stockpot) -> None:
    place.start()
    job = pot.submit(chat("hi", model="m@sim:tokens=50+slow=5", stream=True))
    for event in pot.events(job.id):
        if event["type"] == "chunk":
            break
    assert pot.wait(job.id, timeout=60).status == "completed"


def test_a_producer_closed_in_the_middle_of_an_iteration_closes_it_quietly(
    place: Workplace, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """As Ctrl-C does: the traceback keeps the reader's frame alive while the producer is closed, and it ends later."""
    place.start()
    with Stockpot(place.settings) as pot:
        job = pot.submit(chat("hi", model="m@sim:slow=100", stream=True))
        events = pot.events(job.id)
        assert next(events)["type"] == "job.started"
    events.close()  # type: ignore[attr-defined]  # it is a generator
    assert caplog.text == ""
    assert capsys.readouterr().err == ""


def test_waiting_gives_up_and_the_job_goes_on(place: Workplace, pot: Stockpot) -> None:
    """The error says so; a later wait has the answer."""
    job = pot.submit(chat("hi", model="m@sim:ok"))
    with pytest.raises(WaitTimeout, match="it goes on"):
        pot.wait(job.id, timeout=0.05)
    place.start()
    assert pot.wait(job.id, timeout=60).status == "completed"


@pytest.mark.parametrize("timeout", [0, None])
def test_waiting_for_what_is_over_does_not_wait(place: Workplace, pot: Stockpot, timeout: float | None) -> None:
    """Not even a moment: a timeout of 0 asks whether it is done."""
    job = pot.submit(chat("hi"))
    pot.cancel(job.id)
    assert pot.wait(job.id, timeout=timeout).status == "cancelled"


def test_an_unknown_job_is_refused_before_anything_is_awaited(pot: Stockpot) -> None:
    for verb in (pot.get, pot.cancel, pot.retry, pot.wait, lambda job: next(pot.events(job))):
        with pytest.raises(NotFound):
            verb(job_id())


def test_a_retried_job_is_followed_to_its_new_end(place: Workplace, pot: Stockpot) -> None:
    """The old terminal event ends nobody's reading of the new run."""
    place.start()
    job = pot.submit(chat("hi", model="m@sim:400,ok", stream=True))
    assert list(pot.events(job.id))[-1]["type"] == "job.failed"
    pot.retry(job.id)
    events = list(pot.events(job.id))
    assert events[-1]["type"] == "job.completed"
    assert shown_text(events) == pot.get(job.id).text


def test_a_whole_answer_is_followed_to_its_end_from_every_number(place: Workplace, pot: Stockpot) -> None:
    """A job that does not stream: its text comes from the database, under a number that is no real event's."""
    place.start()
    job = pot.submit(chat("hi", model="m@sim:ok"))
    events = list(pot.events(job.id))
    assert [event["type"] for event in events] == ["job.started", "chunk", "job.completed"]
    for at, event in enumerate(events):
        assert list(pot.events(job.id, after=event["seq"])) == (events[at + 1 :] or events[-1:])


def test_who_comes_back_after_a_retry_drops_what_it_has_shown(place: Workplace, pot: Stockpot) -> None:
    """From every number of the life before: an `attempt.reset`, the new text, the new end."""
    place.start()
    job = pot.submit(chat("hi", model="m@sim:cut@3,cut@4,cut@2,ok", stream=True))
    old = list(pot.events(job.id))
    assert old[-1]["type"] == "job.failed"
    pot.retry(job.id)
    pot.wait(job.id, timeout=60)
    for at, event in enumerate(old):
        new = list(pot.events(job.id, after=event["seq"]))
        assert new[0]["seq"] > event["seq"]
        assert "attempt.reset" in [one["type"] for one in new]
        assert [one["type"] for one in new if one["type"].startswith("job.")] == ["job.completed"]
        assert shown_text(old[: at + 1] + new) == pot.get(job.id).text


def test_waiting_returns_only_what_is_over(place: Workplace, pot: Stockpot) -> None:
    """Cancelled and retried at once, again and again: the old end, whenever it is heard of, ends no waiting."""
    jobs = [pot.submit(chat("hi", model="m@sim:ok", stream=True)).id for _ in range(20)]
    waits: list[str] = []
    threads = [threading.Thread(target=lambda job=job: waits.append(pot.wait(job, 60).status)) for job in jobs]
    for thread in threads:
        thread.start()
    for job in jobs * 3:
        pot.cancel(job)
        pot.retry(job)
    place.start()
    for thread in threads:
        thread.join()
    assert len(waits) == 20
    assert set(waits) <= {"completed", "cancelled"}  # cancelled: it was, when the waiting looked


def test_threads_share_one_producer(place: Workplace, pot: Stockpot) -> None:
    """Twenty submit, follow and wait at once."""
    place.start()
    ends: list[str] = []

    def use(number: int) -> None:
        job = pot.submit(chat(str(number), model="m@sim:ok", stream=True))
        *_, last = pot.events(job.id)
        assert pot.wait(job.id, timeout=60).text
        ends.append(last["type"])

    threads = [threading.Thread(target=use, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ends == ["job.completed"] * 20


@pytest.mark.anyio
async def test_the_awaiting_face_does_the_same(place: Workplace) -> None:
    """Submit, follow, wait, list, usage, cancel, retry."""
    place.start()
    async with AsyncStockpot(place.settings) as pot:
        job = await pot.submit(chat("hi", model="m@sim:ok", stream=True), idempotency_key="k")
        assert not (await pot.submit(chat("hi", model="m@sim:ok", stream=True), idempotency_key="k")).created
        events = [event async for event in pot.events(job.id)]
        done = await pot.wait(job.id, timeout=60)
        assert (events[-1]["type"], shown_text(events)) == ("job.completed", done.text)
        [sums] = await pot.usage()
        assert sums.cost_usd == done.cost_usd
        many = await pot.submit_many([chat("a"), chat("b")], delay_seconds=600)
        assert {one.id for one in await pot.list(lane="bulk")} == set(many)
        assert await pot.cancel(many[0]) == "cancelled"
        await pot.retry(many[0])
        with pytest.raises(WaitTimeout):
            await pot.wait(many[1], timeout=0.05)
        with pytest.raises(NotFound):
            await pot.get(job_id())
        with pytest.raises(NotFound):
            _ = [event async for event in pot.events(job_id())]
