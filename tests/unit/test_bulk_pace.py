"""Pacing and daily windows: arithmetic that decides when money is spent."""

from __future__ import annotations

from collections import deque
from datetime import UTC, datetime, timedelta

import pytest

from worker.batches import daily, pace


def simulate(*, lines: int, seconds: float, line_seconds: float, slots: int) -> tuple[float, list[int]]:
    """Run a batch in steps of a quarter of a second, asked for its pace every second.

    Returns when it ended and how many calls were in flight at each second.
    """
    running: deque[float] = deque()  # when each call ends
    done, at, most = 0, 0.0, 4
    seen: pace.Seen | None = None
    asked = []
    while done < lines and at < seconds * 3:
        while running and running[0] <= at:
            running.popleft()
            done += 1
        if at % 1 == 0:
            seen = pace.learn(seen, done, done * line_seconds)
            wanted = pace.in_flight(lines - done, seconds - at, seen.line_seconds, whole_seconds=seconds)
            most = slots if wanted is None else min(slots, wanted)
        while len(running) < most and done + len(running) < lines:
            running.append(at + line_seconds)
        if at % 1 == 0:
            asked.append(len(running))
        at += 0.25
    return at, asked


@pytest.mark.parametrize("line_seconds", [0.5, 2.0, 12.0])
def test_work_for_half_the_time_ends_in_time_at_about_half_the_concurrency(line_seconds: float) -> None:
    """Ten minutes, and work for five at full concurrency: it ends between minute 8 and 10."""
    slots = 100
    lines = int(300 * slots / line_seconds)
    ended, asked = simulate(lines=lines, seconds=600, line_seconds=line_seconds, slots=slots)
    assert 480 <= ended <= 590, "a moment is kept free at the end"
    settled = asked[60:-60]
    assert 0.4 * slots <= sum(settled) / len(settled) <= 0.65 * slots


def test_work_that_cannot_end_in_time_runs_at_full_concurrency() -> None:
    """Late is better than never."""
    ended, asked = simulate(lines=60_000, seconds=600, line_seconds=2.0, slots=100)
    assert 1_200 <= ended <= 1_220
    assert min(asked[30:-10]) == 100


def test_when_the_time_is_up_nothing_is_bounded() -> None:
    """And a finished second teaches nothing."""
    assert pace.in_flight(10, 0.0, 1.0, whole_seconds=600.0) is None
    seen = pace.Seen(5, 10.0, 2.0)
    assert pace.learn(seen, 5, 10.0) == seen


@pytest.mark.parametrize(
    ("window", "clock", "is_open"),
    [
        ("22:00-06:00", "23:30", True),
        ("22:00-06:00", "05:59", True),
        ("22:00-06:00", "06:00", False),
        ("22:00-06:00", "12:00", False),
        ("09:00-17:00", "09:00", True),
        ("09:00-17:00", "17:00", False),
    ],
)
def test_a_window_is_open_from_its_beginning_to_its_end(window: str, clock: str, *, is_open: bool) -> None:
    """Over midnight too."""
    assert daily.is_open(window, datetime.fromisoformat(f"2026-03-01T{clock}:00+00:00")) is is_open


def test_a_local_window_becomes_utc() -> None:
    """Two hours east of Greenwich, ten at night is eight."""
    assert daily.to_utc("22:00-06:00", timedelta(hours=2)) == "20:00-04:00"
    assert daily.to_utc("01:00-03:30", timedelta(hours=-5, minutes=-30)) == "06:30-09:00"


def test_the_seconds_within_a_window_are_counted() -> None:
    """Two nights of eight hours, and the rest of the first."""
    begin = datetime(2026, 3, 1, 5, 0, tzinfo=UTC)
    assert daily.open_seconds("22:00-06:00", begin, begin + timedelta(hours=1)) == 3_600
    assert daily.open_seconds("22:00-06:00", begin, datetime(2026, 3, 3, 12, 0, tzinfo=UTC)) == 3_600 + 2 * 8 * 3_600
    assert daily.open_seconds("22:00-06:00", begin, begin) == 0
