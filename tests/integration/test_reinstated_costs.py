"""An answer that comes late and a look-up of its call that is being written are counted one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from functools import partial

import pytest
from sqlalchemy import Connection, text

from api_schemas.ids import uuid7_hex
from tests.budget_factories import budget, put, reserve, running, sweep
from tests.factories import opened, rows, settlement, sql
from tests.rig.waiting import eventually
from worker.base.money import PICO
from worker.db.connect import Database
from worker.db.jobs import ledger
from worker.db.jobs.claim import ClaimedJob
from worker.db.jobs.ledger import Mark
from worker.job.consequences import Consequences
from worker.job.settlements import Settling, write_all

COST = Decimal("0.5")
ESTIMATE = Decimal("0.001")


@pytest.fixture
def database(postgres_url: str) -> Iterator[Database]:
    """PostgreSQL: on SQLite there is one writer at a time anyhow."""
    with opened(postgres_url) as database:
        yield database


@pytest.fixture
def lost(database: Database) -> ClaimedJob:
    """A job whose worker was taken for dead: what was reserved counts as its call's cost."""
    put(database, 100)
    [job] = running(database)
    reserve(database, [job], float(ESTIMATE))
    sql(database, "UPDATE jobs SET lease_until = now() - interval '1 minute'")
    sweep(database)
    assert budget(database).spent_usd == ESTIMATE
    return job


def test_a_late_answer_waits_for_the_look_up_of_its_call(database: Database, lost: ClaimedJob) -> None:
    """It read the estimate while the look-up replaced it: the call's cost counted twice."""
    one_while_the_other(database, partial(settle, lost), partial(look_up, lost, "matched", COST))
    assert counted(database) == {"ledger": COST, "budget": COST, "day": COST}


@pytest.mark.parametrize(("verdict", "cost"), [("matched", COST), ("late", None)])
def test_a_look_up_waits_for_the_late_answer_of_its_call(
    database: Database, lost: ClaimedJob, verdict: str, cost: Decimal | None
) -> None:
    """It took the estimate out of its day a second time, whether it had found a cost or not."""
    one_while_the_other(database, partial(look_up, lost, verdict, cost), partial(settle, lost))
    assert counted(database) == {"ledger": COST, "budget": COST, "day": COST}


def settle(job: ClaimedJob, conn: Connection) -> None:
    answer = Settling(job, settlement(job, cost_usd=COST, cost_source="provider"), uuid7_hex())
    written, _ = write_all(conn, [answer], Consequences())
    assert written == {job.id}


def look_up(job: ClaimedJob, verdict: str, cost: Decimal | None, conn: Connection) -> None:
    ledger.mark(conn, [Mark(job.id, job.attempt, verdict, cost_usd=cost)])


def one_while_the_other(
    database: Database, one: Callable[[Connection], None], other: Callable[[Connection], None]
) -> None:
    """Begin `one` while `other` has written and not committed; it must come to wait for a lock."""
    with ThreadPoolExecutor(1) as pool:
        begun = []

        def both(conn: Connection) -> None:
            other(conn)
            begun.append(pool.submit(database.write, one))
            eventually(lambda: waiting(conn), what="a transaction waits for this one")

        database.write(both)
        begun[0].result(60)


def waiting(conn: Connection) -> bool:
    conn.execute(text("SELECT pg_stat_clear_snapshot()"))
    query = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    return conn.execute(text(query)).first() is not None


def counted(database: Database) -> dict[str, Decimal]:
    """The cost of the call, in US dollars, as everything has it."""
    [call] = rows(database, "SELECT outcome, cost_picousd FROM attempts")
    assert call["outcome"] == "completed"
    [day] = rows(database, "SELECT SUM(provider_picousd + estimated_picousd) AS cost FROM usage_days")
    return {
        "ledger": Decimal(call["cost_picousd"]) / PICO,
        "budget": budget(database).spent_usd,
        "day": Decimal(day["cost"]) / PICO,
    }
