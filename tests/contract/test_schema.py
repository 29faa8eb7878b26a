"""The database as promised, on SQLite and PostgreSQL.

Models and migrations agree, views keep their columns, and the CHECK constraints refuse every state that no job may be in.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, create_engine, inspect, text
from sqlalchemy.exc import IntegrityError

from worker.base.errors import Unreachable
from worker.db import schema
from worker.db.jobs.tables import TERMINAL, attempts, jobs
from worker.db.revisions import HEAD
from worker.db.webhooks.tables import webhook_endpoints, webhook_events

#: The views' columns as promised to those who read with SQL; more may follow after them, none may go or move.
PROMISED = {
    "jobs_v": (
        "id tenant endpoint model lane status waiting_on attempts created_at due_at started_at finished_at batch_id"
        " custom_id idempotency_key metadata error_class error_message finish_reason text"
    ),
    "results_v": "job_id response provider_id model",
    "usage_v": (
        "job_id attempt input_tokens cached_tokens output_tokens reasoning_tokens total_tokens cost_usd cost_source"
        " inference_id created_at"
    ),
    "attempts_v": "job_id attempt",
    "batches_v": "id tenant",
    "batch_lines_v": "batch_id line custom_id job_id",
    "webhook_events_v": "id tenant type",
    "webhook_attempts_v": "event_id attempt",
}
NOW = datetime(2026, 1, 1, tzinfo=UTC)

QUEUED: dict[str, Any] = {
    "id": "job_1",
    "endpoint": "/v1/chat/completions",
    "model": "m",
    "max_attempts": 5,
    "on_ambiguous": "retry",
    "created_at": NOW,
    "due_at": NOW,
    "expires_at": NOW,
}
RUNNING = QUEUED | {"status": "in_progress", "lease_owner": "w", "lease_until": NOW, "fence": 1, "calls": 1}
ATTEMPT: dict[str, Any] = {"job_id": "job_1", "attempt": 1, "fence": 1, "worker": "w", "started_at": NOW}
EVENT: dict[str, Any] = {
    "id": "evt_1",
    "tenant": "default",
    "type": "job.completed",
    "url": "https://example.com/",
    "destination": "https://example.com",
    "body": "{}",
    "due_at": NOW,
    "created_at": NOW,
}
ENDPOINT: dict[str, Any] = {
    "id": "we_1",
    "tenant": "default",
    "url": "https://example.com/",
    "events": "[]",
    "secret": "sealed",
    "created_at": NOW,
}


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """A migrated database."""
    made = create_engine(database_url)
    yield made
    made.dispose()


@pytest.fixture
def conn(engine: Engine) -> Iterator[Connection]:
    """A connection whose work is undone."""
    with engine.connect() as connection:
        yield connection
        connection.rollback()


def test_the_migrations_make_what_the_models_say(engine: Engine) -> None:
    """Tables, columns, types and indexes."""
    assert schema.differences(engine) == []
    assert schema.current(engine) == schema.head()


def test_the_migrations_make_the_constraints_that_the_models_name(engine: Engine) -> None:
    """Alembic does not compare CHECK constraints, and they are the state machine."""
    found = inspect(engine)
    for table in schema.metadata.sorted_tables:
        named = {str(one.name) for one in table.constraints if type(one).__name__ == "CheckConstraint"}
        assert {str(one["name"]) for one in found.get_check_constraints(table.name)} == named, table.name


def test_an_upgrade_of_an_empty_database_can_be_repeated(empty_database_url: str) -> None:
    """The second finds nothing to do, and the views are there after both."""
    for _ in range(2):
        schema.upgrade(empty_database_url)
        made = create_engine(empty_database_url)
        assert set(PROMISED) <= set(inspect(made).get_view_names())
        made.dispose()


def test_an_upgrade_gives_up_on_what_is_never_free(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A forgotten transaction holds a view; the error says who is to be looked for, and nothing has changed."""
    monkeypatch.setattr(schema, "head", lambda: "9999")
    monkeypatch.setattr(schema, "TRIES", 3)
    monkeypatch.setattr(schema, "PAUSE_SECONDS", 0.0)
    told: list[int] = []
    engine = create_engine(postgres_url)
    with engine.connect() as forgotten:
        forgotten.execute(text("SELECT 1 FROM jobs_v"))
        with pytest.raises(Unreachable, match=r"(?s)a transaction holds a table.*pg_stat_activity"):
            schema.upgrade(postgres_url, on_wait=told.append)
    assert told == [1, 2]
    assert schema.current(engine) == HEAD
    engine.dispose()


@pytest.mark.parametrize("view", PROMISED)
def test_each_view_begins_with_the_promised_columns(conn: Connection, view: str) -> None:
    """In the promised order."""
    promised = PROMISED[view].split()
    columns = list(conn.execute(text(f"SELECT * FROM {view}")).keys())
    assert columns[: len(promised)] == promised


