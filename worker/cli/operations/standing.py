"""How the whole stands, in one look: what `stockpot status` prints once and `stockpot top` draws again and again.

Read from the database and from the limits in Redis. Without Redis the routes are unknown, and that is a concern itself.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from worker.base.errors import Unreachable
from worker.base.figures import counted, money, span
from worker.cli.opening import database, producer
from worker.db.batches import records
from worker.db.batches.records import BatchRow
from worker.db.budgets.tables import ALL_TENANTS
from worker.limits.limiter import RouteState
from worker.producer.fleet import LATELY, Fleet, FleetState, Rates, WorkerRow
from worker.producer.waiting import again, paused_words

#: An interactive job that is due waits for longer than this: its user looks at a page that stands. In seconds.
INTERACTIVE_SECONDS = 60.0
#: A webhook that waits longer than the first two retries take.
WEBHOOK_SECONDS = 900.0
#: Of the jobs that ended lately, more than this share ended badly.
BAD_SHARE = 0.05
_HELD = {
    "max_cost": "has reached its --max-cost: `stockpot batch resume {id} --max-cost USD` lets it go on",
    "failing": "holds itself, its first lines all failed alike: `stockpot batch status {id}` has why",
    "unpriced": "has a --max-cost, and the cost of its calls is unknown: give prices (STOCKPOT_PRICES), then"
    " `stockpot batch resume {id}`",
    "paused": "is paused: `stockpot batch resume {id}` lets it go on",
    "window": "waits for its daily window",
}

#: It stands until a person acts, and not because one has paused it.
_STANDS = frozenset({"max_cost", "failing", "unpriced"})


@dataclass(frozen=True, slots=True)
class Concern:
    """Something to know. `urgent`: it stands until a person acts, or people wait."""

    text: str
    urgent: bool = True


@dataclass(frozen=True, slots=True)
class Standing:
    """Everything at one moment; `routes` is None while Redis does not answer."""

    state: FleetState
    workers: list[WorkerRow]
    routes: list[RouteState] | None
    batches: list[BatchRow]
    failing: dict[str, int]
    rates: Rates
    spent_today: Decimal | None
    away: str = ""  # what Redis is not, in words
    concerns: list[Concern] = field(default_factory=list)

    @property
    def well(self) -> bool:
        """Whether no operator is needed."""
        return not any(concern.urgent for concern in self.concerns)

    @property
    def per_minute(self) -> float:
        """Jobs that ended per minute, lately."""
        return sum(sum(line[-LATELY:]) for line in self.rates.ended.values()) / LATELY

    @property
    def night(self) -> Night | None:
        """How far all open batches are; None when there is none."""
        if not self.batches:
            return None
        lines, done = sum(one.total for one in self.batches), sum(one.done for one in self.batches)
        waiting = sum(one.total - one.done for one in self.batches if one.hold_reason is None)
        pace = self.per_minute
        return Night(len(self.batches), lines, done, waiting / pace * 60 if pace and waiting else None)


@dataclass(frozen=True, slots=True)
class Night:
    """The open batches together. `seconds_left` is for those that are not held, at the pace of all jobs lately."""

    batches: int
    lines: int
    done: int
    seconds_left: float | None


@contextlib.contextmanager
def looking() -> Iterator[Callable[[], Standing]]:
    """The way to look, again and again over the same connections.

    Raises:
        SettingsError: the configuration is wrong.
        Unreachable: the database does not answer, or needs `stockpot db upgrade`. So does each look.
    """
    with database() as opened, producer() as pot:
        fleet = Fleet(opened)

        def look() -> Standing:
            routes, away = None, ""
            try:
                routes = pot.routes.list()
            except Unreachable as error:
                away = str(error).splitlines()[0]
            found = Standing(
                state=fleet.state(),
                workers=fleet.workers(),
                routes=routes,
                batches=opened.read(records.active),
                failing=fleet.failing(tenant=None, now_ms=int(time.time() * 1000)),
                rates=fleet.rates("hour"),
                spent_today=fleet.spent_today(tenant=None),
                away=away,
            )
            found.concerns.extend(concerns(found))
            return found

        yield look


def concerns(now: Standing) -> Iterator[Concern]:
    """What the operator should know, the worst first, each with the command that helps."""
    yield from _of_workers(now)
    if now.routes is None:
        yield Concern(f"{now.away}: live events and shared limits rest; `stockpot doctor`")
    yield from _of_routes(now.routes or ())
    for budget in now.state.budgets:
        if budget.shut:
            whose = "the budget of all tenants" if budget.tenant == ALL_TENANTS else f"tenant {budget.tenant}'s budget"
            of = f"{money(budget.spent)} of {money(budget.limit)}, {'today' if budget.period == 'day' else 'in all'}"
            yield Concern(f"{whose} is used up ({of}): `stockpot budget set` raises it")
    for batch in now.batches:
        if batch.hold_reason is not None:
            why = _HELD.get(batch.hold_reason, f"is held: {batch.hold_reason}").format(id=batch.id)
            yield Concern(f"{batch.id} {why}", urgent=batch.hold_reason in _STANDS)
    if now.state.webhooks_oldest_seconds > WEBHOOK_SECONDS:
        age = span(now.state.webhooks_oldest_seconds)
        yield Concern(f"a webhook has waited for {age}: `stockpot webhooks events` shows for whom")
    yield from _of_failures(now)


def _of_workers(now: Standing) -> Iterator[Concern]:
    state = now.state
    if not state.workers_alive:
        yield Concern("no worker is running: `stockpot worker` starts one")
    elif state.sweeper_seconds is not None and state.sweeper_seconds < 0:
        yield Concern("no sweeper: no worker has reached the database for a term; see StockpotNobodySweeps")
    if state.workers_silent:
        yield Concern(
            f"{counted(state.workers_silent, 'worker')} went without a word: `stockpot workers`", urgent=False
        )
    versions = sorted({worker.version for worker in now.workers if worker.alive})
    if len(versions) > 1:
        yield Concern(f"workers of several versions: {', '.join(versions)}", urgent=False)
    oldest = state.lanes["interactive"].oldest_due_seconds
    if oldest > INTERACTIVE_SECONDS:
        yield Concern(f"an interactive job has waited for {span(oldest)}: `stockpot list --status queued`")


def _of_routes(routes: Sequence[RouteState]) -> Iterator[Concern]:
    """A line for each reason: a key that is refused stops all its models at once."""
    paused: dict[str, list[RouteState]] = {}
    for route in routes:
        if route.paused is not None:
            paused.setdefault(paused_words(route), []).append(route)
    for words, same in paused.items():
        then, seconds = again(min(same, key=lambda one: one.until or 0.0))
        more = f" ({len(same)} routes)" if len(same) > 1 else ""
        yield Concern(words + more + (f"; {then} in {span(seconds)}" if then else ""))


def _of_failures(now: Standing) -> Iterator[Concern]:
    bad = now.failing
    if not bad:
        return
    ended = sum(sum(line) for line in now.rates.ended.values())
    failed = sum(sum(now.rates.ended[status]) for status in ("failed", "expired"))
    why = ", ".join(f"{count:,} {name}" for name, count in list(bad.items())[:3])
    urgent = bool(ended) and failed / ended > BAD_SHARE
    yield Concern(f"ended badly within the hour: {why} (`stockpot list --status failed`)", urgent=urgent)
