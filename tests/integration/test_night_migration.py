"""A database of the version before the night (0008), with rows in it, is brought up: nothing of it changes."""

from __future__ import annotations

from sqlalchemy import create_engine, text

from tests.factories import opened
from tests.revisions import upgrade_to
from worker.batches.progress import look
from worker.db import schema
from worker.db.budgets import reservations
from worker.db.webhooks import endpoints

BEFORE = "0008"
TIME = "'2026-01-01 00:00:00.000'"
ROWS = {
    "batches": f"""(id, tenant, input_name, endpoint, total, imported, completed, failed, held, max_cost_picousd, max_attempts,
        window_seconds, created_at, due_at, expires_at) VALUES ('batch_1', 'acme', 'in.jsonl', '/v1/chat/completions', 10, 10, 4,
        1, 'max_cost', 500, 5, 86400, {TIME}, {TIME}, '2099-01-01')""",
    "budgets": f"""(tenant, period, limit_picousd, spent_picousd, needs_picousd, set_at, recount)
        VALUES ('acme', 'total', 100, 100, 5, {TIME}, false)""",
    "webhook_endpoints": f"""(id, tenant, url, events, description, secret, previous_secret, previous_expires_at, created_at)
        VALUES ('we_1', 'acme', 'https://a.example/x', '[]', 'd', 'sealed', 'older', '2099-01-01', {TIME})""",
}


def test_batches_budgets_and_endpoints_of_the_version_before_are_kept(empty_database_url: str) -> None:
    """The batch stays held, the budget is announced once by the new version, and both secrets of the endpoint sign."""
    engine = create_engine(empty_database_url)
    with engine.begin() as conn:
        upgrade_to(conn, BEFORE)
        for table, row in ROWS.items():
            conn.execute(text(f"INSERT INTO {table} {row}"))
        kept = {table: dict(conn.execute(text(f"SELECT * FROM {table}")).mappings().one()) for table in ROWS}
    schema.upgrade(empty_database_url)
    with engine.begin() as conn:
        for table, before in kept.items():
            after = dict(conn.execute(text(f"SELECT * FROM {table}")).mappings().one())
            assert {name: after[name] for name in before} == before
            assert all(value in (None, 0) for name, value in after.items() if name not in before)
    engine.dispose()
    with opened(empty_database_url) as database:
        found = database.read(lambda conn: look(conn, "batch_1", tenant="acme"))
        assert (found.row.hold_reason, found.row.unpriced, found.row.done) == ("max_cost", 0, 5)
        assert [one.tenant for one in database.write(reservations.use_up)] == ["acme"]
        assert database.write(reservations.use_up) == []
        route = database.read(lambda conn: endpoints.routes(conn, {"we_1"}))["we_1"]
        assert (route.secret, route.previous_secrets) == ("sealed", ("older",))
