"""`stockpot usage` as people and programs see it."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from click.testing import CliRunner

from tests.factories import USAGE, claimed, opened, request, settled, settlement, submitted
from worker.cli.app import main
from worker.cli.money.usage import bar
from worker.db.connect import Database
from worker.db.jobs import usage as using


@pytest.fixture
def database(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    monkeypatch.setenv("STOCKPOT_DATABASE_URL", database_url)
    with opened(database_url) as database:
        yield database


def spend(database: Database, dollars: str, **options: object) -> str:
    """A job that has cost so much; its id."""
    [job] = claimed(database, *submitted(database, request(**options)))  # type: ignore[arg-type]
    settled(database, settlement(job, usage=USAGE, cost_usd=Decimal(dollars), cost_source="provider"))
    return job.id


def run(*options: str) -> str:
    """What the command prints."""
    done = CliRunner().invoke(main, ["usage", *options])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_usage_is_written_as_csv_to_the_last_digit(database: Database) -> None:
    """One line for each job, every column named."""
    cheap, dear = spend(database, "0.0000005"), spend(database, "1.0000000000", tenant="acme")
    lines = list(csv.DictReader(io.StringIO(run("--by", "job,tenant", "--csv"))))
    assert [(line["job"], line["tenant"], line["cost_usd"]) for line in lines] == [
        (cheap, "default", "0.0000005"),
        (dear, "acme", "1"),
    ]
    assert {line["total_tokens"] for line in lines} == {"15"}


def test_usage_is_drawn_in_bars_as_long_as_the_cost(database: Database) -> None:
    """The dearest is the longest; what cost nothing has none."""
    for tenant, dollars in (("a", "4"), ("b", "1"), ("c", "0")):
        spend(database, dollars, tenant=tenant)
    a, b, c = run("--by", "tenant", "--plot").splitlines()[1:]
    assert (a.count("█"), b.count("█"), c.count("█")) == (40, 10, 0)
    assert "$4.00" in a
    assert run("--by", "tenant", "--all-tenants") == run("--by", "tenant")
    both = CliRunner().invoke(main, ["usage", "--tenant", "a", "--all-tenants"])
    assert (both.exit_code, "give one of --tenant and --all-tenants" in both.stderr) == (2, True)
    assert bar(1 / 320) == "▏"


def test_usage_is_grouped_by_a_key_of_the_metadata_as_json(database: Database) -> None:
    """One object for each group, in their order; jobs without the key are a group of their own."""
    spend(database, "1", metadata={"team": "red"})
    spend(database, "2")
    found = [json.loads(line) for line in run("--by", "metadata.team,model", "--json").splitlines()]
    assert [(one["metadata.team"], one["cost_usd"]) for one in found] == [("red", 1.0), (None, 2.0)]
    assert "in all" in run("--by", "metadata.team")


def test_what_became_of_calls_and_who_made_them_are_groups(database: Database) -> None:
    """Status, error class, worker and month, each with its cost; a bound in time leaves out what came later."""
    spend(database, "1")
    [job] = claimed(database, *submitted(database, request()))
    cost: dict[str, Any] = {"usage": USAGE, "cost_usd": Decimal(2), "cost_source": "provider"}
    settled(database, settlement(job, status="failed", outcome="failed", error_class="upstream", **cost))
    by_status = {one["status"]: one["cost_usd"] for one in lines("--by", "status", "--json")}
    assert by_status == {"completed": 1.0, "failed": 2.0}
    by_class = {one["error_class"]: one["cost_usd"] for one in lines("--by", "error_class", "--json")}
    assert by_class == {None: 1.0, "upstream": 2.0}
    [owner] = lines("--by", "owner", "--json")
    assert (owner["owner"], owner["jobs"]) == ("w", 2)
    month = f"{datetime.now(UTC):%Y-%m}"
    assert [(one["month"], one["cost_usd"]) for one in lines("--by", "month", "--json")] == [(month, 3.0)]
    assert lines("--by", "month,status", "--until", "2020-01-01", "--json") == []
    assert lines("--by", "month", "--until", "2020-01-01", "--json") == []
    assert len(lines("--by", "month", "--since", "2020-01-01", "--until", "2100-01-01", "--json")) == 1
    backwards = CliRunner().invoke(main, ["usage", "--since", "2026-01-02", "--until", "2026-01-01"])
    assert backwards.exit_code == 2


def test_how_long_calls_took_stands_beside_their_model(database: Database) -> None:
    """The median and the 95th percentile, of the calls of each group."""
    for seconds in range(1, 21):
        [job] = claimed(database, *submitted(database, request(model="m")))
        settled(database, settlement(job, usage=USAGE, total_seconds=float(seconds)))
    [found] = lines("--by", "model", "--json")
    assert (found["p50_seconds"], found["p95_seconds"]) == (10.0, 19.0)
    assert "p95" in run("--by", "model").splitlines()[0]
    assert "p50_seconds" not in lines("--by", "tenant", "--json")[0]


def test_a_cost_that_nobody_knows_is_unknown_and_never_zero(database: Database) -> None:
    """In tables, bars, CSV and JSON; beside known ones it is a lower bound."""
    [job] = claimed(database, *submitted(database, request(tenant="dark")))
    settled(database, settlement(job, usage=USAGE))
    assert [(one["cost_usd"], one["unpriced"]) for one in lines("--by", "tenant", "--json")] == [(None, 1)]
    assert "unknown" in run("--by", "tenant", "--csv")
    for form in ((), ("--plot",)):
        shown = run("--by", "tenant", *form)
        assert "unknown" in shown
        assert "$0.00" not in shown
    spend(database, "1", tenant="dark")
    assert "≥ $1.00" in run("--by", "tenant")


def test_a_report_of_the_newest_calls_only_says_so(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """It reads so many calls at most, whatever there is."""
    for _ in range(5):
        spend(database, "1")
    monkeypatch.setattr(using, "CALLS_AT_MOST", 3)
    done = CliRunner().invoke(main, ["usage", "--by", "status", "--json"])
    assert json.loads(done.stdout)["jobs"] == 3
    assert "The newest 3 calls" in done.stderr
    assert "newest" not in CliRunner().invoke(main, ["usage", "--by", "model", "--json"]).stderr


def lines(*options: str) -> list[dict[str, Any]]:
    """What the command prints, as JSON."""
    return [json.loads(line) for line in run(*options).splitlines()]


def test_only_one_form_at_a_time(database: Database) -> None:
    """A usage error."""
    assert CliRunner().invoke(main, ["usage", "--csv", "--json"]).exit_code == 2
