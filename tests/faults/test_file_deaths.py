"""Kill -9 in the middle of an upload, of an import, of a growing file: no half file, each line once, nothing left behind."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.batch_factories import again, claimed, end, over
from tests.factories import opened, rows
from tests.file_factories import content, jsonl, line, order, upload
from tests.rig.procs import Process
from tests.rig.waiting import eventually
from tests.rig.witness import Witness
from worker.batches import importing
from worker.db.connect import Database
from worker.db.files import records
from worker.gateway import serving

pytestmark = pytest.mark.fault

#: A process that does nothing but keep files, with the settings of its environment.
KEEPER = """
import asyncio, os
from worker.base.settings import settings
from worker.engine.file_keeper import FileKeeper
from worker.job.consequences import Consequences

async def main():
    keeper = FileKeeper(settings(), Consequences(), owner=f"keeper-{os.getpid()}")
    await asyncio.gather(keeper.import_batches(), keeper.write_files())

asyncio.run(main())
"""
QUICK: dict[str, object] = {
    "lease_seconds": 0.5,
    "sweep_seconds": 0.05,
    "upstream_url": "http://127.0.0.1:1",
    "redis_url": "redis://127.0.0.1:1",
}
ANSWER = '{"id": "gen", "choices": [{"message": {"content": "a"}}]}'

Launch = Callable[..., Process]
Env = Callable[..., dict[str, str]]


@pytest.fixture
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    with opened(request.getfixturevalue(f"{request.param}_url")) as database:
        yield database


@pytest.fixture
def env(stockpot_env: Env, database: Database) -> dict[str, str]:
    return stockpot_env(database_url=database.settings.database_url, **QUICK)


def at(*points: str, sqlite: str, postgres: str) -> pytest.MarkDecorator:
    """Each point on both databases; all but one of each are for the long run."""
    quick = {("sqlite", sqlite), ("postgres", postgres)}
    cases = [
        pytest.param(kind, point, marks=() if (kind, point) in quick else pytest.mark.long)
        for kind in ("sqlite", "postgres")
        for point in points
    ]
    return pytest.mark.parametrize(("database", "point"), cases, indirect=["database"])


def keeper(launch: Launch, env: dict[str, str], **more: str) -> Process:
    return launch([sys.executable, "-c", KEEPER], env=env | more)


def dies(launch: Launch, witness: Witness, env: dict[str, str], point: str) -> None:
    """A keeper that is killed at a crash point."""
    armed: dict[str, str] = {}
    witness.inject(lambda: armed.update(STOCKPOT_CRASH_AT=point))
    process = keeper(launch, env, **armed)
    if armed:
        process.wait(120)
    witness.saw(
        process.returncode == -signal.SIGKILL and f"crashpoint {point.split(':', maxsplit=1)[0]}" in process.output
    )


@at("import.surveyed", "import.begun", "import.slice", "import.slice:2", sqlite="import.slice", postgres="import.begun")
def test_a_worker_dies_as_it_imports_a_batch(
    database: Database, env: dict[str, str], launch: Launch, point: str
) -> None:
    """Another goes on behind what was committed: each line is there once."""
    lines = 2 * (importing.SQLITE_SLICE if database.is_sqlite else importing.SLICE) + 7
    batch = order(database, upload(database, jsonl(*(line(number) for number in range(1, lines + 1)))).id)
    with Witness(f"a worker died of SIGKILL at {point}") as witness:
        dies(launch, witness, env, point)
        keeper(launch, env)
        eventually(lambda: again(database, batch.id).imported == lines, 60)
        done = again(database, batch.id)
        assert (done.status, done.total) == ("in_progress", lines)
        [count] = rows(
            database, "SELECT count(*) AS n, count(DISTINCT custom_id) AS names, max(line) AS last FROM jobs"
        )
        assert (count["n"], count["names"], count["last"]) == (lines, lines, lines)


@at("output.written", "output.written:2", "output.finished", sqlite="output.finished", postgres="output.written:2")
def test_a_worker_dies_as_it_writes_a_batchs_files(
    database: Database, env: dict[str, str], launch: Launch, point: str
) -> None:
    """Each line is in one of them, once, whole, and the batch ends."""
    made = order(database, upload(database, jsonl(*(line(number) for number in range(1, 301)))).id)
    first = keeper(launch, env)
    eventually(lambda: again(database, made.id).imported == 300, 60)
    first.close()
    with Witness(f"a worker died of SIGKILL at {point}") as witness:
        jobs = claimed(database, made.id, 300)
        end(database, *(over(job, response=ANSWER) for job in jobs[:150]))
        if point != "output.written:2":
            end(database, *(over(job, "failed", error_class="upstream") for job in jobs[150:]))
            dies(launch, witness, env, point)
        else:
            armed: dict[str, str] = {}
            witness.inject(lambda: armed.update(STOCKPOT_CRASH_AT=point))
            process = keeper(launch, env, **armed)
            eventually(lambda: again(database, made.id).written == 150)
            end(database, *(over(job, "failed", error_class="upstream") for job in jobs[150:]))
            if armed:
                process.wait(60)
            witness.saw(process.returncode == -signal.SIGKILL)
        keeper(launch, env)
        eventually(lambda: again(database, made.id).over, 60)
        done = again(database, made.id)
        names = [
            one["custom_id"] for file in (done.output_file_id, done.error_file_id) for one in file_of(database, file)
        ]
        assert sorted(names) == sorted(f"r-{number}" for number in range(1, 301))
        assert (done.status, len(file_of(database, done.output_file_id))) == ("completed", 150)


def file_of(database: Database, file: str | None) -> list[dict[str, Any]]:
    assert file is not None
    row = database.read(lambda conn: records.get(conn, file, tenant="default"))
    return [json.loads(one) for one in content(database, row).splitlines()]


@at("file.piece:2", "file.written", sqlite="file.piece:2", postgres="file.written")
def test_a_gateway_dies_in_the_middle_of_an_upload(
    database: Database, env: dict[str, str], launch: Launch, point: str
) -> None:
    """Nobody ever sees half a file, and its pieces are gone when the leases are over."""
    with Witness(f"a gateway died of SIGKILL at {point}") as witness:
        armed: dict[str, str] = {}
        witness.inject(lambda: armed.update(STOCKPOT_CRASH_AT=point))
        gateway, url = started(launch, env | armed)
        form: dict[str, Any] = {"data": {"purpose": "user_data"}, "files": {"file": ("f", bytes(3_000_000))}}
        if armed:
            with pytest.raises(httpx.TransportError):
                httpx.post(f"{url}/files", timeout=60, **form)
            gateway.wait(60)
        witness.saw(
            gateway.returncode == -signal.SIGKILL and f"crashpoint {point.split(':', maxsplit=1)[0]}" in gateway.output
        )
        [left] = rows(database, "SELECT count(*) AS n FROM file_pieces")
        assert left["n"] >= 2
        _, url = started(launch, env)
        assert httpx.get(f"{url}/files").json()["data"] == []
        kept = httpx.post(f"{url}/files", timeout=60, **form).json()["id"]
        keeper(launch, env)
        eventually(lambda: rows(database, "SELECT count(*) AS n FROM files")[0]["n"] == 1, 60)
        [left] = rows(database, "SELECT count(*) AS n FROM file_pieces")
        assert left["n"] == 3, "those of the whole file"
        assert [one["id"] for one in httpx.get(f"{url}/files").json()["data"]] == [kept]


def started(launch: Launch, env: dict[str, str]) -> tuple[Process, str]:
    """A gateway process and its URL."""
    process = launch([sys.executable, "-m", "worker.gateway", "--port", "0"], env=env)
    eventually(lambda: serving.READY in process.output, 60)
    return process, process.output.split(serving.READY, 1)[1].split()[0]
