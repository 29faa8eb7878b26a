"""What a route takes at once, found out: additive increase, multiplicative decrease, decided per window. Pure.

    ramp        a fresh route doubles from one short window to the next while its limit is fully used without a refusal
    probe       a raised limit is on trial for one window: the first overload ends it and takes it back to where it was
    hold        after a decrease or a failed probe nothing is tried for some windows; the nearer the ceiling, the longer
    rest        at the ceiling each overload is paid for with 25 answers before the next trial: under 4 % of 429s,
                whatever the capacity and however long a call takes
    cut         ≥ 2 overloads and ≥ 3 % of a window: to what the answers prove, at most by half, never below 1
    test        a cut is a test: if load was the cause, the share of refusals falls with it
    restored    it did not fall: the limit is back where it was, and if the share is still the same there, ...
    background  ... it has nothing to do with load, and only what comes on top of it counts from then on. At a limit of 1, too:
                chance may lead there, and a share that one call at a time sees as well must not hold the limit there

One bad answer, or one bad second, must not collapse a limit (RELIABILITY U11: halving per error took 128 to single
digits in one burst), and a limit that sits at the ceiling must not pay for knowing it with many 429s. Some providers
refuse a steady share of calls whatever the load is: without the test 5 % of them took a limit of 20 to 3. The
background is tested anew now and then, since refusals of another cause could hide in it.
"""

from __future__ import annotations

import math
import random
from dataclasses import asdict, dataclass, replace
from typing import Any

#: Calls at once that an unknown route starts with: below the tiers that providers sell, above one by one.
START = 16
#: Seconds a window lasts at least and at most; between the two it is as long as a call.
MIN_WINDOW, MAX_WINDOW = 1.0, 2.0
#: Seconds of a window while a fresh route ramps up: longer than a refusal takes to come back, and 1,000 calls at once
#: are reached within two seconds. No refusal means room here: a call over the limit is refused at once, while a long answer
#: would keep a route at its start for a minute.
RAMP_WINDOW = 0.25
#: Overloads below which a window proves nothing, and the share of them that calls for a cut.
_PROOF, _LITTLE = 2, 0.03
#: Refusals that a test must be expected to show, were load not the cause, before it proves anything.
_EVIDENCE = 5.0
#: A share of refusals above this is taken for load without a test, and is no background.
_MOST_BACKGROUND = 0.35
#: A test that sees this many times the share that was there before has not seen the same thing.
_MOST_MORE = 1.6
#: Windows after which a background is tested anew.
_RETEST = 60
#: Windows to hold at the ceiling: at first, and at most. Ten windows bound both the 429s in the steady state
#: (one probe in ten windows) and how late a grown capacity is noticed.
_PATIENCE, _MOST_PATIENCE = 3, 10
#: Answers that each overload at the ceiling is paid for with, and for how many overloads at most: what was refused in
#: one moment proves one thing, however often it is repeated.
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

    Until the next trial `hold` windows and `rest` answers are to come. While a cut is tested, `undo` is the limit
    before it, `before` the refusals per 10,000 calls there, and `calls` and `refused` count what the test has seen.
    """

    limit: int = START
    step: int = START
    base: int = 0
    hold: int = 0
    patience: int = _PATIENCE
    ramp: int = 1  # until the first sign of too much
    rest: int = 0
    undo: int = 0
    before: int = 0
    calls: int = 0
    refused: int = 0
    top: int = (
        0  # the limit before the last test that found load; `calls` and `refused` go on counting until it is back
    )
    restored: int = 0  # the limit is back at `undo`, and the share of refusals is compared once more
    background: int = 0  # refusals per 10,000 calls that have nothing to do with load
    age: int = 0  # windows since the background was found

    def to_json(self) -> dict[str, Any]:
        """As it stands in Redis."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Learned:
        """From Redis; unknown fields of a newer version are left out."""
        return cls(**{name: int(fields[name]) for name in cls.__dataclass_fields__ if name in fields})


def start(cap: int | None) -> Learned:
    """The first state of a route: at the configured limit where there is one, else at a sensible start."""
    return Learned() if cap is None else known(cap)


def known(limit: int) -> Learned:
    """The state of a route whose limit is configured or remembered: nothing to ramp up to."""
    return Learned(limit=limit, step=1, ramp=0)


def step(now: Learned, seen: Window, cap: int | None, rng: random.Random) -> Learned | None:
    """The state after a window; None when the window proves too little yet and should stay open."""
    total = seen.ok + seen.overloaded
    if total == 0:
        return _grow(now, cap, rng) if now.ramp and seen.pressed else None
    usual = now.background / _WHOLE
    beyond = seen.overloaded - usual * total - _spread(usual, total)
    if now.base and seen.overloaded:
        if not usual or beyond > 1:
            return _probe_failed(now, seen, beyond)
        if total < now.limit:
            return None
    if now.undo or now.top > now.limit:
        now = replace(now, calls=now.calls + total, refused=now.refused + seen.overloaded)
    if now.undo:
        return _tested(now)
    share = seen.overloaded / total
    if beyond >= _PROOF and share - usual >= _LITTLE:
        if now.top > now.limit and share <= _MOST_BACKGROUND:
            return _doubted(now)
        # A refusal is seen at once, an answer after a call's time: where the limit is used, so many calls were made at least.
        return _cut(now, seen.overloaded, max(total, now.limit) if seen.pressed else total)
    if beyond > 0 and share - usual >= _LITTLE:
        return None
    if usual and now.age >= _RETEST and not now.base:
        return _test(replace(now, background=0), usual, usual)
    now = replace(now, rest=max(0, now.rest - seen.ok), age=now.age + 1)
    if not seen.pressed or beyond > 0:
        return replace(now, base=0, ramp=0 if beyond > 0 else now.ramp)
    return _grow(now, cap, rng)


