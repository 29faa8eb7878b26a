"""A row that the database refuses to change stops no other: each step of the sweeper, with a trigger that raises."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.batch_factories import submit as submit_batch
from tests.batch_factories import write_file
from tests.counted import Counted
from tests.factories import (
    USAGE,
    claimed,
    lease_run_out,
    request,
    rows,
    settled,
    settlement,
    sql,
    submitted,
)
from tests.refusing import allow, refuse
from tests.rig.deliveries import settle
from tests.sweeping import sweeping
from worker.base.settings import Settings
from worker.db.batches import changes
from worker.db.budgets import reservations
from worker.db.connect import Database
from worker.db.jobs import usage_days
from worker.db.workers import registry
from worker.db.workers.registry import Presence
from worker.engine import retention, sweeper

pytestmark = pytest.mark.anyio


@dataclass(frozen=True)
class Step:
    """Where a step of the sweeper writes, and how the rows look on which it has done its work."""

    table: str
    key: str = "id"
    done: str | None = None  # None: the row is gone
    when: str = "UPDATE"
    only: str = "true"  # when it writes, of all who do


STEPS: Mapping[str, Step] = {
    "job": Step("jobs", done="status = 'queued'", only="NEW.status = 'queued'"),
    "batch": Step("batches", done="status = 'cancelled'"),
    "budget": Step("budgets", "tenant", done="used_up_on IS NOT NULL"),
    "event": Step("webhook_events", done="due_at < '2100-01-01'"),
    "wait": Step("jobs", done="due_at < '2100-01-01'"),
    "call": Step("attempts", "job_id", done="counted IS NOT NULL"),
    "worker": Step("workers", "owner", when="DELETE"),
}
FORGETTING: Mapping[str, Step] = {
    "payloads": Step("requests", "job_id", when="DELETE"),
    "results": Step("results", "job_id", when="DELETE"),
    "events": Step("webhook_events", when="DELETE"),
    "jobs": Step("jobs", when="DELETE"),
}
FAR = "2999-01-01 00:00:00.000"


def stay(database: Database, step: Step, value: str) -> None:
    """Let the database refuse what this step does to this row."""
    refuse(database, step.table, f"OLD.{step.key} = '{value}' AND {step.only}", when=step.when)


def undone(database: Database, steps: Mapping[str, Step], named: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """The rows on which a step has not done its work."""
    found: dict[str, list[str]] = {}
    for name, step in steps.items():
        but = "" if step.done is None else f"AND NOT ({step.done})"
        for value in named[name]:
            if rows(database, f"SELECT 1 FROM {step.table} WHERE {step.key} = :value {but}", value=value):
                found.setdefault(name, []).append(value)
    return found


def work(database: Database, tmp_path: Path) -> dict[str, list[str]]:
    """Three rows for every step of the sweeper; by step, what names them."""
    named: dict[str, list[str]] = {"job": submitted(database, *(request(f"lost {number}") for number in range(3)))}
    claimed(database, *named["job"])
    named["wait"] = submitted(database, *(request(f"waits {number}") for number in range(3)))
    for job in claimed(database, *named["wait"]):
        settled(database, settlement(job, status="queued", outcome="busy", spent=False, due_in=1.0))
        sql(database, "UPDATE jobs SET due_at = :far WHERE id = :id", far=FAR, id=job.id)
    named["batch"] = [submit_batch(database, write_file(tmp_path / f"{n}.jsonl", n))[0].id for n in (1, 2, 3)]
    for batch in named["batch"]:
        database.write(lambda conn, batch=batch: changes.begin_cancel(conn, batch, tenant="default"))  # type: ignore[misc]
    named["budget"] = ["t-1", "t-2", "t-3"]
    for tenant in named["budget"]:
        database.write(lambda conn, tenant=tenant: reservations.put(conn, tenant, "total", 10**12))  # type: ignore[misc]
    sql(database, "UPDATE budgets SET spent_picousd = limit_picousd")
    named["call"] = answered(database)
    sql(database, "UPDATE attempts SET counted = NULL WHERE total_tokens IS NOT NULL")
    database.write(usage_days.begin_recount)
    named["worker"] = ["h:1:aa", "h:2:bb", "h:3:cc"]
    for owner in named["worker"]:
        presence = Presence(owner, "h", 1, "0.1.0", 10.0, 200, 3, 0.01, 50_000_000)
        database.write(lambda conn, presence=presence: registry.announce(conn, presence))  # type: ignore[misc]
    sql(database, "UPDATE workers SET seen_at = '2020-01-01 00:00:00.000'")
    named["event"] = settle(database, *(f"https://{name}.example/" for name in "abc"))
    sql(database, "UPDATE webhook_events SET due_at = :far", far=FAR)
    return named


def answered(database: Database) -> list[str]:
    """Three jobs that have their answers."""
    jobs = claimed(database, *submitted(database, *(request(f"answered {number}") for number in range(3))))
    settled(database, *(settlement(job, usage=USAGE) for job in jobs))
    return [job.id for job in jobs]


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the sweeper does once a minute or an hour it does with every sweep."""
    monkeypatch.setattr(sweeper, "RECOUNT_SECONDS", 0.0)
    monkeypatch.setattr(sweeper, "TIDY_SECONDS", 0.0)
    monkeypatch.setattr(retention, "PAUSE_SECONDS", 0.0)


