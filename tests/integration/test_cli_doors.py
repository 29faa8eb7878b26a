"""What is refused or warned of at the door, by the real command: a cap without prices, a webhook that goes nowhere, a newer database."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.batch_factories import claimed, end, over, submit, write_file
from tests.factories import opened, rows, sql
from tests.rig import procs
from tests.unit.test_batch_formats import CONVERTED
from worker.batches import importing
from worker.batches.importing import Options
from worker.cli.app import main
from worker.cli.batches import submit as commands
from worker.cli.webhooks import reach
from worker.db import schema
from worker.db.batches import lines_in
from worker.producer import batch_control as control

STOCKPOT = Path(sys.executable).with_name("stockpot")
ID = re.compile(r"^batch_[0-9a-f]{32}$", re.MULTILINE)


@pytest.fixture
def env(stockpot_env: Callable[..., dict[str, str]], tmp_path: Path) -> dict[str, str]:
    url = f"sqlite:///{tmp_path}/stockpot.db"
    schema.upgrade(url)
    return stockpot_env(upstream_url="http://127.0.0.1:9/v1", database_url=url, redis_url="redis://127.0.0.1:9/0")


def run(env: dict[str, str], *arguments: object) -> subprocess.CompletedProcess[str]:
    done = procs.run([str(STOCKPOT), *map(str, arguments)], env=env)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def test_a_cap_that_cannot_hold_is_refused_and_one_file_is_one_batch(env: dict[str, str], tmp_path: Path) -> None:
    """The upstream gives no prices: with a price of the user's the same command goes through; other knobs stop."""
    file = write_file(tmp_path / "in.jsonl", 2)
    refused = run(env, "batch", "submit", file, "--max-cost", "0.5")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "m/one has no known price" in refused.stderr and "STOCKPOT_PRICES='m/one=INPUT/OUTPUT'" in refused.stderr
    with opened(env["STOCKPOT_DATABASE_URL"]) as database:
        assert rows(database, "SELECT count(*) AS n FROM batches")[0]["n"] == 0
    env |= {"STOCKPOT_PRICES": "m/one=1/2"}
    taken = run(env, "batch", "submit", file, "--max-cost", "0.5")
    assert taken.returncode == 0 and taken.stdout.startswith("batch_")
    for knobs in (
        ("--max-cost", "0.6"),
        ("--max-cost", "0.5", "--max-in-flight", "3"),
        ("--finish-by", "8h", "--wait"),
    ):
        other = run(env, "batch", "submit", file, *knobs)
        assert (other.returncode, other.stdout) == (2, ""), "each would pay for every line again"
        for word in (taken.stdout.strip(), "resume", "--max-cost USD", "retry-failed", "--again"):
            assert word in other.stderr
    assert run(env, "batch", "submit", file, "--max-cost", "0.5").stdout == taken.stdout
    assert run(env, "batch", "submit", file, "--max-cost", "0.6", "--again").stdout != taken.stdout