#: Shares are kept as whole numbers of 10,000.
_WHOLE = 10_000


def _spread(share: float, calls: int) -> float:
    """How far the refusals of `calls` calls may be above their share by chance: two standard deviations."""
    return 2 * math.sqrt(share * (1 - share) * calls)


def _probe_failed(now: Learned, seen: Window, beyond: float) -> Learned:
    kept = replace(now, limit=now.base, step=1, base=0, ramp=0, rest=0)
    if now.limit - now.base > 1:
        return replace(kept, hold=1)
    patience = min(_MOST_PATIENCE, now.patience * 2)
    return replace(kept, hold=patience, patience=patience, rest=_paid(beyond if now.background else seen.overloaded))


def _paid(refusals: float) -> int:
    return _ANSWERS * min(_MOST_PAID, math.ceil(refusals))


def _cut(now: Learned, refused: int, calls: int) -> Learned:
    """Lower the limit to what the answers prove: of so many at once so many were answered."""
    share, usual = refused / calls, now.background / _WHOLE
    beyond = (share - usual) / (1 - usual)
    if beyond > _MOST_BACKGROUND:
        lower = _lowered(now.limit, beyond)
        rest = _paid(refused) if now.limit - lower <= 1 else 0
        return replace(_plain(now), limit=lower, rest=rest, background=now.background)
    return _test(now, share, beyond)


def _test(now: Learned, share: float, beyond: float) -> Learned:
    """Lower the limit as if a share of refusals came from load, and remember what to compare with."""
    lower = _lowered(now.limit, beyond)
    tested = replace(_plain(now), limit=lower, background=now.background)
    return replace(tested, undo=now.limit, before=round(share * _WHOLE))


def _lowered(limit: int, share: float) -> int:
    return max(1, limit // 2, min(limit - 1, round(limit * (1 - share))))


def _plain(now: Learned) -> Learned:
    """Nothing on trial and nothing tested; growth waits."""
    return Learned(limit=now.limit, step=1, hold=_PATIENCE, patience=now.patience, ramp=0)


def _doubted(now: Learned) -> Learned:
    """Refusals below a limit that a test found too high: chance may have misled it, so the two are compared again."""
    share = max(1, round(now.refused / now.calls * _WHOLE))
    return replace(_plain(now), limit=now.top, undo=now.top, before=share, restored=1, background=now.background)


def _tested(now: Learned) -> Learned:
    """A window of a test. First the lower limit is compared with the one before, then that one with itself."""
    before, usual = now.before / _WHOLE, now.background / _WHOLE
    share = now.refused / now.calls
    surprising = now.refused > before * now.calls + 1.5 * _spread(before, now.calls) + _PROOF
    if not surprising and (before - usual) * now.calls < _EVIDENCE:
        return now
    if surprising or share > _MOST_MORE * before or share > _MOST_BACKGROUND:
        # More than before although the limit is not higher: the load has changed, and what was measured is void.
        return _cut(replace(now, background=0), now.refused, now.calls)
    if now.restored:
        return replace(_plain(now), hold=0, background=round(share * _WHOLE))
    if share >= (before + usual) / 2:
        return replace(now, limit=now.undo, calls=0, refused=0, restored=1, before=round((before + share) / 2 * _WHOLE))
    # Load it was. The limit before is tried once more at one step: chance may have lowered the share.
    counted = replace(_plain(now), calls=now.calls, refused=now.refused, top=now.undo, background=now.background)
    return replace(counted, step=max(1, now.undo - now.limit))


def _grow(now: Learned, cap: int | None, rng: random.Random) -> Learned:
    if now.hold or now.rest:
        return replace(now, base=0, hold=max(0, now.hold - 1))
    patience = _PATIENCE if now.base else now.patience
    most = _CEILING if cap is None else cap
    limit = min(most, now.limit + (now.limit if now.ramp else min(now.step, now.limit)))
    if limit <= now.limit:
        return replace(now, base=0, step=1, patience=patience, ramp=0)
    taller = min(_CEILING, max(now.step + 1, round(now.step * rng.uniform(*_STEP_GROWTH))))
    top = now.top if limit <= now.top else 0
    return replace(now, limit=limit, step=taller, base=now.limit, hold=0, patience=patience, top=top)


def window_seconds(mean_call: float, rng: random.Random, *, ramp: bool = False) -> float:
    """How long the next window lasts: as long as a call within bounds, a tenth more or less at random."""
    seconds = RAMP_WINDOW if ramp else min(MAX_WINDOW, max(MIN_WINDOW, mean_call))
    return seconds * rng.uniform(0.9, 1.1)
