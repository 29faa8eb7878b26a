"""Two versions of Stockpot at once, and a table that changes under their load (F74)."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.rig.postgres import PostgresServer
from tests.rig.procs import Process
from tests.rig.stage import SetStage
from tests.rig.waiting import eventually
from tests.rig.witness import Witness
from worker.db.revisions import HEAD
from worker.db.schema import upgrade

pytestmark = pytest.mark.fault

ROOT = Path(__file__).parents[2]
STOCKPOT = Path(sys.executable).with_name("stockpot")

#: The number of the version after this one.
AFTER = f"{int(HEAD) + 1:04d}"

#: What the next version may do to the table that is used most: a column more, and an index.
NEXT = f'''
"""one column more"""

import sqlalchemy as sa
from alembic import op

revision = "{AFTER}"
down_revision = "{HEAD}"


def upgrade() -> None:
    """Apply."""
    op.add_column("jobs", sa.Column("colour", sa.Text(), server_default="red", nullable=False))
    op.create_index("ix_jobs_colour", "jobs", ["colour"])
'''


def _next_version(directory: Path) -> dict[str, str]:
    """Make the next version from this one; the environment in which it is found before the installed one."""
    for package in ("worker", "api_schemas", "migrations"):
        shutil.copytree(ROOT / package, directory / package, ignore=shutil.ignore_patterns("__pycache__"))
    history = directory / "migrations"
    (history / "versions" / f"{AFTER}_one_column_more.py").write_text(NEXT)
    return {"PYTHONPATH": str(directory)}


def test_the_next_version_upgrades_under_load_and_works_beside_this_one(
    stage: SetStage, own_postgres: PostgresServer, tmp_path: Path
) -> None:
    """F74: nobody waits for a lock for a second, though a long transaction keeps the upgrade waiting for longer."""
    for setting in ("ALTER SYSTEM SET log_lock_waits = on", "SELECT pg_reload_conf()"):  # those of a second and more
        own_postgres.execute(setting)
    url = own_postgres.create_database()
    upgrade(url)
    on = stage(database_url=url, lease_seconds=60)
    newer = _next_version(tmp_path / "next")
    stranger = sa.create_engine(url, poolclass=sa.NullPool).connect()
    with Witness("two versions worked at once, on a table that had changed") as witness, stranger:
        on.load(40, "slow=25", hooks=False)
        stranger.execute(sa.text("SELECT count(*) FROM jobs"))  # and its transaction stays open
        if witness.faults_on:
            upgrading = Process([STOCKPOT, "db", "upgrade"], logs=tmp_path, name="upgrade", env=on.env() | newer)
            with upgrading:
                upgrading.wait_for_line("holds a table that must change")
                before = on.done()
                on.load(20, hooks=False)
                eventually(lambda: on.done() >= before + 10, what="the workers work on")
                stranger.rollback()
                assert upgrading.wait(120) == 0, upgrading.tail()
            on.worker("newer", env=newer)
        last = on.load(60, "slow=10", hooks=False)
        on.quiesce()
        mine = {row["job_id"]: row["worker"] for row in on.rows("SELECT job_id, worker FROM attempts_v")}
        revision = on.rows("SELECT version_num FROM stockpot_version")[0]["version_num"]
        witness.saw(revision == AFTER and len({mine[job] for job in last}) == 3)
    on.check()
    assert on.extra_calls() == 0
    assert "still waiting for" not in own_postgres.log
    assert all(worker.running for worker in on.workers)
