"""The reckoning after a soak: what the checker says, what the history explains, and the numbers of both."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

from tests.rig.evidence import Row
from tests.rig.waiting import eventually
from tests.soak.arena import LEASE_SECONDS, Arena
from tests.soak.history import History
from tests.soak.load import Load, scripted_failures
from tests.soak.money import reckon_money
from tests.soak.readers import Readers
from tests.soak.vitals import Life, Vitals

#: Seconds until everything is over once all is healed: the longest wait of a busy route, and a slow machine.
QUIESCE_SECONDS = 600.0
#: How long after its end a fault may still cost a call: the lease runs out, the sweep finds it, the machine is slow.
SHADOW_SECONDS = LEASE_SECONDS + 5.0
#: Lives shorter than this say nothing about growth: pools and caches still fill.
JUDGED_SECONDS = 20 * 60.0
RSS_MB_PER_HOUR = 30.0
FDS_PER_HOUR = 20.0


@dataclass(slots=True)
class Verdict:
    """The numbers of a run, and every promise that it broke.

    Attributes:
        living: billed calls that were made again although their workers lived and did not stand still.
        frozen: those whose workers stood still for longer than a lease.
        mourned: calls that ended with their killed workers, billed or not.
        unheard: claims whose answer was lost with a connection to the database; no call was made.
        forgotten: calls whose cost nobody had looked up at the end, and money that was still set aside.
        endless: readers that came to no end.
    """

    violations: list[str]
    submitted: int
    refused: int
    statuses: dict[str, int]
    lost: int
    doubled: int
    calls: int
    most_calls: int
    unexplained: int
    living: int
    frozen: int
    mourned: int
    unheard: int
    forgotten: int
    kills: int
    billed_usd: Decimal
    ledger_usd: Decimal
    readers: int
    returns: int
    endless: int
    outcomes: dict[str, int]
    webhooks: dict[str, int]
    lives: list[Life]

    @property
    def good(self) -> bool:
        """Whether every promise was kept."""
        return not self.violations


def reckon(arena: Arena, history: History, load: Load, vitals: Vitals, readers: Readers, kills: int) -> Verdict:
    """Wait until everything is over, check I1 to I9, and hold the calls against the history.

    `kills`: those of the storm; the history has the others.
    """
    violations = [] if load.error is None else [f"load: a submission failed with {load.error!r}"]
    try:
        arena.on.quiesce(QUIESCE_SECONDS)
        vitals.look(arena.workers)
        arena.on.check(gaps_allowed=True, all_completed=False)
    except AssertionError as error:
        violations += str(error).splitlines()
    jobs = arena.on.rows("SELECT id, status, text, cancel_requested_at, created_at, finished_at, model FROM jobs_v")
    endless, broken = readers.finish({str(row["id"]): row for row in jobs})
    violations += broken
    books = reckon_money(arena, history)
    violations += books.violations
    completed = Counter(
        row["job_id"] for row in arena.on.rows("SELECT job_id FROM attempts_v WHERE outcome = 'completed'")
    )
    known = {row["id"] for row in jobs if row["finished_at"] is not None}
    lost = [job for job in arena.on.submitted if job not in known]
    doubled = [job for job, count in completed.items() if count > 1]
    calls = Counter(call.job_id for call in arena.on.calls())
    unexplained = list(_unexplained(jobs, calls, history, books.killed))
    violations += [f"lost: {job}" for job in lost] + [f"doubled: {job}" for job in doubled] + unexplained
    violations += [f"I1 {row['id']}: is {row['status']}, and nobody cancelled it" for row in jobs if _wrong_end(row)]
    violations += _deaths(arena, history, kills) + _growth(vitals.oldest(1))
    return Verdict(
        violations=violations,
        submitted=len(arena.on.submitted),
        refused=load.refused,
        statuses=dict(Counter(str(row["status"]) for row in jobs)),
        lost=len(lost),
        doubled=len(doubled),
        calls=calls.total(),
        most_calls=max(calls.values(), default=0),
        unexplained=len(unexplained),
        living=books.living,
        frozen=books.frozen,
        mourned=books.mourned,
        unheard=books.unheard,
        forgotten=books.forgotten,
        kills=kills + sum(event.kills for event in history.events),
        billed_usd=books.billed_usd,
        ledger_usd=books.ledger_usd,
        readers=len(readers),
        returns=readers.returns,
        endless=endless,
        outcomes=_counted(arena, "outcome", "attempts_v"),
        webhooks=_counted(arena, "status", "webhook_events_v"),
        lives=vitals.oldest(),
    )


def _counted(arena: Arena, column: str, view: str) -> dict[str, int]:
    rows = arena.on.rows(f"SELECT {column} AS name, count(*) AS n FROM {view} GROUP BY 1 ORDER BY 2 DESC")
    return {str(row["name"]): int(row["n"]) for row in rows}


def _wrong_end(job: Row) -> bool:
    """A job of the soak is completed, or was cancelled because somebody asked."""
    return job["status"] != "completed" and not (job["status"] == "cancelled" and job["cancel_requested_at"])


def _unexplained(jobs: Iterable[Row], calls: Counter[str], history: History, killed: Counter[str]) -> Iterator[str]:
    """Jobs with more calls than one, what their scripts break, those that died with their workers, and one for each other fault."""
    for job in jobs:
        made = calls[job["id"]]
        allowed = 1 + scripted_failures(job["model"])
        if made <= allowed:
            continue
        began, ended = _unix(job["created_at"]), _unix(job["finished_at"])
        faults = history.costly_between(began, ended, shadow=SHADOW_SECONDS)
        lost = killed[job["id"]]
        if made > allowed + faults + lost:
            yield (
                f"I3 {job['id']}: {made} calls; its script explains {allowed}, {lost} died with their workers,"
                f" {faults} other faults hit its time"
            )


def _unix(at: datetime | None) -> float:
    if at is None:
        return float("inf")
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def _deaths(arena: Arena, history: History, storm: int) -> list[str]:
    """I9: workers died of what was done to them, as often as it was done, and of nothing else."""
    kills = storm + sum(event.kills for event in history.events)
    terms = sum(event.terms for event in history.events)

    def codes() -> list[int]:
        return [code for mortal in arena.mortals for code in mortal.returncodes]

    try:
        eventually(lambda: codes().count(-signal.SIGKILL) >= kills, 60, "the supervisors saw every kill")
    except AssertionError:
        return [f"I9: {kills} kills, and the supervisors saw {codes().count(-signal.SIGKILL)}"]
    strange = [code for code in codes() if code not in {-signal.SIGKILL, 0}]
    found = [f"I9: a worker ended with {code}, which nobody asked for" for code in strange]
    if codes().count(-signal.SIGKILL) > kills:
        found.append(f"I9: {codes().count(-signal.SIGKILL)} workers died of SIGKILL, {kills} were killed")
    if codes().count(0) > terms:
        found.append(f"I9: {codes().count(0)} workers ended by themselves, {terms} were asked to")
    return found


def _growth(lives: list[Life]) -> list[str]:
    """I7: the worker that lived longest keeps its size, once it has lived long enough to tell."""
    found = []
    for life in lives:
        if life.seconds < JUDGED_SECONDS:
            continue
        if life.rss_slope() > RSS_MB_PER_HOUR:
            found.append(f"I7 {life.name}: grows by {life.rss_slope():.1f} MB an hour")
        if life.fds_slope() > FDS_PER_HOUR:
            found.append(f"I7 {life.name}: opens {life.fds_slope():.1f} descriptors an hour that it does not close")
    return found
