"""What runs all the time costs the same after a year as on the first day: the plans of its statements, on both databases.

The tables hold 100,000 finished jobs when the statistics are taken, and none that waits; then jobs come. That is what a
planner has at hand on most days: PostgreSQL looks again when a tenth of the table has changed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, event, text

from api_schemas.jobs import STATUSES
from tests.factories import USAGE
from tests.factories import request as job_request
from tests.grown import WAITING, history, waiting
from tests.rig.postgres import PostgresServer
from worker.base.settings import Settings
from worker.batches.keeper import BatchKeeper
from worker.db import fleet, purge
from worker.db.batches import claims, stored
from worker.db.budgets import reservations
from worker.db.connect import Database
from worker.db.files import records as files
from worker.db.jobs import claim, leases, ledger, listing, settle, submit, usage, usage_days, waits
from worker.db.jobs.settle import Settlement
from worker.db.jobs.tenant_fairness import ALONE, TenantFairness
from worker.db.keys import records as keys
from worker.db.webhooks import log, outbox
from worker.db.workers import registry, unseen
from worker.db.workers.registry import Presence
from worker.engine import feeder
from worker.job.consequences import Consequences
from worker.producer.fleet import SPANS, Fleet

#: A statement looks at no more rows of the large tables: what waits and runs, and a slice of what is given.
MOST_ROWS = 3 * WAITING
LARGE = "jobs|requests|results|attempts|webhook_events|webhook_attempts|batches|batch_ends|files|api_calls|api_keys"


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def grown(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """A database with a year behind it, whose statistics know nothing of today."""
    if request.param == "sqlite":
        template: Path = request.getfixturevalue("sqlite_template")
        path = tmp_path_factory.mktemp("grown") / "stockpot.db"
        path.write_bytes(template.read_bytes())
        url, server = f"sqlite:///{path}", None
    else:
        server = request.getfixturevalue("postgres_server")
        assert isinstance(server, PostgresServer)
        url = server.create_database(request.getfixturevalue("postgres_template"))
    database = Database(Settings(database_url=url), by_index=True)
    database.write(history)
    with database.engine.connect() as conn:
        conn.exec_driver_sql("ANALYZE")
        conn.commit()
    database.write(waiting)
    yield database
    database.close()
    if server is not None:
        server.drop_database(url)


def job_ids(conn: Connection, status: str) -> list[str]:
    """Some jobs that wait or run; looked up once."""
    if status not in conn.info:
        found = conn.execute(text("SELECT id, status FROM jobs ORDER BY id DESC LIMIT 3000"))
        conn.info[status] = [row.id for row in found if row.status == status][:64]
    return list(conn.info[status])


def settle_some(conn: Connection) -> None:
    jobs = claim.claim_due(conn, "interactive", 64, owner="w", lease=30)
    given = [
        Settlement(job.id, job.fence, job.attempt, "completed", "completed", response="{}", text="ok", usage=USAGE)
        for job in jobs
    ]
    written = settle.settle(conn, given)
    assert len(written) == 64
    usage_days.count(conn, [(one.job_id, one.attempt) for one in given])
    reservations.charge(conn, [(one.job_id, one.attempt) for one in given])


def claim_lines(conn: Connection) -> object:
    found = claims.open_batches(conn)
    assert [one.id for one in found] == ["batch_open"]
    return claims.claim_lines(conn, found[0], 8, owner="w", lease=30, held=[])


def reserve_some(conn: Connection) -> object:
    jobs = claim.claim_due(conn, "bulk", 20, owner="w", lease=30)
    return reservations.reserve(conn, [reservations.Ask(job.id, job.attempt, job.fence, job.tenant, 1) for job in jobs])


def end_unseen(conn: Connection) -> object:
    leases.elect(conn, leases.SWEEPER, "w", seconds=3, lease=30)
    registry.announce(conn, Presence("dead", "h", 1, "0.1.0", 10.0, 200, 1, 0.01, 50_000_000))
    conn.execute(text("UPDATE leases SET steady_since = '2023-11-14 00:00:00.000'"))
    conn.execute(text("UPDATE workers SET seen_at = '2099-11-14 00:00:00.000'"))
    ended = unseen.end_leases(conn, lease=30)
    assert conn.execute(text("SELECT count(*) FROM workers WHERE seen_at < '2099-01-01 00:00:00.000'")).scalar() == 1
    return ended


YEAR = datetime(2023, 11, 14, tzinfo=UTC)
MONTH = YEAR + timedelta(days=30)
PERIODIC: dict[str, Callable[[Connection], object]] = {
    "claim in turns": lambda conn: claim.claim_due(conn, "bulk", 64, owner="w", lease=30, turns=TenantFairness()),
    "claim by id": lambda conn: claim.claim_ids(conn, job_ids(conn, "queued"), owner="w", lease=30, any_lane=True),
    "claim lines": claim_lines,
    "settle": settle_some,
    "reserve": reserve_some,
    "renew": lambda conn: leases.renew(conn, "dead", job_ids(conn, "in_progress"), lease=30),
    "reclaim": leases.reclaim,
    "expire": leases.expire,
    "bring jobs forward": lambda conn: waits.bring_forward(conn, after="", longest=155),
    "bring events forward": outbox.bring_forward,
    "end leases of the unseen": end_unseen,
    "elect": lambda conn: leases.elect(conn, "sweeper", "w", seconds=3, lease=30),
    "keep batches": BatchKeeper(Consequences().write).keep,
    "tend budgets": reservations.tend,
    "claim events": lambda conn: outbox.claim(conn, "w", limit=64, each=8, lease_seconds=30),
    "reclaim events": outbox.reclaim_expired,
    "recount usage": lambda conn: usage_days.recount(conn, wait=False),
    "report usage": lambda conn: usage.usage(conn, by=["day", "model"]),
    "look for jobs": feeder.ask,
    "look for events": outbox.seconds_until_due,
    "look for files": lambda conn: (files.left(conn, idle_seconds=120), stored.is_any_to_write(conn)),
    "look for imports": stored.to_import,
    "look for a leader": lambda conn: leases.is_held(conn, leases.SWEEPER, "w", lease=30),
    "look for anything open": lambda conn: (fleet.is_anything_open(conn), ledger.is_any_unasked(conn)),
    "read the fleet": fleet.read,
    "count waiting events": lambda conn: log.backlog(conn, at_most=100_000),
    "write files": stored.to_write,
    "give up files": lambda conn: files.expire(conn, idle_seconds=120),
    "collect files": files.collectable,
    "forget payloads": lambda conn: purge.purge(conn, MONTH, "payloads"),
    "forget results": lambda conn: purge.purge(conn, MONTH, "results"),
    "forget jobs": lambda conn: purge.purge(conn, MONTH),
    "forget events": lambda conn: purge.events(conn, MONTH),
    "forget nothing": lambda conn: [purge.purge(conn, YEAR, what) for what in ("payloads", "results", None)],
    "touch a key": lambda conn: keys.touch(conn, "key_7"),
    "look for calls": lambda conn: [ledger.unasked(conn, mark, grace=1, limit=500) for mark in ("due", "late")],
    "look for unreconciled": lambda conn: ledger.first_open(conn, None),
    "read unreconciled": lambda conn: ledger.open_between(conn, YEAR, YEAR + timedelta(hours=1)),
}


@pytest.mark.parametrize("name", PERIODIC)
def test_its_cost_does_not_grow_with_the_history(grown: Database, name: str) -> None:
    """No statement of it reads a large table, or an index of one, from end to end."""
    seen: list[tuple[str, Any]] = []

    def note(_conn: object, _cursor: object, statement: str, parameters: Any, _context: object, many: bool) -> None:
        if re.match(r"\s*(SELECT|WITH|UPDATE|DELETE|INSERT)", statement):
            seen.append((statement, parameters[0] if many else parameters))

    with grown.engine.connect() as conn:
        PERIODIC[name](conn)  # what it finds the second time is what it has to step over
        event.listen(grown.engine, "before_cursor_execute", note)
        try:
            PERIODIC[name](conn)
        finally:
            event.remove(grown.engine, "before_cursor_execute", note)
        explain = sqlite_trouble if grown.is_sqlite else postgres_trouble
        trouble = [line for statement, parameters in seen for line in explain(conn, statement, parameters)]
        conn.rollback()
    assert seen
    assert not trouble, "\n".join(trouble)


LOOKS: dict[str, Callable[[Fleet], object]] = {
    "state": Fleet.state,
    "workers": Fleet.workers,
    "held": Fleet.held,
    "jobs": lambda look: look.page(tenant=None),
    "failing": lambda look: look.failing(tenant=None, now_ms=int(datetime.now(UTC).timestamp() * 1_000)),
    "spent today": lambda look: look.spent_today(tenant=None),
    "rates": lambda look: [look.rates(span) for span in SPANS],
    "rates of routes": Fleet.route_rates,
    "what reconcile found": lambda look: [look.reconciled(tenant=tenant) for tenant in (None, "t7")],
}


@pytest.mark.parametrize("name", LOOKS)
def test_what_the_dashboard_looks_at_does_not_grow_with_the_history(grown: Database, name: str) -> None:
    """No look reads more of a large table than is open or on a page; on SQLite a scan ends with its LIMIT."""
    seen: list[tuple[str, Any]] = []

    def note(_conn: object, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
        if re.match(r"\s*(SELECT|WITH)", statement):
            seen.append((statement, parameters))

    event.listen(grown.engine, "before_cursor_execute", note)
    try:
        LOOKS[name](Fleet(grown))
    finally:
        event.remove(grown.engine, "before_cursor_execute", note)
    assert seen
    explain = sqlite_trouble if grown.is_sqlite else postgres_trouble
    with grown.engine.connect() as conn:
        trouble = [line for statement, parameters in seen for line in explain(conn, statement, parameters)]
    bounded = [line for line in trouble if re.match(r"SCAN \w+ USING INDEX", line) and re.search(r"LIMIT \?", line)]
    assert trouble == (bounded if grown.is_sqlite else []), "\n".join(trouble)


def sqlite_trouble(conn: Connection, statement: str, parameters: Any) -> list[str]:
    """Scans of whole tables or whole indexes; one of a partial index reads only what it holds."""
    plan = conn.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
    steps = [row[3] for row in plan]
    partial = (
        "ix_jobs_queued|ix_jobs_running|ix_jobs_expiring|ix_jobs_unfinished|ix_batches_active|ix_batches_filing"
        "|ix_webhook_events_d|ix_webhook_events_w|ix_webhook_events_undeliverable|ix_attempts_unasked|ix_files_left|_open"
    )
    return [
        f"{step}\n  {statement}"
        for step in steps
        if re.match(rf"SCAN ({LARGE}|[abejr])\b", step)
        and not re.search(rf"USING (COVERING )?INDEX \w*({partial})", step)
    ]


def postgres_trouble(conn: Connection, statement: str, parameters: Any) -> list[str]:
    """Nodes that read more rows of a large table than anything waits or runs."""
    with conn.begin_nested() as savepoint:
        plan = conn.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", parameters).scalar_one()
        savepoint.rollback()
    found = []

    def walk(node: dict[str, Any]) -> None:
        loops = node.get("Actual Loops", 1)
        removed = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
        rows = loops * (node["Actual Rows"] + removed)
        if re.fullmatch(LARGE, node.get("Relation Name", "")) and (rows > MOST_ROWS or node["Node Type"] == "Seq Scan"):
            found.append(
                f"{node['Node Type']} on {node['Relation Name']} {node.get('Index Name')}: {rows:.0f} rows\n  {statement}"
            )
        for child in node.get("Plans", []):
            walk(child)

    walk(plan[0]["Plan"])
    return found


def test_a_page_costs_the_same_however_seldom_its_filter_matches(grown: Database) -> None:
    """Each filter, and pairs of them: no statement looks at more jobs than a page may, nor sorts them."""
    seen: list[tuple[str, Any]] = []

    def note(_conn: object, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
        if "hit" in statement:
            seen.append((statement, parameters))

    filters: list[dict[str, Any]] = [
        {},
        *({"status": status} for status in STATUSES),
        {"lane": "interactive", "since": YEAR},
        {"model": "none"},
        {"error_class": "timeout"},
        {"batch": "batch_3"},
        {"batch": "batch_3", "status": "failed"},
        {"metadata": {"team": "none"}},
        {"since": datetime.now(UTC)},
    ]
    with grown.engine.connect() as conn:
        event.listen(grown.engine, "before_cursor_execute", note)
        for tenant in (None, "default", "t7", "nobody"):
            for one in filters:
                seen.clear()
                page = listing.page(conn, tenant=tenant, limit=20, **one)
                assert len(page.jobs) <= 20
                assert 1 <= len(seen) <= listing.LOOK // listing.STEP + 1
        event.remove(grown.engine, "before_cursor_execute", note)
        if not grown.is_sqlite:
            for one in filters:
                assert not list_trouble(conn, None, one)
            assert not list_trouble(conn, "t7", {})
            assert not list_trouble(conn, "nobody", {"model": "m1"})


@pytest.mark.parametrize("grown", ["postgres"], indirect=True)
def test_a_tenants_page_does_not_read_the_newer_jobs_of_others(grown: Database) -> None:
    """Its jobs are spread over the year as the statistics have it; since then only others have worked."""
    with grown.engine.connect() as conn:
        conn.execute(
            text("""
            INSERT INTO jobs (id, tenant, endpoint, model, lane, status, max_attempts, on_ambiguous, created_at, due_at,
                finished_at, expires_at)
            SELECT 'job_ffff' || lpad(to_hex(n), 28, '0'), 'default', '/v1/chat/completions', 'm1', 'bulk', 'completed', 5,
                'retry', now(), now(), now(), now() FROM generate_series(1, 10000) AS n
            """)
        )
        pages: list[dict[str, Any]] = [{}, {"model": "m2"}, {"since": YEAR}, {"text": "job_0"}]
        assert not [line for one in pages for line in list_trouble(conn, "t7", one)]
        first = listing.page(conn, tenant="t7", limit=3)
        second = listing.page(conn, tenant="t7", limit=3, before=first.next)
        both = [job.id for job in (*first.jobs, *second.jobs)]
        its = conn.execute(text("SELECT id FROM jobs WHERE tenant = 't7' ORDER BY id DESC LIMIT 6")).scalars().all()
        assert both == its
        conn.rollback()


def list_trouble(conn: Connection, tenant: str | None, filters: dict[str, Any]) -> list[str]:
    """What the plan of a page's first statement reads too much."""
    statements: list[tuple[str, Any]] = []

    def note(_conn: object, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
        if "hit" in statement:
            statements.append((statement, parameters))

    event.listen(conn.engine, "before_cursor_execute", note)
    listing.page(conn, tenant=tenant, limit=20, **filters)
    event.remove(conn.engine, "before_cursor_execute", note)
    return postgres_trouble(conn, *statements[0])


@pytest.mark.parametrize("grown", ["postgres"], indirect=True)
def test_a_vacuum_clears_what_waited_from_the_index_of_what_waits(grown: Database) -> None:
    """Few of a large table's pages have dead rows: PostgreSQL would leave its indexes alone, and each look step over them."""
    model = "m" * 250  # large entries: many pages of the index

    def look() -> int:
        with grown.engine.connect() as conn:
            waits = f"SELECT id FROM jobs WHERE {ALONE} AND lane = 'bulk' AND tenant = 't1' AND model = :model ORDER BY due_at, id"
            plan = conn.execute(text(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {waits}"), {"model": model}).scalar_one()
        assert "ix_jobs_queued" in str(plan)
        assert plan[0]["Plan"]["Actual Rows"] == 0
        return int(plan[0]["Plan"]["Shared Hit Blocks"] + plan[0]["Plan"]["Shared Read Blocks"])

    def work(conn: Connection) -> None:
        requests = [job_request(str(at), model=model, tenant="t1", lane="bulk") for at in range(60)]
        ids = [one.id for one in submit.insert(conn, requests, Settings())]
        jobs = claim.claim_ids(conn, ids, owner="w", lease=30, any_lane=True)
        settle.settle(
            conn, [Settlement(job.id, job.fence, job.attempt, "completed", "completed", response="{}") for job in jobs]
        )

    def vacuum(options: str = "") -> None:
        with grown.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
            conn.exec_driver_sql(f"VACUUM {options} jobs")

    vacuum("(INDEX_CLEANUP ON)")  # the dead rows of other tests
    grown.write(work)
    look()  # marks the entries as dead: from here on only pages of the index are read
    before = look()
    vacuum()
    assert look() < before
