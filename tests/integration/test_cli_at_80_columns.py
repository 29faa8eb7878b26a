"""Every table through the real command at 80 columns: which columns it has there, nothing wider, no id cut."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import click
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
FILE = "a-file-of-prompts-with-a-rather-long-name-of-its-own.jsonl"
ID = re.compile(r"\b(?:job|batch|key|we|evt)_[0-9a-f]+…?")
#: The first line of each table: what has room.
HEADINGS = {
    "list": "job status model age tries",
    "list -A": "job status tenant age tries",
    "usage": "day model jobs input output cost p50 p95",
    "usage --by tenant,lane,batch": "tenant lane batch jobs attempts input output cost",
    "usage --by status,error_class,owner": "status error_class owner jobs attempts input output cost",
    "usage --by model --plot": "model cost",
    "budget list": "tenant period limit spent reserved left state",
    "budget": "tenant period limit spent reserved left state",
    "keys list": "key tenant ends in used state",
    "keys limit": "tenant calls a minute tokens a minute in flight",
    "batch list": "batch status done failed cost",
    "batch list -A": "batch status tenant failed cost",
    "batch quote {file}": "model lines input tokens output tokens cost per call",
    "routes": "",
    "webhooks show {event}": "",
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


#: Commands that show something that moves, or more than a table: the tests that see them in a terminal.
ELSEWHERE = {
    "batch submit": "tests.journey.test_cli_batch_files."
    "test_the_bar_its_count_and_its_share_are_seen_in_a_narrow_terminal",
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
    submit(database, write_file(folder / FILE, 3))
    (folder / FILE).write_text((folder / FILE).read_text().replace("m/one", MODEL))
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
    if command == "routes":
        monkeypatch.setenv("STOCKPOT_API_KEY", "sk-a-key")
        with Stockpot(Settings()) as pot:
            pot.routes.pause(MODEL, reason="the bill of this month is being looked at " * 3)
    tables = {"job": "jobs", "batch": "batches", "event": "webhook_events"}
    ids = {name: str(rows(place, f"SELECT MIN(id) AS id FROM {table}")[0]["id"]) for name, table in tables.items()}
    ids["file"] = str(Path(str(place.engine.url.database)).with_name(FILE))
    done = CliRunner().invoke(main, command.format(**ids).split())
    assert done.exit_code in {0, 1}, done.output
    lines = done.stdout.splitlines()[: 2 if "quote" in command else None]  # below its table are sentences
    assert lines
    assert max(map(cell_len, lines)) <= 80, "\n".join(lines)
    heading = HEADINGS[command].format(**ids)
    if heading:
        assert " ".join(lines[0].split()) == heading, "\n".join(lines)
    for found in ID.findall(done.stdout):
        assert len(found.partition("_")[2]) == 32, f"{found} is cut:\n" + "\n".join(lines)


def test_every_command_with_a_table_or_a_progress_line_is_seen_at_80_columns() -> None:
    """A new one is found here: by what its code can reach, not by what a list says."""
    drawing = {path for path, command in commands(main) if draws(home_of(command), set())}
    seen = {re.sub(r" (?:-.*|\{.*|\d.*)$", "", one) for one in HEADINGS} | set(ELSEWHERE)
    assert len(drawing) > 15
    assert drawing - seen == set()
    for name in ELSEWHERE.values():
        module, _, test = name.rpartition(".")
        assert hasattr(importlib.import_module(module), test), name


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    """Every command by its words."""
    context = click.Context(group)
    if path and group.invoke_without_command:
        yield " ".join(path), group
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        assert found is not None
        if isinstance(found, click.Group):
            yield from commands(found, (*path, name))
        else:
            yield " ".join((*path, name)), found


def home_of(found: object) -> tuple[str, str]:
    """The module and the name of what runs."""
    found = inspect.unwrap(getattr(found, "callback", None) or found)  # type: ignore[arg-type]
    return str(getattr(found, "__module__", "")), str(getattr(found, "__name__", ""))


def draws(home: tuple[str, str], seen: set[tuple[str, str]]) -> bool:
    """Whether a function or a class of the commands' package draws a table or a progress line, itself or by another."""
    module, name = home
    if module.startswith(("worker.cli.tables", "rich.")):
        return name in {"Table", "facts", "Progress", "Live"}
    body = bodies(module).get(name) if module.startswith("worker.cli.") and home not in seen else None
    if body is None:
        return False
    seen.add(home)
    names = vars(sys.modules[module])
    return any(draws(home_of(one), seen) for part in body for node in ast.walk(part) for one in referred(node, names))


def referred(node: ast.AST, names: dict[str, object]) -> Iterator[object]:
    """What a name, or an attribute of a module, refers to."""
    if isinstance(node, ast.Name) and node.id in names:
        yield names[node.id]
    elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        yield getattr(names.get(node.value.id), node.attr, None)


@functools.cache
def bodies(module: str) -> dict[str, list[ast.stmt]]:
    """The functions and classes of a module, without their decorators."""
    tree = ast.parse(inspect.getsource(importlib.import_module(module)))
    return {one.name: one.body for one in tree.body if isinstance(one, ast.FunctionDef | ast.ClassDef)}
