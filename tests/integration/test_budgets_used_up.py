"""A budget that is used up is announced: once a day, or once in all; by log, metric, webhook and list."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from click.testing import CliRunner
from structlog.testing import capture_logs

from tests.factories import USAGE, claimed, opened, request, rows, settled, settlement, sql, submitted
from tests.fakes import Provider, workplace
from tests.rig.waiting import eventually
from worker.base import metrics
from worker.base.money import PICO
from worker.base.settings import Settings
from worker.cli.app import main
from worker.db.budgets import reservations
from worker.db.budgets.reservations import Ask
from worker.db.connect import Database
from worker.job.consequences import Consequences
from worker.producer.stockpot import Stockpot


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    with opened(database_url) as database:
        yield database


def spend(database: Database, dollars: str, tenant: str = "acme") -> None:
    """A call of this tenant has cost so much."""
    [job] = claimed(database, *submitted(database, request(tenant=tenant)))
    settled(database, settlement(job, usage=USAGE, cost_usd=Decimal(dollars), cost_source="provider"))
    database.write(lambda conn: reservations.charge(conn, [(job.id, job.attempt)]))


def tend(database: Database) -> list[tuple[str, str]]:
    """What one sweep announces: the log's lines."""
    with capture_logs() as lines:
        database.write(Consequences().tend)()
    return [(one["tenant"], one["period"]) for one in lines if one["event"] == "budget_used_up"]


def limit(database: Database, tenant: str, period: str, dollars: str) -> None:
    """Set a budget."""
    database.write(lambda conn: reservations.put(conn, tenant, period, int(Decimal(dollars) * PICO)))


def events(database: Database) -> list[tuple[str, dict[str, object]]]:
    """For whom there are events of used-up budgets, with their data."""
    found = rows(
        database,
        "SELECT e.tenant, e.body FROM webhook_events AS e WHERE e.type = 'budget.used_up' ORDER BY e.created_at, e.id",
    )
    return [(one["tenant"], json.loads(one["body"])["data"]) for one in found]


def counted() -> float:
    """How many budgets in all this process has counted as used up."""
    return metrics.REGISTRY.get_sample_value("stockpot_budgets_used_up_total", {"period": "total"}) or 0.0


def test_it_is_announced_once_a_day_and_again_after_it_was_raised(database: Database) -> None:
    """Two sweeps announce it once; raised and used up again, again; so on the next day."""
    limit(database, "acme", "day", "1")
    spend(database, "0.6")
    assert tend(database) == []
    spend(database, "0.6")
    assert tend(database) == [("acme", "day")]
    assert tend(database) == []
    limit(database, "acme", "day", "2")
    assert tend(database) == []
    spend(database, "1")
    assert tend(database) == [("acme", "day")]
    sql(database, "UPDATE budgets SET day = '2020-01-01', used_up_on = '2020-01-01'")
    assert tend(database) == [], "yesterday's; nothing was spent today"


def test_money_that_calls_in_flight_have_set_aside_is_not_used_up(database: Database) -> None:
    """Jobs wait until they end, and nobody is told that the budget is gone."""
    limit(database, "acme", "total", "1")
    jobs = claimed(database, *submitted(database, request(tenant="acme"), request(tenant="acme")))
    asks = [Ask(job.id, job.attempt, job.fence, job.tenant, int(Decimal("0.9") * PICO)) for job in jobs]
    assert database.write(lambda conn: reservations.reserve(conn, asks)).refused
    [budget] = database.read(reservations.every)
    assert (budget.state, tend(database)) == ("jobs wait", [])
    sql(database, "UPDATE budgets SET spent_picousd = limit_picousd - 1")
    [budget] = database.read(reservations.every)
    assert (budget.state, tend(database)) == ("used up", [("acme", "total")]), "what waits does not fit into the rest"


@pytest.mark.clear
def test_endpoints_of_the_tenant_are_sent_it_and_of_all_only_who_asks(database_url: str, database: Database) -> None:
    """That of all tenants together is the operator's business."""
    with Stockpot(Settings(database_url=database_url), tenant="acme") as pot:
        pot.webhooks.add("https://acme.example/all")
        pot.webhooks.add("https://acme.example/some", events=["job.failed"])
    with Stockpot(Settings(database_url=database_url), tenant="other") as pot:
        pot.webhooks.add("https://other.example/all")
        pot.webhooks.add("https://other.example/asks", events=["budget.used_up"])
    limit(database, "acme", "day", "1")
    limit(database, "*", "total", "1")
    spend(database, "1.5")
    assert sorted(tend(database)) == [("*", "total"), ("acme", "day")]
    [(first, own), (second, shared)] = sorted(events(database), key=lambda one: one[0])
    assert (first, own["id"], own["status"], own["spent_usd"]) == ("acme", "acme/day", "used_up", 1.5)
    assert (second, shared["tenant"], shared["period"]) == ("other", "*", "total")


@pytest.mark.clear
def test_a_worker_logs_counts_and_sends_it_and_the_list_says_so(
    database_url: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With real workers, after real calls; a job that waits for it is no condition."""
    before = counted()
    monkeypatch.setenv("STOCKPOT_DATABASE_URL", database_url)
    with Provider(tmp_path) as provider, workplace(provider, database_url, redis_url) as place:
        with Stockpot(Settings(database_url=database_url)) as pot:
            pot.webhooks.add("https://default.example/all")
        assert CliRunner().invoke(main, ["budget", "set", "0.000001", "--tenant", "default", "--total"]).exit_code == 0
        submitted(place.database, request(model="m@sim:ok"))
        place.start()
        eventually(lambda: events(place.database), what="the event is written")
        eventually(lambda: counted() == before + 1, what="it is counted")
        listed = CliRunner().invoke(main, ["budget"])
    assert "used up" in listed.stdout