def test_every_view_of_ours_is_promised(engine: Engine) -> None:
    """A new view is a promise, and its columns belong above."""
    assert set(inspect(engine).get_view_names()) == set(PROMISED)


def test_the_legal_states_are_accepted(conn: Connection) -> None:
    """Otherwise the refusals below would prove nothing."""
    conn.execute(jobs.insert().values(QUEUED))
    conn.execute(jobs.insert().values(RUNNING | {"id": "job_2"}))
    for number, status in enumerate(TERMINAL, 3):
        conn.execute(jobs.insert().values(QUEUED | {"id": f"job_{number}", "status": status, "finished_at": NOW}))
    conn.execute(attempts.insert().values(ATTEMPT))
    conn.execute(attempts.insert().values(ATTEMPT | {"attempt": 2, "outcome": "answered", "finished_at": NOW}))
    conn.execute(webhook_events.insert().values(EVENT))
    conn.execute(webhook_endpoints.insert().values(ENDPOINT))


@pytest.mark.parametrize(
    "illegal",
    [
        QUEUED | {"status": "sleeping"},
        QUEUED | {"lane": "express"},
        QUEUED | {"finished_at": NOW},
        QUEUED | {"status": "completed"},
        QUEUED | {"lease_owner": "w"},
        QUEUED | {"lease_until": NOW},
        RUNNING | {"lease_owner": None},
        RUNNING | {"lease_until": None},
        RUNNING | {"finished_at": NOW},
        RUNNING | {"status": "completed", "finished_at": NOW},
        RUNNING | {"attempts": 2},
        QUEUED | {"attempts": -1},
    ],
    ids=lambda row: "-".join(sorted(str(value) for key, value in row.items() if QUEUED.get(key) != value)),
)
def test_the_database_refuses_a_job_in_a_state_that_nobody_owns(conn: Connection, illegal: dict[str, Any]) -> None:
    """Whatever code path would write it."""
    with pytest.raises(IntegrityError):
        conn.execute(jobs.insert().values(illegal))


@pytest.mark.parametrize("status", TERMINAL)
def test_no_finished_job_keeps_a_lease(conn: Connection, status: str) -> None:
    """An update that forgets the lease is refused as well."""
    conn.execute(jobs.insert().values(RUNNING))
    with pytest.raises(IntegrityError):
        conn.execute(jobs.update().values(status=status, finished_at=NOW))


def test_one_idempotency_key_is_one_job_of_a_tenant(conn: Connection) -> None:
    """Another tenant may use the same key."""
    conn.execute(jobs.insert().values(QUEUED | {"idempotency_key": "order-17"}))
    conn.execute(jobs.insert().values(QUEUED | {"id": "job_2", "tenant": "other", "idempotency_key": "order-17"}))
    with pytest.raises(IntegrityError):
        conn.execute(jobs.insert().values(QUEUED | {"id": "job_3", "idempotency_key": "order-17"}))


@pytest.mark.parametrize(
    "illegal",
    [{"finished_at": NOW}, {"outcome": "answered"}, {"cost_source": "guessed"}],
    ids=["finished-but-running", "over-but-not-finished", "cost-from-nowhere"],
)
def test_the_ledger_refuses_an_attempt_that_is_neither_running_nor_over(
    conn: Connection, illegal: dict[str, Any]
) -> None:
    """And a cost whose source is unknown."""
    with pytest.raises(IntegrityError):
        conn.execute(attempts.insert().values(ATTEMPT | illegal))


@pytest.mark.parametrize(
    "illegal",
    [
        {"status": "lost"},
        {"url": None},
        {"endpoint_id": "we_1"},
        {"status": "delivered"},
        {"delivered_at": NOW},
        {"status": "delivering"},
        {"lease_owner": "w", "lease_until": NOW},
    ],
    ids=lambda changes: "-".join(f"{key}-{value}" for key, value in changes.items()),
)
def test_the_outbox_refuses_an_event_in_a_state_that_nobody_owns(conn: Connection, illegal: dict[str, Any]) -> None:
    """A lease exactly while it is delivered, a time exactly once it was, one destination."""
    conn.execute(webhook_endpoints.insert().values(ENDPOINT))
    with pytest.raises(IntegrityError):
        conn.execute(webhook_events.insert().values(EVENT | illegal))


@pytest.mark.parametrize(
    "illegal",
    [{"previous_secret": "sealed"}, {"disabled_at": NOW}, {"deleted_at": NOW}],
    ids=["secret", "disabled", "deleted"],
)
def test_an_endpoint_says_when_its_old_secret_ends_and_why_it_is_disabled(
    conn: Connection, illegal: dict[str, Any]
) -> None:
    """Neither stands without its other half."""
    with pytest.raises(IntegrityError):
        conn.execute(webhook_endpoints.insert().values(ENDPOINT | illegal))


def test_the_newest_revision_is_told_truly() -> None:
    """`HEAD` spares producers alembic; it must not lie."""
    assert schema.head() == HEAD
