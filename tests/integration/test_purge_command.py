"""`stockpot purge`: never the ledger unless it is named, nothing on a dry run, and batches say what is gone of them."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.batch_factories import ANSWER, claimed, end, export, over, submit, write_file
from tests.factories import opened, rows
from tests.rig import procs
from worker.db import schema
from worker.db.connect import Database

STOCKPOT = Path(sys.executable).with_name("stockpot")


@pytest.fixture
def env(stockpot_env: Callable[..., dict[str, str]], empty_database_url: str) -> dict[str, str]:
    schema.upgrade(empty_database_url)
    return stockpot_env(upstream_url="http://127.0.0.1:9/v1", database_url=empty_database_url)


def run(env: dict[str, str], *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [str(STOCKPOT), *map(str, arguments)]
    done = procs.run(command, env=env)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def counts(database: Database) -> dict[str, int]:
    tables = ("jobs", "attempts", "requests", "results")
    return {name: rows(database, f"SELECT count(*) AS n FROM {name}")[0]["n"] for name in tables}


def test_the_ledger_stays_unless_it_is_named_and_batches_say_what_is_gone(env: dict[str, str], tmp_path: Path) -> None:
    """A dry run says the same numbers and takes nothing; a terminal is asked about answers of this week."""
    out = tmp_path / "out.jsonl"
    with opened(env["STOCKPOT_DATABASE_URL"]) as database:
        batch, _ = submit(database, write_file(tmp_path / "in.jsonl", 5))
        going, _ = submit(database, write_file(tmp_path / "other.jsonl", 2, temperature=1))
        end(database, *(over(job, response=ANSWER, error_status=200) for job in claimed(database, batch.id)))
        end(database, over(claimed(database, going.id)[0], response=ANSWER, error_status=200))
        good = tmp_path / "good.jsonl"
        answers, _ = export(database, batch.id, good)
        before = counts(database)
        assert before == {"jobs": 7, "attempts": 7, "requests": 7, "results": 6}
        dry = run(env, "purge", "--older-than", "0s", "--dry-run", "--json")
        assert json.loads(dry.stdout) == {"payloads": 5, "results": 5, "webhook_events": 0, "dry_run": True}
        assert counts(database) == before
        asked, answered = pty.openpty()
        refused = subprocess.Popen(
            [STOCKPOT, "purge", "--older-than", "0s"], env=env, stdin=answered, stderr=subprocess.PIPE, text=True
        )
        os.write(asked, b"n\n")
        assert (
            "This forgets 5 answers, 1 batches among them, of the last week. Go on?"
            in refused.communicate(timeout=120)[1]
        )
        assert refused.returncode == 1
        os.close(asked)
        os.close(answered)
        assert counts(database) == before
        assert "5 payloads, 5 results" in run(env, "purge", "--older-than", "0s").stderr
        assert counts(database) == {"jobs": 7, "attempts": 7, "requests": 2, "results": 1}
        assert "answers purged on 20" in run(env, "batch", "status", batch.id).stdout
        assert "answers purged on 20" in run(env, "batch", "report", batch.id).stdout
        assert "answers purged on 20" in run(env, "batch", "results", batch.id, "-o", out).stderr
        kept = run(env, "batch", "results", batch.id, "-o", good, "--overwrite")
        assert (kept.returncode, len(answers), len(good.read_text().splitlines())) == (2, 5, 5)
        assert "holds 5 answers and there are 0 to write now (purged, or another batch?)" in kept.stderr
        _, errors = export(database, batch.id, tmp_path / "again.jsonl")
        assert {one["error"]["code"] for one in errors} == {"answer_purged"}
        assert "5 jobs" in run(env, "purge", "--older-than", "0s", "--what", "jobs").stderr
        assert counts(database) == {"jobs": 2, "attempts": 2, "requests": 2, "results": 1}
        assert "lines purged on 20" in run(env, "batch", "status", batch.id).stdout
