"""What a route takes at once, found out: additive increase, multiplicative decrease, decided per window. Pure.

    ramp     a fresh route doubles from one short window to the next while all of its limit is used and nobody objects
    probe    a raised limit is on trial for one window: the first overload ends it and takes it back to where it was
    hold     after a decrease or a failed probe nothing is tried for some windows; the nearer the ceiling, the longer
    rest     at the ceiling each overload is paid for with 25 answers before the next trial: under 4 % of 429s, whatever
             the capacity and however long a call takes
    cut      ≥ 2 overloads and ≥ 10 % of a window: × 0.9; ≥ 50 %: × 0.5; ≥ 3 %: one less. Once per window, never below 1

One bad answer, or one bad second, must not collapse a limit (RELIABILITY U11: halving per error took 128 to single
digits in one burst), and a limit that sits at the ceiling must not pay for knowing it with many 429s.
"""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass, replace
from typing import Any

#: Calls at once that a route nobody knows starts with: below the tiers that providers sell, above one by one.
START = 16
#: Seconds a window lasts at least and at most; between the two it is as long as a call.
MIN_WINDOW, MAX_WINDOW = 1.0, 2.0
#: Seconds of a window while a fresh route ramps up: longer than a refusal takes to come back, and 1,000 calls at once
#: are reached within two seconds. Silence is consent here: who is over a limit is told so at once, while a long answer
#: would keep a route at its start for a minute.
RAMP_WINDOW = 0.25
#: Overloads below which a window proves nothing, and the shares that call for the three cuts.
_PROOF = 2
_MUCH, _SOME, _LITTLE = 0.5, 0.1, 0.03
#: Windows to hold at the ceiling: at first, and at most. Ten windows bound both the 429s in the steady state
#: (one probe in ten windows) and how late a grown capacity is noticed.
_PATIENCE, _MOST_PATIENCE = 3, 10
#: Answers that each overload at the ceiling is paid for with, and for how many overloads at most: what was refused in
#: one moment says one thing, however often it was said.
_ANSWERS, _MOST_PAID = 25, 8
#: A step grows by a factor between these, so that many routes of one upstream do not climb in step.
_STEP_GROWTH = (1.5, 2.0)
#: No limit grows beyond this: it is a bound for arithmetic, not for any upstream.
_CEILING = 100_000


@dataclass(frozen=True, slots=True)
class Window:
    """What all workers saw in one window. `pressed`: the limit was used to 90 % or more."""

    ok: int
    overloaded: int
    pressed: bool


@dataclass(frozen=True, slots=True)
class Learned:
    """The learned limit and how it goes on. `base` is the proven limit under a probe, 0 when nothing is on trial.

    Until the next trial `hold` windows and `rest` answers are to come.
    """

    limit: int = START
    step: int = START
    base: int = 0
    hold: int = 0
    patience: int = _PATIENCE
    ramp: int = 1  # until the first sign of too much
    rest: int = 0

    def to_json(self) -> dict[str, Any]:
        """As it stands in Redis."""
        return asdict(self)

    @classmethod
    def from_json(cls, said: dict[str, Any]) -> Learned:
        """From Redis; unknown fields of a newer version are left out."""
        return cls(**{name: int(said[name]) for name in cls.__dataclass_fields__ if name in said})


def start(cap: int | None) -> Learned:
    """The first state of a route: at the configured limit where there is one, else at a sensible start."""
    return Learned() if cap is None else known(cap)


def known(limit: int) -> Learned:
    """The state of a route whose limit is told or remembered: nothing to ramp up to."""
    return Learned(limit=limit, step=1, ramp=0)


def step(now: Learned, seen: Window, cap: int | None, rng: random.Random) -> Learned | None:
    """The state after a window; None when the window proves too little yet and should stay open."""
    total = seen.ok + seen.overloaded
    if total == 0:
        return _grow(now, cap, rng) if now.ramp and seen.pressed else None
    share = seen.overloaded / total
    if now.base and seen.overloaded:
        return _probe_failed(now, seen)
    if seen.overloaded >= _PROOF and share >= _LITTLE:
        return _cut(now, seen, share)
    if seen.overloaded and share >= _LITTLE:
        return None
    now = replace(now, rest=max(0, now.rest - seen.ok))
    if not seen.pressed or seen.overloaded:
        return replace(now, base=0, ramp=0 if seen.overloaded else now.ramp)
    return _grow(now, cap, rng)


def _probe_failed(now: Learned, seen: Window) -> Learned:
    if now.limit - now.base > 1:
        return Learned(limit=now.base, step=1, hold=1, patience=now.patience, ramp=0)
    patience = min(_MOST_PATIENCE, now.patience * 2)
    return Learned(limit=now.base, step=1, hold=patience, patience=patience, ramp=0, rest=_paid(seen))


def _paid(seen: Window) -> int:
    return _ANSWERS * min(_MOST_PAID, seen.overloaded)


def _cut(now: Learned, seen: Window, share: float) -> Learned:
    if share >= _MUCH:
        limit = now.limit // 2
    elif share >= _SOME:
        limit = min(now.limit - 1, int(now.limit * 0.9))
    else:
        limit = now.limit - 1
    rest = _paid(seen) if limit == now.limit - 1 else 0
    return Learned(limit=max(1, limit), step=1, hold=_PATIENCE, patience=now.patience, ramp=0, rest=rest)


def _grow(now: Learned, cap: int | None, rng: random.Random) -> Learned:
    if now.hold or now.rest:
        return replace(now, base=0, hold=max(0, now.hold - 1))
    patience = _PATIENCE if now.base else now.patience
    most = _CEILING if cap is None else cap
    limit = min(most, now.limit + (now.limit if now.ramp else min(now.step, now.limit)))
    if limit <= now.limit:
        return replace(now, base=0, step=1, patience=patience, ramp=0)
    taller = min(_CEILING, max(now.step + 1, round(now.step * rng.uniform(*_STEP_GROWTH))))
    return Learned(limit=limit, step=taller, base=now.limit, hold=0, patience=patience, ramp=now.ramp)


def window_seconds(mean_call: float, rng: random.Random, *, ramp: bool = False) -> float:
    """How long the next window lasts: as long as a call within bounds, a tenth more or less at random."""
    seconds = RAMP_WINDOW if ramp else min(MAX_WINDOW, max(MIN_WINDOW, mean_call))
    return seconds * rng.uniform(0.9, 1.1)
