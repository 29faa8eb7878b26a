"""`stockpot usage` as people and programs see it."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from decimal import Decimal

import pytest
from click.testing import CliRunner

from tests.factories import USAGE, claimed, opened, request, settled, settlement, submitted
from worker.cli.app import main
from worker.cli.money.usage import bar
from worker.db.connect import Database


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
    assert bar(1 / 320) == "▏"


def test_usage_is_grouped_by_a_key_of_the_metadata_as_json(database: Database) -> None:
    """One object for each group, in their order; jobs without the key are a group of their own."""
    spend(database, "1", metadata={"team": "red"})
    spend(database, "2")
    found = [json.loads(line) for line in run("--by", "metadata.team,model", "--json").splitlines()]
    assert [(one["metadata.team"], one["cost_usd"]) for one in found] == [("red", 1.0), (None, 2.0)]
    assert "in all" in run("--by", "metadata.team")


def test_only_one_form_at_a_time(database: Database) -> None:
    """A usage error."""
    assert CliRunner().invoke(main, ["usage", "--csv", "--json"]).exit_code == 2
