"""Budgets with real workers: what does not fit waits, spends no attempt, and goes when there is money."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner
from sqlalchemy import event

from api_schemas.jobs import parse_job
from tests.factories import chat, opened, request, rows, settlement, sql, submitted
from tests.fakes import Provider, Workplace, workplace
from tests.rig.waiting import eventually
from worker.cli.app import main
from worker.db.batches import claims
from worker.db.budgets import reservations
from worker.db.budgets.budget import Budget
from worker.db.budgets.reservations import Ask
from worker.db.jobs import claim, submit
from worker.db.jobs.tenant_fairness import TenantFairness
from worker.db.threads import DatabaseThreads
from worker.job.consequences import Consequences
from worker.job.settlements import SettlementWriter
from worker.simulator.journal import calls, read_journal


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[Provider]:
    with Provider(tmp_path, first_token_delay=20) as provider:
        yield provider


@pytest.fixture
def place(provider: Provider, database_url: str, redis_url: str) -> Iterator[Workplace]:
    with workplace(provider, database_url, redis_url, concurrency=6) as place:
        yield place


def load(place: Workplace, count: int, tenant: str = "default") -> list[str]:
    """Many jobs of one size, of both lanes."""
    requests = [
        parse_job(chat("same", model="m@sim:ok"), tenant=tenant, lane="bulk" if number % 2 else "interactive")
        for number in range(count)
    ]
    return [one.id for one in place.database.write(lambda conn: submit.insert(conn, requests, place.settings))]


def statuses(place: Workplace, tenant: str) -> Counter[str]:
    """How many jobs of a tenant are in which state."""
    found = rows(place.database, "SELECT status FROM jobs WHERE tenant = :tenant", tenant=tenant)
    return Counter(one["status"] for one in found)


def budget(place: Workplace) -> Budget:
    """The only budget."""
    [one] = place.database.read(reservations.every)
    return one


def price(place: Workplace) -> int:
    """What one of these calls costs, in 1e-12 US dollars: one is made to see."""
    [job] = load(place, 1, "probe")
    place.ended(job)
    return int(rows(place.database, "SELECT cost_picousd AS n FROM attempts")[0]["n"])


def test_jobs_that_do_not_fit_wait_without_an_attempt_until_there_is_money(
    provider: Provider, place: Workplace
) -> None:
    """Two workers, forty jobs, money for ten; another tenant goes on; then the day turns; then it is raised."""
    for _ in range(2):
        place.start()
    each = price(place)
    place.database.write(lambda conn: reservations.put(conn, "poor", "day", 10 * each + each // 2))
    load(place, 40, "poor")
    rich = load(place, 5, "rich")
    eventually(lambda: statuses(place, "poor")["completed"] >= 10, what="ten fit")
    for job in rich:
        assert place.ended(job).status == "completed"
    eventually(lambda: budget(place).needs_picousd is not None, what="the budget is shut")
    eventually(lambda: statuses(place, "poor")["in_progress"] == 0, what="the others are given back")
    first = statuses(place, "poor")["completed"]
    assert first <= 11, "one may be over: the first call of a worker that does not know yet what they cost"
    assert budget(place).spent_picousd == first * each
    waiting = "SELECT waiting_on, attempts, error_class FROM jobs_v WHERE status = 'queued' AND tenant = 'poor'"
    assert {(one["waiting_on"], one["attempts"]) for one in rows(place.database, waiting)} == {("budget", 0)}
    eventually(lambda: _claims_in(place, 5) == 0, what="no worker claims what cannot go")

    # Without the count of what began before the budget, which is made anew a while after that, from what today has cost.
    sql(place.database, "UPDATE budgets SET day = '2020-01-01', recount = false")
    eventually(lambda: statuses(place, "poor")["completed"] >= first + 10, what="ten more on the next day")
    eventually(lambda: statuses(place, "poor")["in_progress"] == 0, what="the others are given back")
    second = statuses(place, "poor")["completed"] - first
    assert second <= 11
    assert budget(place).spent_picousd == second * each

    place.database.write(lambda conn: reservations.put(conn, "poor", "day", 100 * each))
    eventually(lambda: statuses(place, "poor")["completed"] == 40, what="all are done when it is raised")
    assert rows(place.database, "SELECT id FROM jobs WHERE attempts <> 1") == []
    assert budget(place).spent_picousd == (40 - first) * each
    assert len([call for call in calls(read_journal(provider.journal)) if call.done]) == 46


def _claims_in(place: Workplace, sweeps: int) -> int:
    """How many claims were made while the sweeper swept so often.

    A worker may still deal from a list of tenants that is older than the refusal, for as long as it keeps one.
    """
    fences = "SELECT SUM(fence) AS n FROM jobs"
    before = int(rows(place.database, fences)[0]["n"])
    looks = _looks(place)
    eventually(lambda: _looks(place) >= looks + sweeps, what="the workers look again")
    return int(rows(place.database, fences)[0]["n"]) - before


def _looks(place: Workplace) -> int:
    """A number that rises as time goes by in the database: the sweeper's lease is renewed in each sweep."""
    until = str(rows(place.database, "SELECT until FROM leases WHERE name = 'sweeper'")[0]["until"])
    _seen.add(until)
    return len(_seen)


