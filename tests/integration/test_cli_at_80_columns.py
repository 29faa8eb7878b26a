"""Every table through the real command, as a terminal of 80 columns shows it: compared with the screen in `screens/`.

A change of what people see is accepted by `make screens`, which writes them anew; look at them before you commit.
"""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import os
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from rich.cells import cell_len

from tests import screen_story
from tests.factories import opened, rows
from tests.frozen import Clock, frozen
from worker.base.money import PICO
from worker.batches import progress
from worker.cli import output
from worker.cli.app import main
from worker.cli.batches import progress_line
from worker.cli.operations import checks
from worker.cli.operations.check import Check
from worker.db.connect import Database
from worker.limits.limiter import RouteState
from worker.producer.faces import blocked
from worker.producer.routes import AsyncRoutes, Routes

SCREENS = Path(__file__).parent / "screens"
ID = re.compile(r"\b(?:job|batch|key|we|evt)_[0-9a-f]+…?")
#: The commands that draw, each with its screen's name.
COMMANDS = {
    "list": "list --limit 12",
    "list-all-tenants": "list -A --limit 5",
    "list-failed": "list -A --status failed",
    "usage": "usage",
    "usage-groups": "usage --by tenant,lane,batch",
    "usage-ends": "usage --by status,error_class,owner",
    "usage-plot": "usage --by model --plot",
    "budgets": "budget list",
    "budgets-short": "budget",
    "keys": "keys list",
    "keys-limits": "keys limit",
    "batches": "batch list",
    "batches-all-tenants": "batch list -A",
    "batch-quote": "batch quote {file}",
    "batch-status-over": "batch status {whole}",
    "batch-status-held": "batch status {capped}",
    "batch-status-running": "batch status {slow} --tenant " + screen_story.TENANT,
    "batch-report": "batch report {whole}",
    "routes": "routes",
    "webhooks-endpoints": "webhooks endpoints",
    "webhooks-events": "webhooks events",
    "webhooks-dead": "webhooks dead",
    "webhooks-event": "webhooks show {event}",
    "workers": "workers",
    "show-answered": "show {answered}",
    "show-failed": "show -A {failed}",
    "show-waiting": "show {waiting}",
    "failures": "failures -A",
    "doctor": "doctor",
    "purge": "purge --older-than 1h --dry-run",
    "status": "status",
    "top": "top --once",
}
#: What of them is sentences and commands to copy: the terminal breaks these, so that they are copied whole.
SENTENCES = {"batch-quote", "failures", "purge"}
#: Commands that show something that moves: the tests that see them in a terminal.
ELSEWHERE = {
    "batch submit": "tests.journey.test_cli_batch_files."
    "test_the_bar_its_count_and_its_share_are_seen_in_a_narrow_terminal",
}
CHECKS = (
    Check("settings", "ok", "3 settings of the environment, 2 of /srv/stockpot/stockpot.toml"),
    Check("database", "ok", "postgresql://stockpot@db.example.com/stockpot"),
    Check(
        "redis settings",
        "note",
        "maxmemory-policy is allkeys-lru: under memory pressure it forgets doorbells and limits; timeout is 60",
        "Set maxmemory-policy to noeviction and timeout to 0: `CONFIG SET maxmemory-policy noeviction`.",
    ),
    Check(
        "upstream", "unreachable", "https://api.example.com/v1: connection refused", "Look at STOCKPOT_UPSTREAM_URL."
    ),
    Check("key", "failed", "the provider refuses it (401 Invalid API key)", "Set STOCKPOT_API_KEY to a valid key."),
)


@pytest.fixture(scope="module")
def night(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Database, Clock]]:
    """The story in a database, once for all; its clock stands in the morning."""
    folder = tmp_path_factory.mktemp("night")
    (folder / "db").write_bytes(sqlite_template.read_bytes())
    assert len(list(commands(main))) > 50, "every command's module is imported, and reads the clock that is set"
    with frozen(screen_story.EVENING) as clock, opened(f"sqlite:///{folder}/db") as database:
        screen_story.tell(database, clock, folder)
        yield database, clock


