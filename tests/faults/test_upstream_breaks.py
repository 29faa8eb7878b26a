"""Answers that break off: reset, truncated, erroneous, silent. Never recorded as success, and tried again (F52–F55)."""

from __future__ import annotations

from typing import Any

import pytest

from tests.rig.cases import Case, Playbill, differences, play_rows
from tests.rig.stage import SetStage
from tests.rig.witness import Witness

pytestmark = pytest.mark.fault

AGAIN = "completed"

#: F52. Nothing came back: it may have been paid. Headers came: the answer began and broke.
RESETS = [
    Case("hangup,ok", ["ambiguous", AGAIN], code="connection_lost"),
    Case("hangup,ok", ["ambiguous", AGAIN], stream=False, code="connection_lost"),
    Case("rst,ok", ["ambiguous", AGAIN], code="connection_lost"),
    Case("rst,ok", ["ambiguous", AGAIN], stream=False, code="connection_lost"),
    Case("rst@headers,ok", ["partial", AGAIN], code="connection_lost"),
    Case("rst@headers,ok", ["partial", AGAIN], stream=False, code="connection_lost"),
    Case("slow=20+rst@5,ok", ["partial", AGAIN], code="connection_lost"),
    Case("slow=20+rst@5,ok", ["partial", AGAIN], stream=False, code="connection_lost"),
]
#: F53. A stream without its end is none, however politely it stops. One that lacks either `[DONE]` or the finish reason
#: is whole: the server said that it was done.
TRUNCATED = [
    Case("cut@5,ok", ["partial", AGAIN], code="connection_lost"),
    Case("cut@5,ok", ["partial", AGAIN], stream=False, code="connection_lost"),
    Case("end@5,ok", ["partial", AGAIN], code="no_finish_reason"),
    Case("end@5,ok", ["retryable", AGAIN], stream=False, code="wrong_content"),
    Case("503,end@5,ok", ["retryable", "retryable", AGAIN], stream=False),
    Case("donenofinish", [AGAIN]),
    Case("cut@0,ok", ["partial", AGAIN], code="connection_lost"),
    Case("nodone", [AGAIN]),
    Case("end@5", ["partial"] * 3, status="failed", error="truncated", code="no_finish_reason"),
]
#: F54. The error keeps the class of its status, wherever in the answer it stands.
ERRORS = [
    Case("error@3,ok", ["partial", AGAIN], code="server_error"),
    Case("errorevent@3,ok", ["partial", AGAIN], code="server_error"),
    Case("error@3,ok", ["retryable", AGAIN], stream=False, code="server_error"),
    Case("finisherror,ok", ["partial", AGAIN]),
    Case("finisherror,ok", ["partial", AGAIN], stream=False),
    Case("error@3", ["partial"] * 3, status="failed", error="upstream", code="server_error"),
]
#: F55. Silence runs into the first-event or the idle timer. Comments and pings feed both: slow reasoning models live
#: behind them, and the total bounds what never ends.
SILENCE = [
    Case("pings,ok", ["partial", AGAIN], code="total_timeout"),
    Case("silent,ok", ["partial", AGAIN], code="first_event_timeout"),
    Case("silent,ok", ["partial", AGAIN], stream=False, code="idle_timeout"),
    Case("stall@3,ok", ["partial", AGAIN], code="idle_timeout"),
    Case("stall@3,ok", ["partial", AGAIN], stream=False, code="idle_timeout"),
    Case("slow=100000,ok", ["partial", AGAIN], code="idle_timeout"),
    Case("pings,ok", ["partial", AGAIN], stream=False, code="total_timeout"),
    Case("endless,ok", ["partial", AGAIN], code="total_timeout"),
    Case("delay=15000,ok", ["ambiguous", AGAIN], stream=False, code="total_timeout"),
    Case("delay=100000,ok", ["ambiguous", AGAIN], code="first_event_timeout"),
]
#: The timers of that row, in seconds: no answer that comes runs into them, however busy the machine is.
TIMERS: dict[str, Any] = {"first_event_timeout": 3.0, "idle_timeout": 3.0, "total_timeout": 8.0}


def test_answers_that_break_off_are_never_taken_for_whole(stage: SetStage) -> None:
    """F52, F53, F54: right class, the text so far on record, a new epoch for the next attempt."""
    on = stage("postgres", workers=1, concurrency=40, lease_seconds=60)
    bills = play_rows(
        on,
        {
            "the upstream reset": RESETS,
            "the upstream stopped short": TRUNCATED,
            "the upstream told of an error": ERRORS,
        },
        on_ambiguous="retry",
        max_attempts=3,
    )
    on.check(all_completed=False)
    assert differences(bills) == []
    job = bills["the upstream stopped short"].job("end@5")
    partial = [row["partial_text"] for row in on.attempts(job)]
    assert all(partial), "what had come is on record"
    assert len(set(partial)) == 1
    for case, job in bills["the upstream reset"].jobs:
        if case.stream:
            events = on.events(job)
            assert {event["epoch"] for event in events} == {1, 2}
            assert [event["type"] for event in events].count("attempt.reset") == 1


def test_answers_that_fall_silent_are_given_up_in_time(stage: SetStage) -> None:
    """F55: the timer that fires is the right one, and not before its time."""
    on = stage("postgres", workers=1, concurrency=40, lease_seconds=60, **TIMERS)
    bill = Playbill(on)
    with Witness("the upstream fell silent in each way") as witness:
        witness.inject(lambda: bill.play(SILENCE, on_ambiguous="retry"))
        on.quiesce()
        witness.saw(bill.seen())
    on.check()
    assert bill.differences() == []
    for _, job in bill.jobs:
        first = on.attempts(job)[0]
        assert first["total_seconds"] >= TIMERS[first["error_code"]]
