"""`stockpot status` and `top`: what an engineer sees at a glance, on a screen of 80 columns."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from rich.console import Console
from sqlalchemy import text

from tests.batch_factories import submit, write_file
from tests.factories import claimed, opened, request, settled, settlement, submitted
from worker.cli.app import main
from worker.cli.operations import top
from worker.cli.operations.standing import looking
from worker.db.batches import changes
from worker.db.budgets import reservations
from worker.db.connect import Database
from worker.db.workers import registry

PRESENCE = registry.Presence("web-1:4242:9f3c2a1b", "web-1", 4242, "1.0", 10.0, 200, 3, 0.0, 2**27)
NOWHERE = "redis://127.0.0.1:1/0"


@pytest.fixture
def database(database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    monkeypatch.setenv("STOCKPOT_DATABASE_URL", database_url)
    monkeypatch.setenv("STOCKPOT_REDIS_URL", redis_url)
    with opened(database_url) as database:
        yield database


def status(*options: str) -> Result:
    return CliRunner().invoke(main, ["status", *options])


def test_all_is_well_while_a_worker_lives_and_nobody_waits(database: Database) -> None:
    database.write(lambda conn: registry.announce(conn, PRESENCE))
    done = status()
    assert (done.exit_code, done.stdout.splitlines()[0]) == (0, "All is well.")
    assert "1 alive, 3 of 200 places taken" in done.stdout
    assert max(map(len, done.stdout.splitlines())) < 200, "a pipe, as wide as it is, is not filled with blanks"


def test_what_needs_a_person_comes_first_with_its_command(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """No worker, an old job, Redis away: each a line, the exit code 1, and the same as JSON."""
    monkeypatch.setenv("STOCKPOT_REDIS_URL", NOWHERE)
    submitted(database, request("a"))
    database.write(lambda conn: conn.execute(text("UPDATE jobs SET due_at = '2026-01-01 00:00:00.000'")))
    done = status()
    assert done.exit_code == 1
    assert "3 things need you." in done.stdout
    assert "✗ no worker is running: `stockpot worker` starts one" in done.stdout
    assert "✗ an interactive job has waited for" in done.stdout
    whole = json.loads(status("--json").stdout)
    assert (whole["well"], whole["lanes"]["interactive"]["due"]) == (False, 1)
    assert len(whole["concerns"]) == 3


def test_the_night_is_shown_with_its_share_and_why_it_stands(database: Database, tmp_path: Path) -> None:
    """A paused batch is no emergency; its lines are counted."""
    database.write(lambda conn: registry.announce(conn, PRESENCE))
    batch, _ = submit(database, write_file(tmp_path / "night.jsonl", 10))
    database.write(lambda conn: changes.pause(conn, batch.id, tenant="default"))
    done = status()
    assert done.exit_code == 0
    assert f"• {batch.id} is paused: `stockpot batch resume {batch.id}` lets it go on" in done.stdout
    assert "0 of 10 lines are done" in done.stdout


@pytest.mark.parametrize("reason", ["failing", "unpriced", "max_cost"])
def test_a_batch_that_stands_until_a_person_acts_is_not_well(database: Database, tmp_path: Path, reason: str) -> None:
    """Whatever it holds itself for: nobody has paused it, and the night does not go on."""
    database.write(lambda conn: registry.announce(conn, PRESENCE))
    batch, _ = submit(database, write_file(tmp_path / "night.jsonl", 10))
    database.write(lambda conn: conn.execute(text(f"UPDATE batches SET held = '{reason}'")))
    done = status()
    assert done.exit_code == 1
    assert f"✗ {batch.id} h" in done.stdout


def test_a_used_up_budget_makes_a_sound(database: Database) -> None:
    """It is said with its figures, whoever's it is."""
    database.write(lambda conn: registry.announce(conn, PRESENCE))
    database.write(lambda conn: reservations.put(conn, "acme", "day", 5 * 10**12))
    database.write(lambda conn: conn.execute(text("UPDATE budgets SET needs_picousd = 1")))
    done = status()
    assert done.exit_code == 1
    assert "✗ tenant acme's budget is used up ($0.00 of $5.00, today)" in done.stdout


def test_top_fits_80_columns_and_what_models_are_called_commands_no_terminal(database: Database) -> None:
    """One frame, as a terminal shows it: ids whole, no control characters."""
    database.write(lambda conn: registry.announce(conn, PRESENCE))
    (job,) = claimed(database, *submitted(database, request("x")))
    settled(database, settlement(job, status="failed", outcome="failed", error_class="upstream"))
    with looking() as look:
        page = Console(width=80, force_terminal=True, color_system=None)
        with page.capture() as captured:
            page.print(top.frame(look()))
    lines = captured.get().splitlines()
    assert max(map(len, lines)) <= 80
    assert any("web-1:4242:9f3c2a1b" in line for line in lines)
    assert any("ended badly within the hour: 1 upstream" in line for line in lines)
    assert CliRunner().invoke(main, ["top"]).exit_code == 0