_seen: set[str] = set()


def test_a_broken_and_a_cancelled_call_give_their_money_back(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    """What they cost stays counted; the rest is free as soon as the provider's log says so.

    Until then what was reserved for the cancelled call counts as spent: the provider makes it to its end, and bills it.
    A model whose calls have no known cost is not called again under a budget, and the command shows why.
    """
    place.start()
    each = price(place)
    place.database.write(lambda conn: reservations.put(conn, "default", "day", 5 * each))
    broken = place.submit("hangup,503,ok", on_ambiguous="retry")
    assert place.ended(broken).status == "completed"
    held = place.submit("hold,ok")
    place.running(held)
    assert budget(place).reserved_picousd > 0
    sql(place.database, "UPDATE jobs SET cancel_requested_at = created_at WHERE id = :id", id=held)
    assert place.ended(held).status == "cancelled"
    found = budget(place)
    assert (found.reserved_picousd, found.room) == (0, 0)
    last = place.submit("ok")
    httpx.post(place.provider.url.removesuffix("/v1") + "/_sim/release").raise_for_status()
    assert place.ended(last).status == "completed"
    found = budget(place)
    cost = sum(one["cost_picousd"] or 0 for one in rows(place.database, _COSTS))
    assert (found.reserved_picousd, found.spent_picousd) == (0, cost)

    place.database.write(lambda conn: reservations.put(conn, "strange", "day", 5 * each))
    assert place.ended(place.submit_body(chat(model="dear@sim:nocost"), tenant="strange")).status == "completed"
    monkeypatch.setenv("STOCKPOT_DATABASE_URL", place.settings.database_url)
    monkeypatch.setenv("STOCKPOT_REDIS_URL", str(place.settings.redis_url))
    why = "a budget governs it, and dear@sim:nocost has no known price: give one (STOCKPOT_PRICES) to the workers"
    third = place.submit_body(chat(model="dear@sim:nocost"), tenant="strange")
    eventually(lambda: rows(place.database, "SELECT 1 FROM jobs WHERE id = :id AND waiting_on = 'price'", id=third))
    shown = CliRunner().invoke(main, ["show", third, "--tenant", "strange"]).stdout
    assert f"why       {why}; looks again in " in shown, shown


_COSTS = "SELECT a.cost_picousd FROM attempts AS a JOIN jobs AS j ON j.id = a.job_id WHERE j.tenant = 'default'"


def test_lines_of_a_batch_are_not_admitted_while_their_tenants_budget_is_shut(database_url: str) -> None:
    """And the batch is open again when the budget is."""
    with opened(database_url) as database:
        submitted(database, *[request(str(number), lane="bulk") for number in range(3)])
        sql(database, "UPDATE jobs SET batch_id = 'batch_1'")
        now = "strftime('%Y-%m-%d %H:%M:%f', 'now')" if database.is_sqlite else "statement_timestamp()"
        sql(
            database,
            f"""
            INSERT INTO batches (id, tenant, input_name, endpoint, total, imported, max_attempts, window_seconds,
                created_at, due_at, expires_at)
            SELECT 'batch_1', tenant, 'in', endpoint, 3, 3, 5, 60, {now}, {now}, expires_at FROM jobs LIMIT 1
            """,
        )
        database.write(lambda conn: reservations.put(conn, "*", "day", 1))
        [open_] = database.read(claims.open_batches)
        [line] = database.write(lambda conn: claims.claim_lines(conn, open_, 1, owner="w", lease=30, held=[]))
        assert line.budgeted
        ask = Ask(line.id, line.attempt, line.fence, line.tenant, 2)
        assert database.write(lambda conn: reservations.reserve(conn, [ask])).refused == {line.id}
        assert database.read(claims.open_batches) == []
        database.write(lambda conn: reservations.put(conn, "*", "day", 5))
        assert len(database.read(claims.open_batches)) == 1


@pytest.mark.anyio
async def test_where_no_budget_is_set_nothing_is_asked_of_the_database(database_url: str) -> None:
    """A claim is two statements with its listing, as it was; a slice of settlements names no budget."""
    with opened(database_url) as database:
        submitted(database, *[request(str(number), lane="bulk") for number in range(64)])
        said: list[str] = []
        event.listen(database.engine, "before_cursor_execute", lambda *args: said.append(args[2]))
        jobs = database.write(
            lambda conn: claim.claim_due(conn, "bulk", 64, owner="w", lease=30, turns=TenantFairness(lambda: 100.0))
        )
        assert len(jobs) == 64
        assert not any(job.budgeted for job in jobs)
        own = [one for one in said if "FROM budgets" in one and "jobs" not in one and "walk" not in one]
        assert len(own) <= (1 if database.is_sqlite else 0)  # SQLite's listing asks once per tenant, in this process
        threads = DatabaseThreads(database.settings)
        try:
            event.listen(threads.database.engine, "before_cursor_execute", lambda *args: told.append(args[2]))
            told: list[str] = []
            await SettlementWriter(threads, Consequences()).settle(jobs[0], settlement(jobs[0]))
            assert told
            assert not [one for one in told if "budget" in one]
        finally:
            threads.close()


@pytest.fixture
def stockpot(database_url: str, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    monkeypatch.setenv("STOCKPOT_DATABASE_URL", database_url)
    return CliRunner()


def test_budgets_are_set_listed_and_removed_by_command(stockpot: CliRunner) -> None:
    """One JSON object each; what is no amount or no tenant is a usage error."""
    done = stockpot.invoke(main, ["budget", "set", "$1,000.50", "--tenant", "acme", "--json"])
    assert done.exit_code == 0, done.output
    acme = {
        "tenant": "acme",
        "period": "day",
        "limit_usd": 1000.5,
        "spent_usd": 0.0,
        "reserved_usd": 0.0,
        "left_usd": 1000.5,
        "shut": False,
        "used_up": False,
    }
    assert json.loads(done.stdout) == acme
    assert stockpot.invoke(main, ["budget", "set", "5", "--total"]).exit_code == 0
    listed = [json.loads(line) for line in stockpot.invoke(main, ["budget", "list", "--json"]).stdout.splitlines()]
    assert [(one["tenant"], one["period"]) for one in listed] == [("*", "total"), ("acme", "day")]
    assert "acme" in stockpot.invoke(main, ["budget"]).stdout
    assert stockpot.invoke(main, ["budget", "remove", "--tenant", "acme"]).exit_code == 0
    assert stockpot.invoke(main, ["budget", "remove", "--tenant", "acme"]).exit_code == 2
    for wrong in (["much"], ["-1"], ["nan"], ["5", "--tenant", "a b"]):
        assert stockpot.invoke(main, ["budget", "set", *wrong]).exit_code == 2