def refused(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """What was logged as refused: which kind of row, and which one."""
    return re.findall(r"row_refused what='(\w+)' id='([^']+)'", caplog.text)


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("name", [None, *STEPS])
async def test_a_row_that_is_refused_stops_no_other_row_and_no_other_step(
    database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str | None
) -> None:
    """All else is done, of this step and of all others. It is logged and counted once, and done once it may be."""
    named = work(database, tmp_path)
    assert undone(database, STEPS, named) == named
    counted = Counted("stockpot_refused_rows_total")
    stuck: dict[str, list[str]] = {}
    if name is not None:
        stuck = {name: [named[name][1]]}
        stay(database, STEPS[name], named[name][1])
    with sweeping(database.settings) as elected:
        await elected.sweep()  # the database has not answered for a lease yet
        for job in named["job"]:
            lease_run_out(database, job)
        for _ in range(4):
            await elected.sweep()
        assert undone(database, STEPS, named) == stuck
        assert refused(caplog) == [(kind, value) for kind, values in stuck.items() for value in values]
        assert counted() == len(stuck)
        if name is not None:
            allow(database, STEPS[name].table)
            await elected.sweep()
            # Waits are looked at once after each step of the clock.
            assert undone(database, STEPS, named) == (stuck if name in {"wait", "event"} else {})
            assert len(refused(caplog)) == 1


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("name", [None, *FORGETTING])
async def test_a_row_that_must_stay_keeps_no_other_from_being_forgotten(
    database: Database, caplog: pytest.LogCaptureFixture, name: str | None
) -> None:
    """As where another program's table refers to it; the walk begins again, and logs it no more."""
    jobs, events = answered(database), settle(database, *(f"https://{name}.example/" for name in "abc"))
    sql(database, "UPDATE webhook_events SET status = 'delivered', delivered_at = created_at")
    named = {"payloads": jobs, "results": jobs, "events": events, "jobs": jobs}
    ages = {
        f"keep_{what}_days": 1e-9 for what in ("payloads", "results", "events", *(["jobs"] if name == "jobs" else []))
    }
    steps = {what: FORGETTING[what] for what in FORGETTING if f"keep_{what}_days" in ages}
    settings = Settings(database_url=database.settings.database_url, **ages)  # type: ignore[arg-type]
    stuck: dict[str, list[str]] = {}
    if name is not None:
        stuck = {name: [named[name][1]]}
        stay(database, FORGETTING[name], named[name][1])
    with sweeping(settings) as elected:
        for _ in range(12):
            await elected.sweep()
        assert undone(database, steps, named) == stuck
        assert refused(caplog) == [(kind, value) for kind, values in stuck.items() for value in values]
        if name is not None:
            allow(database, FORGETTING[name].table)
            for _ in range(4):
                await elected.sweep()
            assert undone(database, steps, named) == {}
