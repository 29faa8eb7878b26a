"""A backup made under load and restored as docs/recover.md says: what was before it is there, what came after is lost."""

from __future__ import annotations

import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
import redis
from sqlalchemy.engine import make_url

from tests.rig.postgres import PostgresServer
from tests.rig.stage import SetStage, Stage
from tests.rig.waiting import eventually
from tests.rig.witness import Witness

pytestmark = pytest.mark.fault


def _postgres(on: Stage, place: Path, server: PostgresServer) -> Callable[[], str]:
    """Back it up; how to restore it, which gives the URL."""
    dump = ["--format=custom", f"--file={place / 'dump'}", on.database_url.replace("+psycopg", "")]
    subprocess.run([server.programs / "pg_dump", *dump], check=True)

    def restore() -> str:
        url = server.create_database()
        subprocess.run(
            [server.programs / "pg_restore", f"--dbname={url.replace('+psycopg', '')}", place / "dump"], check=True
        )
        return url

    return restore


def _sqlite(on: Stage, place: Path, _server: PostgresServer) -> Callable[[], str]:
    file = Path(str(make_url(on.database_url).database))
    with sqlite3.connect(file) as connection:
        connection.execute(f"VACUUM INTO '{place / 'backup.db'}'")
    connection.close()
    return lambda: f"sqlite:///{place / 'backup.db'}"


@pytest.mark.parametrize("kind", ["postgres", "sqlite"])
def test_a_restored_backup_works_and_what_is_lost_is_what_the_page_says(
    stage: SetStage, postgres_server: PostgresServer, tmp_path: Path, kind: Literal["postgres", "sqlite"]
) -> None:
    """Answers of before stay, jobs that were open run again, jobs of after are unknown, and the key makes one job."""
    on = stage(kind, workers=1, concurrency=2)
    ended = on.load(6, hooks=False)
    eventually(lambda: on.done(ended) == 6, what="the first jobs are over")
    open_ = on.load(8, "slow=25", hooks=False)
    restore = (_postgres if kind == "postgres" else _sqlite)(on, tmp_path, postgres_server)
    with Witness("the database was lost with what came after the backup") as witness:
        later = on.submit(idempotency_key="order-17")
        on.quiesce()
        witness.saw(on.job(later)["status"] == "completed")
        witness.inject(on.workers[0].kill9)
        with redis.Redis.from_url(on.valkey.url) as client:
            client.flushall()
        new = stage(kind, workers=0, database_url=restore(), valkey=on.valkey)
    assert {row["id"] for row in new.rows("SELECT id FROM jobs_v")} == {*ended, *open_}
    assert new.done(ended) == 6
    new.start(1)
    again = new.submit(idempotency_key="order-17")
    assert again != later
    eventually(lambda: new.done([*open_, again]) == 9, what="open jobs run again")
    assert {row["status"] for row in new.rows("SELECT status FROM jobs_v")} == {"completed"}
