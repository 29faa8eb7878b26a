"""The money of a soak: the ledger is the provider's, by itself, and no living worker let a call be paid for twice."""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal

from tests.rig import books
from tests.rig.evidence import Row
from tests.rig.waiting import NeverHappened, eventually
from tests.soak.arena import LEASE_SECONDS, TOTAL_SECONDS, Arena
from tests.soak.history import History
from worker.base.money import PICO
from worker.db.budgets import reservations

#: Until the last call is known not to be in the provider's log any more, and then some looks.
LOOK_UP_SECONDS = max(1.5 * TOTAL_SECONDS, 60.0) + 120.0
#: What the sums may differ by, in US dollars.
TOLERANCE = Decimal("1e-6")
#: A worker that stood still for less than that has not lost its leases by it: it renews them three times in one.
HARMLESS = 0.5 * LEASE_SECONDS
#: A lease that ran out is noticed so many seconds later at most: the freeze has to be over for that long.
NOTICED_SECONDS = 2 * LEASE_SECONDS + 5.0
#: A claim whose answer is lost with its connection began within so many seconds of the database's fault.
CLAIM_SECONDS = 5.0


@dataclass(slots=True)
class Books:
    """What the comparison found.

    Attributes:
        unheard: claims that were committed while their connection broke: their workers never knew, and made no call.
        killed: lost attempts of killed workers, by job.
    """

    billed_usd: Decimal
    ledger_usd: Decimal
    living: int = 0
    frozen: int = 0
    mourned: int = 0
    unheard: int = 0
    forgotten: int = 0
    killed: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)


def reckon_money(arena: Arena, history: History) -> Books:
    """Wait for the last look-up, which the workers do by themselves, and compare everything."""
    on = arena.on
    unasked = "outcome <> 'running' AND reconciled IN ('due', 'late')"
    with contextlib.suppress(NeverHappened):
        eventually(lambda: not on.count(unasked, "attempts"), LOOK_UP_SECONDS, "every call is looked up")
    bills, ledger = books.billed(on), books.ledger(on)
    costs = {name: Decimal(row["cost_picousd"] or 0) / PICO for name, row in ledger.items()}
    found = Books(sum(bills.values(), Decimal(0)), sum(costs.values(), Decimal(0)))
    for name in bills.keys() | costs.keys():
        if costs.get(name) != bills.get(name, Decimal(0)):
            outcome = ledger[name]["outcome"] if name in ledger else "no attempt"
            found.violations.append(f"money {name}: {outcome}, cost {costs.get(name)}, billed {bills.get(name)}")
    if abs(found.billed_usd - found.ledger_usd) > TOLERANCE:
        found.violations.append(f"money: the ledger has {found.ledger_usd}, the provider billed {found.billed_usd}")
    found.forgotten = on.count(unasked, "attempts")
    [budget] = books.write(on, reservations.every)
    if budget.reserved_picousd:
        found.forgotten += 1
        found.violations.append(f"money: {budget.reserved_usd} USD are still set aside")
    if abs(budget.spent_usd - found.billed_usd) > TOLERANCE:
        found.violations.append(f"money: the budget has counted {budget.spent_usd} of {found.billed_usd}")
    _count_the_lost(arena, history, found, set(bills))
    return found


def _count_the_lost(arena: Arena, history: History, found: Books, billed: set[str]) -> None:
    """Each call that was lost: with a worker that was killed, with one that stood still, or with one that lived."""
    columns = "job_id, attempt, worker, started_at, finished_at"
    called = {call.client_request_id for call in arena.on.calls()}
    for row in arena.on.rows(f"SELECT {columns} FROM attempts_v WHERE outcome = 'lost'"):
        if row["worker"] in arena.killed:
            found.mourned += 1
            found.killed[row["job_id"]] += 1
        elif _stood_still(arena, row):
            found.frozen += 1
        elif (name := f"{row['job_id']}.{row['attempt']}") not in called and _unheard(history, row):
            found.unheard += 1
        else:
            found.living += name in billed
            found.violations.append(f"I3 {name}: lost by {row['worker']}, which lived; billed: {name in billed}")


def _unheard(history: History, row: Row) -> bool:
    """Whether the database was hit when this claim was made: it was committed, and its worker was not told."""
    began = _unix(row["started_at"].replace(tzinfo=row["started_at"].tzinfo or UTC))
    return any(
        event.name.startswith("postgres-") and event.began - CLAIM_SECONDS <= began <= event.ended + CLAIM_SECONDS
        for event in history.events
    )


def _stood_still(arena: Arena, row: Row) -> bool:
    began, ended = (at.replace(tzinfo=at.tzinfo or UTC) for at in (row["started_at"], row["finished_at"]))
    return any(
        freeze.owner == row["worker"]
        and freeze.ended - freeze.began > HARMLESS
        and _unix(began) <= freeze.ended
        and freeze.began <= _unix(ended)
        and _unix(ended) <= freeze.ended + NOTICED_SECONDS
        for freeze in arena.freezes
    )


def _unix(at: datetime) -> float:
    return at.timestamp()
