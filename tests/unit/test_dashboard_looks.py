"""Looks of the dashboard: shared, and the rarer the longer they take."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from worker.dashboard import looks
from worker.dashboard.looks import LONGEST, Looks


class _Clock:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    made = _Clock()
    monkeypatch.setattr(looks, "time", made)
    return made


def _reads(clock: _Clock, takes: float) -> tuple[list[float], Looks]:
    """When a look that takes so many seconds was read, with a viewer who comes each tenth of a second for a minute."""
    read: list[float] = []
    shared = Looks()

    async def reading() -> int:
        read.append(clock.now)
        clock.now += takes
        return len(read)

    async def watch() -> None:
        end = clock.now + 60
        while clock.now < end:
            await shared.at("state", reading, 1.0)
            clock.now += 0.1

    asyncio.run(watch())
    return read, shared


@pytest.mark.parametrize(("takes", "apart"), [(0.001, 1.0), (0.019, 1.0), (0.1, 5.0), (0.2, 10.0), (2.0, LONGEST)])
def test_a_look_is_shown_for_fifty_times_as_long_as_it_took_up_to_a_bound(
    clock: _Clock, takes: float, apart: float
) -> None:
    read, _ = _reads(clock, takes)
    gaps = [later - earlier - takes for earlier, later in itertools.pairwise(read)]
    assert gaps
    assert all(apart <= gap + 1e-6 and gap <= apart + 0.2 for gap in gaps)


def test_what_a_button_has_changed_is_seen_at_once_however_slow_the_look_is(clock: _Clock) -> None:
    read, shared = _reads(clock, 2.0)

    async def again() -> int:
        return -1

    shared.expire()
    assert asyncio.run(shared.at("state", again, 1.0)) == -1
    assert len(read) > 1


def test_a_text_is_made_once_a_second_of_the_same_values_and_anew_of_others(clock: _Clock) -> None:
    made: list[int] = []
    shared = Looks()
    state, other = [1], [1]  # equal, and not the same: what was read again is shown again

    def text() -> str:
        made.append(len(made))
        return f"text {len(made)}"

    assert [shared.once("jobs", (state,), text) for _ in range(20)] == ["text 1"] * 20
    assert shared.once("jobs of another role", (state,), text) == "text 2"
    assert shared.once("jobs", (other,), text) == "text 3"
    assert shared.once("jobs", (other, state), text) == "text 4"
    clock.now += looks.SECONDS
    assert shared.once("jobs", (other, state), text) == "text 5"
    for number in range(2 * looks.MOST):
        shared.once(str(number), (), text)
    assert len(shared._made) == looks.MOST