def test_a_file_of_another_format_is_one_sentence_of_the_command(
    env: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a problem a line: how to convert it, and nothing is accepted."""
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    foreign = {kind: data for kind, data in CONVERTED.items() if kind not in {"gzip", "bzip2", "xz"}}
    for number, (kind, data) in enumerate(foreign.items()):
        file = tmp_path / f"{number}.any"
        file.write_bytes(data)
        done = CliRunner().invoke(main, ["batch", "submit", str(file)])
        assert (done.exit_code, done.stdout) == (2, ""), kind
        assert done.stderr.count("| stockpot batch submit -") == 1, kind
    with opened(env["STOCKPOT_DATABASE_URL"]) as database:
        assert rows(database, "SELECT count(*) AS n FROM batches")[0]["n"] == 0


def test_ctrl_c_in_an_import_says_what_runs_by_then(
    env: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first lines are called and paid for: how to end that, and how to go on. A file may be called anything."""
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(importing, "SQLITE_SLICE", 2)
    insert = lines_in.insert

    def interrupted(*given: Any, after: int, **how: Any) -> Any:
        if after:
            raise KeyboardInterrupt
        return insert(*given, after=after, **how)

    monkeypatch.setattr(lines_in, "insert", interrupted)
    file = write_file(tmp_path / "in.jsonl", 5).rename(os.fsdecode(bytes(tmp_path) + b"/\xff\n.jsonl"))
    done = CliRunner().invoke(main, ["batch", "submit", str(file)])
    with opened(env["STOCKPOT_DATABASE_URL"]) as database:
        [batch] = rows(database, "SELECT id, imported, input_name FROM batches")
    assert (done.exit_code, batch["imported"], batch["input_name"]) == (130, 2, "\N{REPLACEMENT CHARACTER}\n.jsonl")
    assert "Interrupted." in done.output
    assert f"stockpot batch cancel {batch['id']} ends it" in done.output
    monkeypatch.undo()
    assert run(env, "batch", "submit", str(file)).stdout.strip() == batch["id"]


def test_ctrl_c_behind_the_printed_id_says_how_to_see_it_again(
    env: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also before the wait has begun, while a webhook's host is looked up."""
    for name, value in env.items():
        monkeypatch.setenv(name, value)

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "wait_for", interrupted)
    monkeypatch.setattr(reach, "warn", interrupted)
    batch = CliRunner().invoke(main, ["batch", "submit", str(write_file(tmp_path / "in.jsonl", 2)), "--wait"])
    job = CliRunner().invoke(main, ["submit", "-m", "m", "--wait", "--webhook", "https://hooks.example.com", "hi"])
    for done, again in ((batch, "stockpot batch status {} --watch"), (job, "stockpot watch {}")):
        assert done.exit_code == 130
        assert again.format(done.stderr.split()[0]) in done.stderr


def test_retry_failed_keeps_bounds_and_is_one_batch_however_often_it_is_asked_for(
    env: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not while the batch runs; other options and `--again` make another; cancelled lines on request."""
    for name, value in env.items():
        monkeypatch.setenv(name, value)

    def retried(*options: str) -> tuple[int, str, str]:
        done = CliRunner().invoke(main, ["batch", "retry-failed", batch.id, *options])
        assert isinstance(done.exception, SystemExit | None)
        return done.exit_code, (ID.search(done.stdout) or [""])[0], done.output

    with opened(env["STOCKPOT_DATABASE_URL"]) as database:
        asked = Options(max_cost_usd=Decimal("0.5"), max_in_flight=3)
        batch, _ = submit(database, write_file(tmp_path / "in.jsonl", 4), asked)
        end(
            database,
            over(claimed(database, batch.id, 1)[0], "failed", error_class="upstream", error_message="HTTP 500"),
        )
        code, _, words = retried()
        assert (code, "in_progress" in words) == (2, True)
        control.cancel(database, batch.id, tenant="default", abort=True)
    code, first, words = retried()
    assert (code, f"{first}\n1 line, at most $0.50" in words) == (0, True)
    code, same, words = retried()
    assert (code, same, "submitted again before" in words, "--again" in words) == (0, first, True, True)
    code, _, words = retried("--max-cost", "0.9")
    assert (code, first in words, "--again" in words) == (2, True, True)
    code, other, words = retried("--max-cost", "0.9", "--within", "2d", "--again")
    assert (code, other != first, "1 line, at most $0.90" in words) == (0, True, True)
    code, more, words = retried("--cancelled")
    assert (code, more not in {first, other}, "4 lines, at most $0.50" in words) == (0, True, True)


@pytest.mark.parametrize("url", ["http://example.com/hook", "https://10.0.0.1/hook"])
def test_a_webhook_that_can_never_be_delivered_is_warned_of_at_once(env: dict[str, str], url: str) -> None:
    """The endpoint is kept: the workers' settings may differ."""
    added = run(env, "webhooks", "add", url)
    assert added.returncode == 0 and added.stdout.startswith("we_")
    assert f"Warning: nothing can be delivered to {url}: " in added.stderr


@pytest.mark.parametrize("what", ["a directory", "notes"])
def test_what_is_no_database_is_refused_and_left_as_it_is(
    stockpot_env: Callable[..., dict[str, str]], tmp_path: Path, what: str
) -> None:
    """Neither is read nor closed to others: a directory with a file's mode can be entered by its owner no more."""
    path = tmp_path / what
    path.mkdir() if what == "a directory" else path.write_text("my notes\n")
    path.chmod(0o755)
    done = run(stockpot_env(database_url=f"sqlite:///{path}"), "db", "upgrade")
    assert (done.returncode, done.stdout) == (3, "")
    assert f"{path}" in done.stderr and "Set STOCKPOT_HOME or STOCKPOT_DATABASE_URL to " in done.stderr
    assert stat.S_IMODE(path.stat().st_mode) == 0o755
    assert sorted(one.name for one in tmp_path.iterdir() if one.name.startswith(what)) == [what]


def test_a_database_of_a_newer_version_is_a_sentence(env: dict[str, str]) -> None:
    """For what changes tables, and for what only reads."""
    with opened(env["STOCKPOT_DATABASE_URL"]) as database:
        sql(database, "UPDATE stockpot_version SET version_num = '9999'")
    for command in (["db", "upgrade"], ["list"], ["db", "check"]):
        done = run(env, *command)
        assert done.returncode in {1, 3} and done.stdout == ""
        assert "is newer than this version of Stockpot" in done.stderr
        assert "Install the version of Stockpot that upgraded it, or a newer one." in done.stderr


def test_a_second_user_in_the_process_takes_no_locks_from_the_first(env: dict[str, str], tmp_path: Path) -> None:
    """To close any descriptor of the file would: the next process then deletes the log under both."""
    url, log = env["STOCKPOT_DATABASE_URL"], tmp_path / "stockpot.db-wal"
    with opened(url) as first:
        rows(first, "SELECT 1 AS n")
        before = log.stat().st_ino
        with opened(url) as second:
            rows(second, "SELECT 1 AS n")
        code = (
            f"import sqlite3; sqlite3.connect({str(tmp_path / 'stockpot.db')!r}).execute('SELECT count(*) FROM jobs')"
        )
        assert procs.run([sys.executable, "-c", code], env=env).returncode == 0
        assert log.exists() and log.stat().st_ino == before
