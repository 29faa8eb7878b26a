"""Models whose route is shut: none of their jobs is claimed, except one at a time, sent ahead to see.

    open ── a job came back: its route is paused ──▶ held; that job is the scout
    held ── its time is over: the scout is claimed ──▶ out
    out ── the scout got through, or is not to be had ──▶ open        out ── it came back, too ──▶ held

A job that was let through and refused is no scout: the refusal may be its own. Another job that had come back is the next;
where none is known, one that is due is looked for (`db.jobs.scouts`), and where none is due the model opens.

So a pause of a night costs a worker the jobs that it had in hand when it began, and then one claim in some seconds.
Pure; times are seconds on one rising clock.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

#: Seconds until the first scout goes, and between the later ones. It waits at the gate for a while, too, and is there
#: when the route's own probing wants a call to be made.
FIRST_SECONDS, MOST_SECONDS = 1.0, 4.0
#: Seconds after a scout is due: the database's clock decides, and the row has milliseconds.
DUE_SECONDS = 0.05
#: A scout without an outcome is given up after this long: another worker has its job, or it was cancelled.
OUT_SECONDS = 10.0
#: Jobs of a held model that are remembered as scouts to come.
_MOST_OTHERS = 64


@dataclass(slots=True)
class _Hold:
    scout: str | None
    until: float
    out: bool = False
    others: deque[str] = field(default_factory=lambda: deque(maxlen=_MOST_OTHERS))


class PausedModels:
    """The held models of one worker."""

    def __init__(self) -> None:
        self._held: dict[str, _Hold] = {}

    def turned_away(self, model: str, job: str, seconds: float, now: float, *, refused: bool = False) -> None:
        """A job came back because its route is paused; it is due again in `seconds`. `refused`: it was so itself, once."""
        hold = self._held.get(model)
        if hold is None:
            wait = FIRST_SECONDS if refused else max(FIRST_SECONDS, seconds + DUE_SECONDS)
            self._held[model] = _Hold(None if refused else job, now + wait)
        elif hold.scout != job:
            if refused:
                return
            if hold.scout is None:
                hold.scout = job
            elif job not in hold.others:
                hold.others.append(job)
        elif refused:
            hold.scout = hold.others.popleft() if hold.others else None
            hold.until, hold.out = now + MOST_SECONDS, False
        else:
            hold.until, hold.out = now + max(MOST_SECONDS, seconds + DUE_SECONDS), False

    def ended(self, model: str, job: str) -> bool:
        """A job's story is over; True when it was the scout and got through, so that the model is open again."""
        hold = self._held.get(model)
        if hold is None or hold.scout != job or not hold.out:
            return False
        del self._held[model]
        return True

    def without_scout(self, now: float) -> list[str]:
        """The models whose time has come and whose next scout is not known: look for a job that is due."""
        return [model for model, hold in self._held.items() if hold.until <= now and hold.scout is None]

    def found(self, model: str, job: str | None) -> None:
        """The next scout of a model; without one that is due, the model is open."""
        hold = self._held.get(model)
        if hold is not None and hold.scout is None:
            if job is None:
                del self._held[model]
            else:
                hold.scout = job

    def scouts(self, now: float) -> list[str]:
        """The scouts whose time has come: claim them. One that is out for too long frees its model instead."""
        due = []
        for model, hold in list(self._held.items()):
            if hold.until > now:
                continue
            if hold.out:
                del self._held[model]
            elif hold.scout is not None:
                hold.out, hold.until = True, now + OUT_SECONDS
                due.append(hold.scout)
        return due

    def missed(self, job: str) -> None:
        """A scout could not be claimed: it is another worker's, or over. Its model is open."""
        for model, hold in list(self._held.items()):
            if hold.scout == job:
                del self._held[model]

    def clear(self) -> None:
        """Something was resumed: everything is open."""
        self._held.clear()

    @property
    def models(self) -> frozenset[str]:
        """The models to leave alone now."""
        return frozenset(self._held)
