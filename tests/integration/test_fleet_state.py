"""The fleet in numbers: what waits and for how long, whoever works or does not; and the gauges that show it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import create_engine, text

from tests.counted import Counted
from tests.factories import opened, request, submitted
from tests.sweeping import sweeping
from worker.base import metrics
from worker.base.settings import Settings
from worker.db import fleet
from worker.db.budgets import reservations
from worker.db.connect import Database
from worker.engine import fleet_gauges
from worker.limits.limiter import RouteState
from worker.limits.route import Route

PAST = "'2020-01-01 00:00:00.000'"


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    opened = Database(Settings(database_url=database_url), pool_size=1)
    yield opened
    opened.close()


def test_an_empty_database_has_no_backlog_and_no_leader(database: Database) -> None:
    state = database.read(fleet.read)
    assert state.lanes["interactive"] == fleet.LaneState()
    assert state.lanes["bulk"] == fleet.LaneState()
    assert (state.workers_alive, state.sweeper_seconds, state.webhooks_oldest_seconds) == (0, None, 0.0)


def test_the_age_of_the_oldest_due_job_grows_although_nobody_claims(database: Database) -> None:
    submitted(database, request("a"), request("b"), request("c", lane="bulk"))
    database.write(lambda conn: conn.execute(text(f"UPDATE jobs SET due_at = {PAST} WHERE lane = 'interactive'")))
    state = database.read(fleet.read)
    assert state.lanes["interactive"].due == 2
    assert state.lanes["interactive"].oldest_due_seconds > 86_400
    assert state.lanes["bulk"].due == 1
    assert state.lanes["bulk"].oldest_due_seconds < 86_400


def test_gauges_show_what_was_read_and_forget_what_is_over(database: Database) -> None:
    def sample(name: str, **labels: str) -> float | None:
        return metrics.REGISTRY.get_sample_value(name, labels)

    submitted(database, request("a"))
    database.write(lambda conn: conn.execute(text("UPDATE jobs SET waiting_on = 'paused'")))
    fleet_gauges.show(database.read(fleet.read))
    assert (sample("stockpot_sweeper_term_seconds") or 0) < 0, "none was ever elected: there is none"
    assert sample("stockpot_backlog_jobs", lane="interactive", state="due") == 1
    assert sample("stockpot_waiting_jobs", waiting_on="paused") == 1
    database.write(lambda conn: conn.execute(text("UPDATE jobs SET waiting_on = NULL")))
    fleet_gauges.show(database.read(fleet.read))
    assert sample("stockpot_waiting_jobs", waiting_on="paused") is None
    route = Route("http://u/v1", "k", "m")
    fleet_gauges.show_paused([RouteState(route, None, 0, "credits", "account"), RouteState(route, None, 0)])
    assert sample("stockpot_paused_routes", of="account", reason="credits") == 1


def test_a_budget_whose_rest_fits_no_call_counts_as_used_up(database: Database) -> None:
    """Jobs stand although a little is left: the alert must not wait for the last cent, which is never spent."""
    database.write(lambda conn: reservations.put(conn, "acme", "day", 10**12))
    database.write(lambda conn: conn.execute(text("UPDATE budgets SET spent_picousd = 900000000000")))
    gauge = "stockpot_budget_left_ratio", {"budget": "acme/day"}
    fleet_gauges.show(database.read(fleet.read))
    assert metrics.REGISTRY.get_sample_value(*gauge) == pytest.approx(0.1)
    database.write(lambda conn: conn.execute(text("UPDATE budgets SET needs_picousd = 1")))
    fleet_gauges.show(database.read(fleet.read))
    assert metrics.REGISTRY.get_sample_value(*gauge) == 0


@pytest.mark.anyio
async def test_who_is_unseated_shows_no_old_snapshot_any_more(postgres_url: str) -> None:
    """It is its successor's to show; what was last seen here would be the fleet's maximum for ever."""
    settings, moment = Settings(database_url=postgres_url), "clock_timestamp() + interval '1 hour'"
    shown = Counted("stockpot_oldest_snapshot_seconds")
    stranger = create_engine(postgres_url)
    with opened(postgres_url) as database, stranger.connect() as holder, sweeping(settings) as sweeper:
        holder.execute(text("SELECT pg_current_xact_id()"))
        await sweeper.sweep()
        assert shown.now() > 0
        database.write(lambda conn: conn.execute(text(f"UPDATE leases SET owner = 'another', until = {moment}")))
        await sweeper.sweep()
        assert shown.now() == 0
    stranger.dispose()
