"""Usage by day: what reports and budgets read equals the sum of the calls, whoever wrote them and when."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from sqlalchemy import Connection, event, text

from tests.factories import USAGE, claimed, request, settled, settlement, submitted
from worker.db import bookmarks
from worker.db.budgets import reservations
from worker.db.connect import Database
from worker.db.jobs import ledger, settle, usage, usage_days
from worker.db.jobs.ledger import Mark
from worker.db.jobs.usage import UsageRow


def call(database: Database, dollars: str | None = "0.5", *, again: bool = False, **options: object) -> str:
    """A job whose call has ended; `again`: it is called once more."""
    [job] = submitted(database, request(**options))  # type: ignore[arg-type]
    for last in (False, True) if again else (True,):
        [mine] = claimed(database, job)
        cost = None if dollars is None else Decimal(dollars)
        end = {} if last else {"status": "queued", "outcome": "retryable"}
        settled(database, settlement(mine, usage=USAGE, cost_usd=cost, cost_source=cost and "provider", **end))
    return job


def reports(database: Database, *by: str, **options: object) -> tuple[list[UsageRow], list[UsageRow]]:
    """From the days, and from the calls themselves."""

    def days(conn: Connection) -> list[UsageRow]:
        assert usage._in_days(conn, by, None, None)
        return usage.usage(conn, by=by, **options)  # type: ignore[arg-type]

    calls = database.read(lambda conn: usage._by_calls(conn, None, by, None, None))
    return database.read(days), calls


GROUPS = [(), ("day",), ("tenant", "model"), ("lane",), ("batch",), ("day", "tenant", "model", "lane")]


def agree(database: Database) -> None:
    """Every report says the same from the days as from the calls."""
    for by in GROUPS:
        days, calls = reports(database, *by)
        assert days == calls


def test_the_days_say_what_the_calls_say(database: Database) -> None:
    """Calls with and without a price, tenants, models, a job that was called twice."""
    for at in range(4):
        call(database, f"0.{at + 1}", tenant=f"t{at % 2}", model=f"m/{at % 3}")
    call(database, None)
    call(database, "0.25", again=True)
    agree(database)
    [whole] = database.read(usage.usage)
    assert (whole.jobs, whole.attempts, whole.unpriced) == (6, 7, 1)
    assert whole.cost_usd == Decimal("1.5")


def test_what_is_found_in_the_providers_log_moves_the_days(database: Database) -> None:
    """A cost that was estimated, and a call that nobody had counted, since its answer was lost."""
    first = call(database, None)
    [lost] = claimed(database, *submitted(database))
    settled(database, settlement(lost, status="failed", outcome="ambiguous"))
    marks = [
        Mark(first, 1, "late", cost_usd=Decimal("0.5")),
        Mark(first, 1, "matched", cost_usd=Decimal("0.7")),
        Mark(lost.id, 1, "orphaned", cost_usd=Decimal("0.1"), total_tokens=9),
        Mark(lost.id, 1, "matched", cost_usd=Decimal(8)),  # a final mark stays
    ]
    for mark in marks:
        database.write(lambda conn, mark=mark: ledger.mark(conn, [mark]))  # type: ignore[misc]
        agree(database)
    [whole] = database.read(usage.usage)
    assert (whole.jobs, whole.attempts, whole.unpriced, whole.total_tokens) == (2, 2, 0, 24)


def forget(database: Database, since: float) -> None:
    """As an older version has left it: calls on record that nobody counted."""

    def verb(conn: Connection) -> None:
        conn.execute(text("UPDATE attempts SET counted = NULL"))
        conn.execute(text("DELETE FROM usage_days"))
        bookmarks.put(conn, usage_days.BOOKMARK, {"after": "", "since": since})

    database.write(verb)


def test_calls_of_an_older_version_are_counted_later_once(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """In slices that end within a job's calls; meanwhile reports read the calls, and a new budget waits for them."""
    monkeypatch.setattr(usage_days, "SLICE", 3)
    for at in range(5):
        call(database, "0.5", again=at % 2 == 0)
    before = database.read(usage.usage)
    forget(database, 0.0)
    call(database, "0.5")  # by a worker of this version
    database.write(lambda conn: reservations.put(conn, "*", "total", 10**13))
    [budget] = database.read(reservations.every)
    assert (budget.spent_picousd, budget.recount) == (0, True)
    assert database.read(usage.usage)[0].attempts == before[0].attempts + 1
    while database.write(usage_days.recount):
        pass
    agree(database)
    database.write(lambda conn: reservations._recount(conn, "*", "total", final=True))
    [budget] = database.read(reservations.every)
    assert budget.spent_picousd == 9 * 10**12 // 2


def test_what_an_older_worker_still_runs_is_waited_for(database: Database) -> None:
    """The days are complete an hour after the upgrade at the earliest."""
    [running] = claimed(database, *submitted(database))
    call(database, "0.5")
    forget(database, 0.0)
    database.write(lambda conn: bookmarks.put(conn, usage_days.BOOKMARK, {"after": ""}))
    assert not database.write(usage_days.recount)
    assert not database.read(usage_days.complete)
    older = settlement(running, usage=USAGE)
    database.write(lambda conn: settle.settle(conn, [older]))  # and counts nothing
    database.write(
        lambda conn: conn.execute(text("UPDATE attempts SET counted = NULL WHERE job_id = :id"), {"id": running.id})
    )
    assert database.write(usage_days.recount)
    assert not database.read(usage_days.complete)
    while database.write(lambda conn: usage_days.recount(conn, wait=False)):
        pass
    agree(database)


def test_metadata_that_is_kept_is_read_from_the_days(database: Database) -> None:
    """From the first whole day on; before that, and for other keys, from the calls."""
    database.write(lambda conn: usage_days.track(conn, ["team"]))
    call(database, "0.5", metadata={"team": "red", "other": "x"})
    call(database, "0.5")
    by = ["metadata.team"]
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    assert not database.read(lambda conn: usage._in_days(conn, by, today, None))
    database.write(lambda conn: conn.execute(text("UPDATE usage_keys SET since = '2020-01-01'")))
    assert database.read(lambda conn: usage._in_days(conn, by, today, None))
    assert not database.read(lambda conn: usage._in_days(conn, ["metadata.other"], today, None))
    days = database.read(lambda conn: usage._by_days(conn, None, by, today, None))
    assert days == database.read(lambda conn: usage._by_calls(conn, None, by, today, None))
    assert [row.group["metadata.team"] for row in days] == ["red", None]


def test_a_long_report_begins_with_a_whole_day_and_a_short_one_when_it_is_told(database: Database) -> None:
    """Days cannot be cut; an hour must not be a day."""
    now = datetime.now(UTC)
    assert usage.begins(now - timedelta(hours=30)) == now - timedelta(hours=30)
    week = usage.begins(now - timedelta(days=7))
    assert week is not None
    assert week.time() == datetime.min.time()
    assert timedelta(days=7) <= now - week < timedelta(days=8)


def test_a_budget_reads_no_call(database: Database) -> None:
    """Its sum is that of the days, under the lock on its row."""
    call(database, "0.5")
    seen: list[str] = []

    def note(_conn: object, _cursor: object, statement: str, *_: object) -> None:
        seen.append(statement)

    event.listen(database.engine, "before_cursor_execute", note)
    database.write(lambda conn: reservations.put(conn, "*", "total", 10**13))
    event.remove(database.engine, "before_cursor_execute", note)
    assert not [one for one in seen if "attempts" in one]
    [budget] = database.read(reservations.every)
    assert budget.spent_picousd == 10**12 // 2
