"""`Fleet`: all jobs, workers and rates in one look, of one tenant or of all: for the dashboard. Reads, but for `drain`.

Every statement is bounded: it reads what waits or runs, one page of a list, or the roll-ups.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Unpack

from sqlalchemy import Connection, text

from api_schemas.job_views import PAGE
from api_schemas.jobs import JobDetail
from worker.base.errors import NotFound
from worker.base.metrics import CALL_BUCKETS
from worker.base.money import PICO
from worker.db import fleet
from worker.db.connect import Database
from worker.db.fleet import FleetState
from worker.db.jobs import listing, lookup, usage_days
from worker.db.jobs.listing import Filters, Page
from worker.db.rates import records
from worker.db.workers import registry
from worker.db.workers.registry import WorkerRow

__all__ = ["Filters", "Fleet", "FleetState", "Page", "Rates", "WorkerRow"]

#: How far back a plot looks, and its steps, in seconds.
SPANS = {"hour": (3_600, 60), "day": (86_400, 600), "week": (604_800, 3_600)}
#: Steps that "lately" means: some minutes of the hour's plot.
LATELY = 5
#: Jobs that run and are named.
HELD_AT_MOST = 2_000
#: Jobs that ended badly and are looked at for why.
BAD_AT_MOST = 5_000
#: Newest calls whose marks are counted: some ten milliseconds.
LOGGED_AT_MOST = 5_000
_QUANTILES = (("first", 50), ("first", 95), ("call", 50), ("call", 95))
#: An id of so many milliseconds ago begins with this many.
_HOUR_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class Rates:
    """What was done in each step, `at` being the Unix time of its beginning. Quantiles are None where nothing was."""

    step: int
    at: list[int]
    ended: dict[str, list[int]]
    cost_usd: list[float]
    oldest: list[int]
    in_flight: list[int]
    quantiles: dict[str, list[float | None]]
    lately: dict[str, float | None]  # the quantiles of the last `LATELY` steps together


@dataclass(frozen=True, slots=True)
class RouteRates:
    """A model's calls within the last hour: its limit in each minute (0: no call), and how many were refused with 429."""

    limits: list[int]
    calls: int
    refused: int


@dataclass(frozen=True, slots=True)
class Reconciled:
    """Calls of one mark in the provider's log (`worker.db.jobs.ledger`), and their cost; None where none is known."""

    mark: str
    calls: int
    cost_usd: Decimal | None