@pytest.mark.parametrize("name", COMMANDS)
def test_it_is_the_screen_that_was_looked_at(
    night: tuple[Database, Clock], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """To the last character; no line of a table is wider than the terminal, and no id is cut."""
    shown, drawn = screen(*night, monkeypatch, name)
    assert max(map(cell_len, drawn), default=0) <= 80, shown
    for found in ID.findall(shown):
        assert len(found.partition("_")[2]) == 32, f"{found} is cut:\n{shown}"
    compare(name, shown)


#: What is over, has failed, costs and runs, of how many lines; then the same when twenty seconds have passed.
STAGES = {
    "before its first answer": ((0, 0, 0.0, 0), (0, 0, 0.0, 8), 1_250),
    "under way": ((100, 0, 0.042, 8), (168, 0, 0.07056, 8), 1_250),
    "with lines that failed": ((100, 1, 0.042, 8), (168, 12, 0.07056, 8), 1_250),
    "a night's": ((1_204_118, 211, 5_017.2, 9_876), (1_204_998, 211, 5_020.9, 10_000), 2_000_000),
    "over": ((1_249, 0, 0.5, 1), (1_250, 0, 0.525, 0), 1_250),
}


def test_the_progress_line_is_the_one_that_was_looked_at(
    night: tuple[Database, Clock], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At 80 columns, and at 40, where the bar, the count and the share are what stays."""
    database, _ = night
    id_ = rows(database, QUERIES["slow"])[0]["id"]
    found, lines = database.read(lambda conn: progress.look(conn, id_, tenant=None)), []
    for name, (before, after, total) in STAGES.items():
        pace = progress.Pace()
        for at, (done, failed, cost, _) in ((0.0, before), (20.0, after)):
            monkeypatch.setattr(time, "monotonic", lambda at=at: at)
            ended: dict[str, Any] = {"total": total, "completed": done - failed, "failed": failed}
            row = replace(found.row, **ended, cost_picousd=int(cost * float(PICO)), total_tokens=1_550 * done)
            pace.see(row)
        parts = progress_line.words(replace(found, row=row), after[-1], pace)
        lines += [f"{name}:", *(progress_line.line(row, parts, width - 1) for width in (80, 40)), ""]
    monkeypatch.undo()
    assert max(map(cell_len, lines)) < 80
    compare("progress", "\n".join(lines))


def compare(name: str, shown: str) -> None:
    """Compare what is shown with the stored screen; or store it, when that is what was asked for."""
    path = SCREENS / f"{name}.txt"
    if os.environ.get("TESTS_ACCEPT_SCREENS") == "1":
        path.write_text(shown)
    assert shown == (path.read_text() if path.exists() else ""), f"see {path.name}; `make screens` accepts a change"


def test_each_screen_is_some_commands() -> None:
    """None is left behind when its command goes."""
    assert {path.stem for path in SCREENS.iterdir()} == {*COMMANDS, "progress"}


def screen(database: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch, name: str) -> tuple[str, list[str]]:
    """What a command shows, after the line that was typed, and of it the lines of its tables."""

    async def known(_: AsyncRoutes) -> list[RouteState]:
        return screen_story.routes(clock)

    folder = Path(str(database.engine.url.database)).parent
    monkeypatch.setenv("STOCKPOT_DATABASE_URL", database.settings.database_url)
    monkeypatch.setenv("STOCKPOT_REDIS_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setenv("STOCKPOT_PRICES", f"{screen_story.GPT}=1.25/10")
    monkeypatch.setattr(output, "_WIDE", 80)
    monkeypatch.setattr(AsyncRoutes, "list", known)
    monkeypatch.setattr(Routes, "list", blocked(known))
    monkeypatch.setattr(checks, "every", lambda *_: iter(CHECKS))
    monkeypatch.chdir(folder)
    given = {name: str(rows(database, query)[0]["id"]) for name, query in QUERIES.items()}
    typed = COMMANDS[name].format(file=screen_story.FILE, **given)
    done = CliRunner().invoke(main, typed.split())
    assert done.exit_code in {0, 1, 3}, done.output
    lines = [line.rstrip() for line in done.output.splitlines()]
    return "\n".join([f"$ stockpot {typed}", *lines, ""]), [] if name in SENTENCES else done.stdout.splitlines()


#: The ids that commands are given.
QUERIES = {
    "whole": "SELECT id FROM batches WHERE total = 12",
    "capped": "SELECT id FROM batches WHERE total = 40",
    "slow": "SELECT id FROM batches WHERE total = 1250",
    "event": "SELECT id FROM webhook_events WHERE attempts = 2",
    "answered": "SELECT id FROM jobs WHERE batch_id IS NULL AND status = 'completed'",
    "failed": "SELECT id FROM jobs WHERE batch_id IS NULL AND status = 'failed'",
    "waiting": "SELECT id FROM jobs WHERE waiting_on = 'paused'",
}


def test_every_command_with_a_table_or_a_progress_line_is_seen_at_80_columns() -> None:
    """A new one is found here: by what its code can reach, not by what a list says."""
    drawing = {path for path, command in commands(main) if draws(home_of(command), set())}
    seen = {re.sub(r" (?:-.*|\{.*|\d.*)$", "", one) for one in COMMANDS.values()} | set(ELSEWHERE)
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
        return name in {"Table", "facts", "items", "Progress", "Live"}
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
