"""The cursor: whatever is lost, doubled or late, a reader ends with the final text, and sees nothing twice."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from worker.live.cursor import Cursor, Event, FinalState, Step

JOB = "job_1"


@dataclass
class Screen:
    """A reader who obeys the contract, over several connections."""

    text: str = ""
    seq: int = 0
    ended: bool = False
    seen: list[int] = field(default_factory=list)

    def show(self, events: list[Event]) -> None:
        for event in events:
            self.seq = max(self.seq, event["seq"])
            if event["type"] == "attempt.reset":
                self.text = ""
            elif event["type"] == "chunk":
                self.text += event["text"]
            self.ended = self.ended or event["type"] == "job.completed"


def event(seq: int, epoch: int, kind: str, **fields: Any) -> Event:
    return {"job": JOB, "epoch": epoch, "seq": seq, "type": kind, "at": "", **fields}


@st.composite
def stories(draw: st.DrawFn) -> tuple[list[Event], FinalState]:
    """A job's whole stream over up to three attempts, and what the database says in the end."""
    events: list[Event] = []
    attempts = draw(st.lists(st.lists(st.text(min_size=1, max_size=3), max_size=6), min_size=1, max_size=3))
    for number, texts in enumerate(attempts, 1):
        if number > 1:
            events.append(event(len(events) + 1, number, "attempt.reset", reason="partial", attempt=number))
        events.append(event(len(events) + 1, number, "job.started", attempt=number, model="m"))
        events += [event(len(events) + 1 + i, number, "chunk", data=[], text=text) for i, text in enumerate(texts)]
    events.append(
        event(len(events) + 1, len(attempts), "job.completed", usage=None, cost_usd=None, finish_reason="stop")
    )
    return events, FinalState("completed", "".join(attempts[-1]))


def feed(cursor: Cursor, screen: Screen, live: Event, log: list[Event], final: FinalState) -> None:
    """One live event: a gap asks the log, what the log does not have is skipped."""
    events = [live]
    if cursor.step(live) is Step.GAP:
        events = [entry for entry in log if entry["seq"] > cursor.seq and entry["seq"] < live["seq"]] + [live]
    for one in events:
        step = cursor.step(one)
        if step is Step.GAP:
            cursor.skip()
            step = cursor.step(one)
        if step is Step.SHOW:
            screen.show(list(cursor.show(one)))
        elif step is Step.END:
            screen.show(list(cursor.ending(one, final if cursor.needs_text(one) else None)))
            return


@settings(max_examples=200, deadline=None)
@given(stories(), st.data())
def test_any_loss_repetition_and_reconnection_ends_with_the_final_text(
    story: tuple[list[Event], FinalState], data: st.DataObject
) -> None:
    """Live events are lost or doubled at random, the log has holes, the reader comes back with its last seq."""
    events, final = story
    log = [one for one in events if data.draw(st.booleans()) or data.draw(st.booleans())]
    screen, cursor = Screen(), Cursor(JOB)
    for one in events[:-1]:
        match data.draw(st.sampled_from(["deliver", "deliver", "lose", "double", "reconnect"])):
            case "lose":
                continue
            case "double":
                feed(cursor, screen, one, log, final)
            case "reconnect":
                cursor = Cursor(JOB, screen.seq)
        feed(cursor, screen, one, log, final)
    feed(cursor, screen, events[-1], log, final)
    assert screen.ended
    assert screen.text == final.text


@settings(max_examples=100, deadline=None)
@given(stories(), st.data())
def test_with_a_whole_log_nothing_is_reset_and_each_event_is_shown_once(
    story: tuple[list[Event], FinalState], data: st.DataObject
) -> None:
    """Losing live events alone costs nothing: the log fills every gap."""
    events, final = story
    cursor, shown = Cursor(JOB), []
    kept = [one for one in events[:-1] if data.draw(st.booleans())]
    for live in [*kept, events[-1]]:
        for one in [entry for entry in events if cursor.seq < entry["seq"] < live["seq"]] + [live]:
            step = cursor.step(one)
            assert step is not Step.GAP
            if step is Step.SHOW:
                shown += list(cursor.show(one))
            elif step is Step.END:
                shown += list(cursor.ending(one, final))
    assert shown == events


def test_a_zombies_events_are_dropped() -> None:
    """An epoch that is over adds nothing, whatever seq it claims."""
    cursor = Cursor(JOB)
    list(cursor.show(event(1, 2, "chunk", data=[], text="a")))
    assert cursor.step(event(2, 1, "chunk", data=[], text="b")) is Step.DROP


def test_a_lost_reset_is_made_up_for() -> None:
    """A new epoch without its reset must not append to the old text."""
    cursor, screen = Cursor(JOB), Screen()
    screen.show(list(cursor.show(event(1, 1, "chunk", data=[], text="old"))))
    late = event(3, 2, "chunk", data=[], text="new")
    assert cursor.step(late) is Step.GAP
    cursor.skip()
    screen.show(list(cursor.show(late)))
    assert screen.text == ""
    assert screen.seq == 1, "a reader that comes back must meet the gap again"


def test_a_database_end_without_an_event_carries_the_outcome() -> None:
    """Where no terminal event came, the database's outcome makes one."""
    cursor = Cursor(JOB)
    [end] = list(cursor.ending(None, FinalState("failed", error={"class": "timeout"}, epoch=3, seq=9)))
    assert (end["type"], end["seq"], end["epoch"], end["error"]) == ("job.failed", 9, 3, {"class": "timeout"})
