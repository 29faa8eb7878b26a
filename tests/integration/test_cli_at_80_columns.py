"""Every table through the real command at 80 columns: which columns it has there, nothing wider, no id cut."""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.cells import cell_len

from tests.batch_factories import submit, write_file
from tests.factories import USAGE, claimed, opened, request, rows, settled, settlement, sql, submitted
from tests.rig.deliveries import settle
from worker.base.settings import Settings
from worker.cli import output
from worker.cli.app import main
from worker.db.connect import Database
from worker.db.workers import registry
from worker.producer.stockpot import Stockpot

MODEL = "a-provider-with-a-long-name/a-model-with-a-very-long-name-2026-11-26-preview"
ID = re.compile(r"\b(?:job|batch|key|we|evt)_[0-9a-f]*…?")
#: The first line of each table: what has room.
HEADINGS = {
    "list": "job status model age tries",
    "list -A": "job status tenant age tries",
    "usage": "day model jobs input output cost p50 p95",
    "usage --by tenant,lane,batch": "tenant lane batch jobs attempts input output cost",
    "usage --by status,error_class,owner": "status error_class owner jobs attempts input output cost",
    "usage --by model --plot": "model cost",
    "budget": "tenant period limit spent reserved left state",
    "keys list": "key tenant ends in used state",
    "keys limit": "tenant calls a minute tokens a minute in flight",
    "batch list": "batch status done failed cost",
    "webhooks endpoints": "endpoint url events state",
    "webhooks events": "event type status tries age",
    "webhooks dead": "event type status tries age",
    "workers": "",
    "batch status {batch}": "batch {batch}",
    "batch report {batch}": "batch {batch}",
    "show {job}": "job {job}",
    "status": "",
    "top --once": "",
}


@pytest.fixture(scope="module")
def place(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """A database with something in every table, with long names."""
    folder = tmp_path_factory.mktemp("wide")
    (folder / "db").write_bytes(sqlite_template.read_bytes())
    with opened(f"sqlite:///{folder}/db") as database:
        fill(database, folder)
        yield database


def fill(database: Database, folder: Path) -> None:
    """Jobs that are done, failed and waiting; a batch, budgets, keys, endpoints, events, a worker."""
    for tenant, status in (("default", "completed"), ("a-tenant-with-a-long-name", "failed"), ("default", "failed")):
        [job] = claimed(
            database, *submitted(database, request(model=MODEL, tenant=tenant)), owner="host-7f9c4d:42424:9f3c2a1b"
        )
        spent = {"usage": USAGE, "cost_usd": Decimal("1234.56"), "cost_source": "estimated", "total_seconds": 12.5}
        why = {"error_class": "timeout", "error_message": "no answer in 600 s, " * 9} if status == "failed" else {}
        settled(database, settlement(job, status=status, outcome=status, **spent, **why))
    submitted(database, request(model=MODEL))
    submit(database, write_file(folder / "a-file-of-prompts-with-a-rather-long-name-of-its-own.jsonl", 3))
    [dead] = settle(database, "https://hooks.example.com/gone", id="job_" + "0" * 32)
    sql(database, f"UPDATE webhook_events SET status = 'dead', last_error = 'HTTP 500' WHERE id = '{dead}'")
    settle(database, f"https://hooks.example.com/{'a-long-path/' * 8}")
    presence = registry.Presence("host-7f9c4d:42424:9f3c2a1b", "h", 1, "0.1.0", 10.0, 200, 117, 0.001, 1 << 30)
    database.write(lambda conn: registry.announce(conn, presence))
    with Stockpot(Settings(database_url=database.settings.database_url)) as pot:
        pot.budgets.set(1_000, all_tenants=True)
        pot.keys.create("a-tenant-with-a-long-name", budget_usd=Decimal(100))
        pot.keys.limit_tenant("a-tenant-with-a-long-name", rpm=600, tpm=1_000_000, max_in_flight=50)
        pot.webhooks.add(f"https://hooks.example.com/{'a-long-path/' * 8}", description="orders " * 12)


@pytest.mark.parametrize("command", HEADINGS)
def test_it_fits_and_its_ids_are_whole(
    place: Database, redis_url: str, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """As a terminal of 80 columns shows it."""
    monkeypatch.setenv("STOCKPOT_DATABASE_URL", place.settings.database_url)
    monkeypatch.setenv("STOCKPOT_REDIS_URL", redis_url)
    monkeypatch.setattr(output, "_WIDE", 80)
    ids = {
        name: str(
            rows(place, f"SELECT MIN(id) AS id FROM {name}es" if name == "batch" else "SELECT MIN(id) AS id FROM jobs")[
                0
            ]["id"]
        )
        for name in ("job", "batch")
    }
    done = CliRunner().invoke(main, command.format(**ids).split())
    assert done.exit_code in {0, 1}, done.output
    lines = done.stdout.splitlines()
    assert lines
    assert max(map(cell_len, lines)) <= 80, "\n".join(lines)
    heading = HEADINGS[command].format(**ids)
    if heading:
        assert " ".join(lines[0].split()) == heading, "\n".join(lines)
    for found in ID.findall(done.stdout):
        assert len(found.partition("_")[2]) == 32, f"{found} is cut:\n" + "\n".join(lines)