class Fleet:
    """What is there. Lists and numbers may come from a replica, which is a little behind; a single job does not."""

    def __init__(self, database: Database, replica: Database | None = None) -> None:
        self._primary = database
        self._database = replica or database

    def state(self) -> FleetState:
        """Lanes, what they wait on, workers in numbers, budgets."""
        return self._database.read(fleet.read)

    def workers(self) -> list[WorkerRow]:
        """Every worker that is known."""
        return self._database.read(registry.listed)

    def held(self) -> dict[str, list[str]]:
        """The jobs that run, by the worker that holds them; `HELD_AT_MOST` in all."""
        query = text("SELECT lease_owner, id FROM jobs WHERE status = 'in_progress' ORDER BY lease_owner LIMIT :most")
        found: dict[str, list[str]] = {}
        for row in self._database.read(lambda conn: conn.execute(query, {"most": HELD_AT_MOST}).all()):
            found.setdefault(row.lease_owner, []).append(row.id)
        return found

    def drain(self, owner: str) -> None:
        """Ask a worker to finish what it has and end. Raises NotFound."""
        if not self._primary.write(lambda conn: registry.ask_to_drain(conn, owner)):
            raise NotFound(f"no worker is called {owner[:128]}")

    def page(
        self, *, tenant: str | None, limit: int = PAGE, before: str | None = None, **filters: Unpack[Filters]
    ) -> Page:
        """As `Stockpot.page`, of a tenant or of all."""
        return self._database.read(
            lambda conn: listing.page(conn, tenant=tenant, limit=limit, before=before, **filters)
        )

    def job(self, job_id: str, *, tenant: str | None) -> JobDetail:
        """As `Stockpot.get`, of a tenant or of all. Raises NotFound."""
        return self._primary.read(lambda conn: lookup.job(conn, job_id, tenant=tenant))

    def request(self, job_id: str) -> str | None:
        """A job's request as it was given; None when it was forgotten."""
        return self._primary.read(lambda conn: lookup.request(conn, job_id))

    def error_bodies(self, job_id: str) -> dict[int, str]:
        """What the provider answered to a job's calls that failed, by attempt."""
        return self._primary.read(lambda conn: lookup.error_bodies(conn, job_id))

    def failing(self, *, tenant: str | None, now_ms: int) -> dict[str, int]:
        """Of the jobs made within the last hour, those that ended badly, by class; counted to `BAD_AT_MOST`."""
        mine = "" if tenant is None else "WHERE tenant = :tenant"
        query = text(f"""
            SELECT error_class, count(*) AS jobs FROM (SELECT tenant, error_class FROM jobs
                WHERE status IN ('failed', 'cancelled', 'expired') AND id > :floor ORDER BY id DESC LIMIT :most) AS bad
            {mine} GROUP BY error_class ORDER BY count(*) DESC
        """)
        given = {"tenant": tenant, "floor": f"job_{max(0, now_ms - _HOUR_MS):012x}", "most": BAD_AT_MOST}
        return self._database.read(
            lambda conn: {row.error_class or "unknown": row.jobs for row in conn.execute(query, given)}
        )

    def spent_today(self, *, tenant: str | None) -> Decimal | None:
        """What the calls of today have cost, in US dollars; None while the roll-up is not complete."""
        spent = self._database.read(lambda conn: usage_days.spent_picousd(conn, tenant, today=True))
        return None if spent is None else Decimal(spent) / PICO

    def rates(self, span: str) -> Rates:
        """What was done within the last `hour`, `day` or `week`. Raises KeyError."""
        seconds, step = SPANS[span]
        return self._database.read(lambda conn: _rates(conn, step, seconds))

    def route_rates(self) -> dict[str, RouteRates]:
        """What each model's routes did within the last hour."""
        seconds, step = SPANS["hour"]
        first, found = self._database.read(lambda conn: records.read(conn, step, seconds))
        minutes = range(first, first + seconds, step)

        def rates(model: str) -> RouteRates:
            limits = found.get(f"{records.LEVEL}limit:{model}", {})
            refused = sum(found.get(f"refused:{model}", {}).values())
            return RouteRates([limits.get(at, 0) for at in minutes], sum(found[f"calls:{model}"].values()), refused)

        return {
            name.removeprefix("calls:"): rates(name.removeprefix("calls:")) for name in found if name[:6] == "calls:"
        }

    def reconciled(self, *, tenant: str | None) -> list[Reconciled]:
        """What the provider's log has of the newest `LOGGED_AT_MOST` calls, by mark."""
        mine = "" if tenant is None else "WHERE (SELECT j.tenant FROM jobs AS j WHERE j.id = newest.job_id) = :tenant"
        query = text(f"""
            SELECT COALESCE(reconciled, 'open') AS mark, count(*) AS calls, sum(cost_picousd) AS cost
            FROM (SELECT job_id, reconciled, cost_picousd FROM attempts ORDER BY job_id DESC LIMIT :most) AS newest
            {mine} GROUP BY COALESCE(reconciled, 'open') ORDER BY count(*) DESC
        """)
        given = {"tenant": tenant, "most": LOGGED_AT_MOST}
        rows = self._database.read(lambda conn: conn.execute(query, given).all())
        return [Reconciled(row.mark, row.calls, None if row.cost is None else Decimal(row.cost) / PICO) for row in rows]


def _rates(conn: Connection, step: int, seconds: int) -> Rates:
    first, found = records.read(conn, step, seconds)
    at = [first + step * n for n in range(seconds // step)]

    def line(name: str) -> list[int]:
        amounts = found.get(name, {})
        return [amounts.get(one, 0) for one in at]

    return Rates(
        step=step,
        at=at,
        ended={status: line(f"ended:{status}") for status in ("completed", "failed", "cancelled", "expired")},
        cost_usd=[amount / 1e12 for amount in line("cost")],
        oldest=line("max:oldest"),
        in_flight=line("max:in_flight"),
        quantiles={
            f"{name} p{share}": [quantile(_buckets(found, name, [one]), share / 100) for one in at]
            for name, share in _QUANTILES
        },
        lately={
            f"{name} p{share}": quantile(_buckets(found, name, at[-LATELY:]), share / 100) for name, share in _QUANTILES
        },
    )


def _buckets(found: Mapping[str, Mapping[int, int]], name: str, at: Sequence[int]) -> dict[float, int]:
    """How many fell into each bucket of a histogram in these steps."""
    return {
        float(key.removeprefix(f"{name}:")): sum(amounts.get(one, 0) for one in at)
        for key, amounts in found.items()
        if key.startswith(f"{name}:")
    }


def quantile(buckets: Mapping[float, int], share: float) -> float | None:
    """A quantile of a histogram, by where it falls within its bucket; the last finite bound for what is beyond."""
    left = share * sum(buckets.values())
    if not left:
        return None
    below = 0.0
    for bound in CALL_BUCKETS:
        here = buckets.get(bound, 0)
        if here >= left:
            return below + (bound - below) * left / here
        left -= here
        below = bound
    return below
