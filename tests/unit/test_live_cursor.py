"""The cursor: whatever is lost, doubled or late, a reader ends with the final text, and sees nothing twice."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api_schemas.event_numbers import BLOCK, KEPT_FREE, number
from api_schemas.events import TERMINAL_TYPES
from api_schemas.job_views import Standing
from worker.live.cursor import Cursor, Event, Step

JOB = "job_1"


@dataclass
class Screen:
    """A reader who obeys the contract, over several connections."""

    text: str = ""
    seq: int = 0
    ends: list[str] = field(default_factory=list)
    seen: list[tuple[int, str, str]] = field(default_factory=list)

    def show(self, events: list[Event]) -> None:
        for event in events:
            assert event["seq"] > self.seq or (event["seq"] == self.seq and self.ends), "seq strictly rises"
            self.seq = event["seq"]
            self.seen.append((event["seq"], event["type"], event.get("text", "")))
            if event["type"] == "attempt.reset":
                self.text = ""
            elif event["type"] == "chunk":
                self.text += event["text"]
            elif event["type"] in TERMINAL_TYPES:
                self.ends.append(event["type"])


def event(epoch: int, place: int, kind: str, **fields: Any) -> Event:
    return {"job": JOB, "epoch": epoch, "seq": number(epoch, place), "type": kind, "at": "", **fields}


@dataclass
class Story:
    """A job's whole stream over several fences, and what the database says in the end."""

    events: list[Event]
    final: Standing


@st.composite
def stories(draw: st.DrawFn) -> Story:
    """Attempts that end with the next one, lives that were retried, and an end by the last claim or by nobody's."""
    events: list[Event] = []
    lives = draw(st.lists(st.lists(st.lists(st.text(max_size=3), max_size=6), min_size=1, max_size=3), max_size=3))
    epoch, text, status = 0, "", "cancelled"
    for life in lives:
        for texts in life:
            epoch += draw(st.integers(1, 3))  # claims that never called have a fence, too
            opening = (
                event(epoch, 1, "attempt.reset", reason="x", attempt=2) if events else event(epoch, 1, "job.started")
            )
            events += [opening, *(event(epoch, 2 + at, "chunk", data=[], text=one) for at, one in enumerate(texts))]
            text = "".join(texts)
        if draw(st.booleans()):  # the claim itself ends it, with what it has streamed or with another text
            text = draw(st.sampled_from([text, text + "\ufffd"]))
            status = draw(st.sampled_from(["completed", "failed", "cancelled"]))
            place = events[-1]["seq"] % BLOCK + 1 + KEPT_FREE
        else:
            epoch, place, text, status = epoch + 1, 1 + KEPT_FREE, "", draw(st.sampled_from(["cancelled", "expired"]))
        events.append(event(epoch, place, f"job.{status}"))
        epoch += 1  # a retry raises the fence
    if not lives:
        events.append(event(1, 1 + KEPT_FREE, "job.cancelled"))
    return Story(events, Standing(status, seq=events[-1]["seq"], text=text))


def feed(cursor: Cursor, screen: Screen, live: Event, log: list[Event], final: Standing) -> None:
    """One live event: a gap asks the log, what the log does not have is skipped."""
    events = [live]
    if cursor.step(live) is Step.GAP:
        events = [entry for entry in log if cursor.read < entry["seq"] < live["seq"]] + [live]
    for one in events:
        step = cursor.step(one)
        if step is Step.GAP:
            cursor.skip(one)
            step = cursor.step(one)
        if step is Step.SHOW:
            screen.show(list(cursor.show(one)))
        elif step is Step.END:
            if one["seq"] < final.seq:
                cursor.void(one)
            else:
                screen.show(list(cursor.ending(final)))
                return


@settings(max_examples=120, deadline=None)
@given(stories(), st.data())
def test_any_loss_repetition_and_reconnection_ends_with_the_final_text(story: Story, data: st.DataObject) -> None:
    """Live events are lost or doubled at random, the log has holes, the reader comes back with its last seq."""
    log = [one for one in story.events if data.draw(st.booleans()) or data.draw(st.booleans())]
    screen, cursor = Screen(), Cursor(JOB)
    for one in story.events[:-1]:
        match data.draw(st.sampled_from(["deliver", "deliver", "lose", "double", "reconnect"])):
            case "lose":
                continue
            case "double":
                feed(cursor, screen, one, log, story.final)
            case "reconnect":
                cursor = Cursor(JOB, screen.seq)
        feed(cursor, screen, one, log, story.final)
    feed(cursor, screen, story.events[-1], log, story.final)
    assert screen.ends == [f"job.{story.final.status}"]
    assert screen.text == story.final.text
    real = {(one["seq"], one["type"], one.get("text", "")) for one in story.events}
    numbers = {one["seq"] for one in story.events}
    made = [seen for seen in screen.seen if seen not in real]
    assert all(seq not in numbers for seq, _, _ in made), "an event that was made up has no real one's number"


