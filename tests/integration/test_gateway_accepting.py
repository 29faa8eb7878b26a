"""How a call of the gateway is accepted on PostgreSQL: in one statement where nothing counts it, and by the same rules."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from sqlalchemy import event

from api_schemas.ids import job_id
from api_schemas.jobs import JobRequest
from tests.factories import opened, request, rows
from tests.rig.waiting import eventually
from worker.base.errors import IdempotencyConflict
from worker.base.money import PICO
from worker.db.budgets import reservations
from worker.db.budgets.tables import ALL_TENANTS
from worker.db.calls import records, tenants
from worker.db.calls.tenants import TenantLimits
from worker.db.connect import Database
from worker.db.jobs import submit
from worker.producer import connections
from worker.producer.calls import Accepted, Calls, NewCall, Refused
from worker.producer.scope import Scope


class Desk:
    """Accepts calls of two tenants; notes what is rung and each statement that is sent."""

    def __init__(self, database: Database) -> None:
        self.settings = database.settings
        self.shared = connections.acquire(database.settings)
        self.shared.prepare()
        self.rung: list[str] = []
        self.database = self.shared.database

    def calls(self, tenant: str) -> Calls:
        return Calls(Scope(self.shared, tenant), lambda ids, _lane: self.rung.extend(ids))

    def accept(self, tenant: str = "free", **more: Any) -> Accepted:
        return self.calls(tenant).accept(*call(tenant, **more))

    @contextmanager
    def noted(self) -> Iterator[list[str]]:
        statements: list[str] = []

        def note(_conn: object, _cursor: object, statement: str, *_: object) -> None:
            statements.append(" ".join(statement.split())[:40])

        event.listen(self.database.engine, "before_cursor_execute", note)
        try:
            yield statements
        finally:
            event.remove(self.database.engine, "before_cursor_execute", note)


def call(tenant: str, prompt: str = "hi", **more: Any) -> tuple[JobRequest, NewCall]:
    job = request(prompt, id=job_id(), tenant=tenant, metadata={"k": "v"})
    assert job.id is not None
    new = NewCall(
        job_id=job.id,
        tenant=tenant,
        key_id=None,
        limited=False,
        kind="chat.completion",
        asked={"store": True},
        added=("stream_options",),
        fingerprint=f"of {prompt}",
        idempotency_key=None,
        retry_count=0,
        stored=True,
        background=False,
        metadata={"k": "v"},
        tokens=7,
        reserved_picousd=11,
    )
    return job, replace(new, **more)


@pytest.fixture
def desk(postgres_url: str) -> Iterator[Desk]:
    with opened(postgres_url, redis_url="redis://127.0.0.1:1/0") as database:
        desk = Desk(database)
        yield desk
        desk.shared.release()


@pytest.mark.clear
def test_one_statement_keeps_what_the_statements_of_a_counted_call_keep(desk: Desk) -> None:
    desk.database.write(lambda conn: tenants.put(conn, TenantLimits("counted", rpm=100)))
    with desk.noted() as statements:
        free = desk.accept("free", idempotency_key="k")
    assert [one.split()[0] for one in statements] == ["BEGIN", "WITH"]  # and COMMIT, which is none of the engine's
    with desk.noted() as statements:
        counted = desk.accept("counted", idempotency_key="k")
    assert len(statements) > 5
    assert desk.rung == [free.job_id, counted.job_id] and free.created and counted.standing.rpm == 100
    own = {"id", "job_id", "tenant", "created_at", "due_at", "expires_at"}
    for table, key in (("jobs", "id"), ("requests", "job_id"), ("api_calls", "job_id")):
        found = [
            rows(desk.database, f"SELECT * FROM {table} WHERE {key} = :id", id=one.job_id) for one in (free, counted)
        ]
        kept = [{name: value for name, value in row.items() if name not in own} for [row] in found]
        assert kept[0] == kept[1]
    ages = "SELECT due_at - created_at AS due, expires_at - created_at AS ends FROM jobs WHERE tenant = 'free'"
    [times] = rows(desk.database, ages)
    assert (times["due"].total_seconds(), times["ends"].total_seconds()) == (0, desk.settings.job_ttl_seconds)
    [made] = rows(desk.database, "SELECT created_at FROM api_calls WHERE tenant = 'free'")
    assert made["created_at"] == free.call.created_at


def test_a_repeat_joins_and_another_body_is_a_conflict(desk: Desk) -> None:
    first = desk.accept(idempotency_key="k")
    again = desk.accept(idempotency_key="k")
    assert (again.job_id, again.created) == (first.job_id, False)
    with pytest.raises(IdempotencyConflict):
        desk.accept(prompt="else", idempotency_key="k")
    repeat = desk.accept(prompt="once", retry_count=0), desk.accept(prompt="once", retry_count=1)
    assert repeat[0].job_id == repeat[1].job_id
    assert len(rows(desk.database, "SELECT id FROM jobs")) == 2


def test_who_is_overtaken_by_its_repeat_joins_it_and_leaves_no_job(desk: Desk) -> None:
    """Both look for the key, neither finds it; the second waits for the first at the index."""
    job, first = call("free", idempotency_key="k")
    with ThreadPoolExecutor(1) as pool:
        with desk.database.engine.connect() as conn, conn.begin():
            records.insert(conn, first)
            submit.insert(conn, [job], desk.settings)
            second = pool.submit(desk.accept, idempotency_key="k")
            waits = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
            eventually(lambda: len(rows(desk.database, waits)) == 1, what="the second waits")
        joined = second.result(30)
    assert (joined.job_id, joined.created, desk.rung) == (first.job_id, False, [])
    assert [one["id"] for one in rows(desk.database, "SELECT id FROM jobs")] == [first.job_id]
    assert len(rows(desk.database, "SELECT job_id FROM requests")) == 1


def test_a_budget_counts_whether_it_is_the_tenants_or_that_of_all(desk: Desk) -> None:
    desk.accept()
    for whose in ("free", ALL_TENANTS):
        desk.database.write(partial(reservations.put, tenant=whose, period="total", limit_picousd=int(PICO) // 2))
        with pytest.raises(Refused, match="budget"):
            desk.accept(reserved_picousd=PICO)
        desk.database.write(partial(reservations.remove, tenant=whose, period="total"))
    assert len(rows(desk.database, "SELECT id FROM jobs")) == 1
