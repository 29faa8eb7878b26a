"""Budgets as a worker uses them: set, reserve, settle and charge, sweep."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from sqlalchemy import Connection

from tests.factories import claimed, request, settlement, submitted
from worker.base.money import PICO
from worker.db.budgets import reservations
from worker.db.budgets.budget import Budget
from worker.db.budgets.reservations import Ask
from worker.db.connect import Database
from worker.db.jobs import leases, usage_days
from worker.db.jobs.claim import ClaimedJob
from worker.db.jobs.settle import Settlement, write
from worker.job.consequences import Consequences

DOLLAR = int(PICO)


def put(database: Database, dollars: float, tenant: str = "default", period: str = "day") -> None:
    """Set a budget."""
    database.write(lambda conn: reservations.put(conn, tenant, period, int(dollars * DOLLAR)))


def budget(database: Database, tenant: str = "default", period: str = "day") -> Budget:
    """A budget as it stands."""
    [one] = [one for one in database.read(reservations.every) if (one.tenant, one.period) == (tenant, period)]
    return one


def running(database: Database, count: int = 1, tenant: str = "default") -> list[ClaimedJob]:
    """Jobs that have just been claimed."""
    ids = submitted(database, *[request(f"{number}", tenant=tenant) for number in range(count)])
    return claimed(database, *ids)


def reserve(database: Database, jobs: list[ClaimedJob], dollars: float | None, *, guess: bool = False) -> set[str]:
    """Ask for the same amount for each, for all that is left at most if it is a guess; the ids of those that do not fit."""
    amount = None if dollars is None else int(dollars * DOLLAR)
    asks = [Ask(job.id, job.attempt, job.fence, job.tenant, amount, guess=guess) for job in jobs]
    return database.write(lambda conn: reservations.reserve(conn, asks)).refused


def settle(database: Database, job: ClaimedJob, dollars: float | None, **fields: Any) -> None:
    """Settle as the worker does: the result, then the charge, in one transaction."""
    cost = None if dollars is None else Decimal(str(dollars))
    written(database, settlement(job, cost_usd=cost, cost_source="provider" if cost else None, **fields))


def written(database: Database, one: Settlement) -> None:
    """Write and charge one settlement."""

    def verb(conn: Connection) -> None:
        if write(conn, [one]) and one.cost_usd:
            usage_days.count(conn, [(one.job_id, one.attempt)])
            reservations.charge(conn, [(one.job_id, one.attempt)])

    database.write(verb)


def sweep(database: Database) -> None:
    """Take back what was lost, as the sweeper does."""
    database.write(lambda conn: Consequences().write(conn, leases.reclaim(conn)))