@settings(max_examples=80, deadline=None)
@given(stories(), st.data())
def test_a_reader_that_comes_back_at_any_number_sees_the_rest_and_no_more(story: Story, data: st.DataObject) -> None:
    """With a whole log: what comes after a number is what the whole stream has after it, also after a made-up one."""
    whole = Screen()
    cursor = Cursor(JOB)
    for one in story.events:
        feed(cursor, whole, one, story.events, story.final)
    after = data.draw(st.sampled_from([seq for seq, _, _ in whole.seen]))
    rest, cursor = Screen(), Cursor(JOB, after)
    for one in story.events:
        feed(cursor, rest, one, story.events, story.final)
    if not rest.ends:  # nothing new came: the database is asked
        rest.show(list(cursor.ending(story.final)))
    assert rest.seen == ([seen for seen in whole.seen if seen[0] > after] or whole.seen[-1:])


@settings(max_examples=50, deadline=None)
@given(stories(), st.integers(0, 10**8))
def test_without_redis_the_database_alone_ends_it_with_the_text(story: Story, after: int) -> None:
    """No log, no events: a reader from the beginning gets the text once, one from anywhere gets a reset first."""
    cursor, screen = Cursor(JOB), Screen()
    screen.show(list(cursor.ending(story.final)))
    assert (screen.text, screen.ends) == (story.final.text, [f"job.{story.final.status}"])
    assert "attempt.reset" not in [kind for _, kind, _ in screen.seen]
    late = list(Cursor(JOB, after).ending(story.final))
    assert late[-1]["seq"] == story.final.seq
    assert [one["type"] for one in late if one["type"] in TERMINAL_TYPES] == [f"job.{story.final.status}"]
    if 0 < after < story.final.seq - KEPT_FREE:
        assert late[0]["type"] == "attempt.reset"


@settings(max_examples=50, deadline=None)
@given(stories(), st.data())
def test_with_a_whole_log_each_event_is_shown_once(story: Story, data: st.DataObject) -> None:
    """Losing live events alone costs nothing: the log fills every gap. Ends that were retried are not shown."""
    cursor, screen = Cursor(JOB), Screen()
    kept = [one for one in story.events[:-1] if data.draw(st.booleans())]
    for live in [*kept, story.events[-1]]:
        for one in [entry for entry in story.events if cursor.read < entry["seq"] < live["seq"]] + [live]:
            feed(cursor, screen, one, [], story.final)
    real = [
        (one["seq"], one["type"], one.get("text", ""))
        for one in story.events
        if one["type"] not in TERMINAL_TYPES or one["seq"] == story.final.seq
    ]
    assert [seen for seen in screen.seen if seen[0] not in {story.final.seq - 1, story.final.seq - 2}] == real


def test_a_zombies_events_are_dropped() -> None:
    """An epoch that is over adds nothing."""
    cursor = Cursor(JOB)
    assert len(list(cursor.show(event(2, 1, "job.started")))) == 1
    assert cursor.step(event(1, 9, "chunk", data=[], text="b")) is Step.DROP


def test_a_lost_reset_is_made_up_for_under_a_number_of_its_own() -> None:
    """A new epoch without its reset must not append to the old text, and a reader that comes back meets the gap again."""
    cursor, screen = Cursor(JOB), Screen()
    for one in (event(1, 1, "job.started"), event(1, 2, "chunk", data=[], text="old")):
        screen.show(list(cursor.show(one)))
    late = event(2, 3, "chunk", data=[], text="new")
    assert cursor.step(late) is Step.GAP
    cursor.skip(late)
    screen.show(list(cursor.show(late)))
    assert (screen.text, screen.seq) == ("", BLOCK)


def test_who_has_the_end_gets_it_again_and_always_the_same() -> None:
    """At the end and beyond it: the terminal event once, with its own number and fields."""
    final = Standing("failed", seq=number(3, 9), at="2026-01-01T00:00:00.000Z", error={"class": "timeout"})
    [end] = list(Cursor(JOB, final.seq).ending(final))
    assert list(Cursor(JOB, final.seq + 10**9).ending(final)) == [end]
    assert (end["type"], end["seq"], end["epoch"], end["error"]) == ("job.failed", 2_000_009, 3, {"class": "timeout"})


@pytest.mark.parametrize("published", [True, False])
@pytest.mark.parametrize("had", [1, 2])
def test_the_text_of_an_earlier_end_is_reset_when_the_next_life_ends_without_any(had: int, published: bool) -> None:
    """The first life's whole text was made from the database, and is in no log: what the log proves is not what is shown."""
    start, end = event(1, 1, "job.started"), event(1, 2 + KEPT_FREE, "job.failed", usage=None)
    first = Cursor(JOB)
    seen = [*first.show(start), *first.ending(Standing("failed", seq=end["seq"], text="!"))]
    assert [one["type"] for one in seen] == ["job.started", "chunk", "job.failed"]
    again = Cursor(JOB, after=seen[had]["seq"])
    for one in [start, end] if published else [start]:
        if again.step(one) is Step.SHOW:
            assert list(again.show(one)) == []
        else:
            again.void(one)
    shown = list(again.ending(Standing("expired", seq=number(2, 1 + KEPT_FREE))))
    assert [one["type"] for one in shown] == ["attempt.reset", "job.expired"]
