"""`stockpot failures`: what failed, by why, with a sample and the command that retries it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from click.testing import CliRunner, Result

from api_schemas.errors import ErrorClass
from tests.factories import claimed, opened, request, rows, settled, settlement, sql, submitted
from worker.cli.app import main
from worker.db.connect import Database


@pytest.fixture
def database(database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    monkeypatch.setenv("STOCKPOT_REDIS_URL", redis_url)
    monkeypatch.setenv("STOCKPOT_DATABASE_URL", database_url)
    with opened(database_url) as database:
        yield database


def failed(database: Database, error_class: ErrorClass, message: str, **options: Any) -> str:
    """A job that failed for this reason; its id."""
    [job] = claimed(database, *submitted(database, request(**options)))
    settled(
        database,
        settlement(job, status="failed", outcome="failed", error_class=error_class, error_message=message),
    )
    return job.id


def run(*arguments: str) -> Result:
    """The command."""
    return CliRunner().invoke(main, arguments)


def test_what_failed_is_grouped_by_why_and_its_command_retries_just_that(database: Database) -> None:
    """Two classes of two tenants; the printed command, as it stands, queues the jobs of its group."""
    slow = [failed(database, "timeout", "no answer in 600 s", model="m1") for _ in range(3)]
    bad = failed(database, "invalid_request", "unknown\nfield", model="m2")
    failed(database, "timeout", "no answer", tenant="acme")
    [first, second] = [json.loads(line) for line in run("failures", "--json").stdout.splitlines()]
    assert (first["error_class"], first["jobs"], first["models"]) == ("timeout", 3, {"m1": 3})
    assert first["sample"] == {"id": slow[-1], "message": "no answer in 600 s", "code": None}
    assert (second["error_class"], second["jobs"]) == ("invalid_request", 1)
    shown = run("failures").stdout
    assert f"e.g. {bad}: unknown field" in shown, "one line, whatever the message"
    assert "acme" not in shown
    assert "of tenant acme" in run("failures", "-A").stdout
    [command] = first["retry"]
    # Its last option is a moment a day before the command ran, and this is another run.
    assert command.rpartition(",since=")[0] in shown
    done = run(*shlex.split(command)[1:])
    assert sorted(done.stdout.split()) == sorted(slow)
    assert [json.loads(line)["error_class"] for line in run("failures", "--json").stdout.splitlines()] == [
        "invalid_request"
    ]


def test_lines_of_batches_name_their_batch_and_old_ones_have_gone(database: Database) -> None:
    """They are retried batch by batch; jobs that were made before `--since` are not looked at."""
    line = failed(database, "upstream", "HTTP 500")
    sql(database, f"UPDATE jobs SET batch_id = 'batch_1', line = 1 WHERE id = '{line}'")
    [group] = [json.loads(one) for one in run("failures", "--json").stdout.splitlines()]
    assert group["retry"] == ["stockpot batch retry-failed batch_1"]
    assert run("failures", "--since", f"{datetime.now(UTC).year + 1}-01-01").stderr.startswith("Nothing failed since")
    assert len(rows(database, "SELECT id FROM jobs")) == 1
