"""`python -m ops.rolling_upgrade --from COMMIT`: a rolling upgrade under load, from an older version to this one.

The older version is taken out of git, and installed with its own locked dependencies in its own environment. Its
workers and its producer run; the database is upgraded under them by this version; this version's workers and producer
come beside them; the old workers are drained one by one; the old producer submits to the end. Everything is real but
the provider, which is the simulator with its journal. Then the checker reads what was left behind: every accepted job
ended once, every answer is right, every call is on record, every webhook verifies; and here calls are counted: one for
each job, none paid twice. Exit code 1 if anything of that does not hold.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import redis

from tests.rig import procs
from tests.rig.environment import scrub
from tests.rig.ports import fresh_directory
from tests.rig.postgres import PostgresServer
from tests.rig.procs import Process
from tests.rig.stage import Stage
from tests.rig.waiting import eventually
from worker.db.revisions import HEAD

ROOT = Path(__file__).parents[1]
#: What queues were called before every name had a namespace.
OLD_QUEUES = ("interactive", "bulk")

#: A producer of either version: submits these requests over and over until a file appears, and prints the ids.
PRODUCER = """
import itertools, json, os, sys, time
from worker import Stockpot
pot = Stockpot()
for body, options in itertools.cycle(json.load(sys.stdin)):
    if os.path.exists(sys.argv[1]):
        break
    print("id", pot.submit(body, **options).id, flush=True)
    time.sleep(0.1)
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 0 if nothing was lost and nothing paid twice."""
    parser = argparse.ArgumentParser(prog="python -m ops.rolling_upgrade", description=__doc__)
    parser.add_argument("--from", dest="commit", required=True, help="the older version: a commit or tag")
    parser.add_argument("--jobs", type=int, default=100, help="that must end in each phase (default 100)")
    parser.add_argument("--report", type=Path, help="write a Markdown report here")
    given = parser.parse_args(arguments)
    scrub()
    try:
        lines = rehearse(given.commit, given.jobs)
    finally:
        procs.close_all()
    text = "\n".join(lines) + "\n"
    sys.stdout.write(text)
    if given.report is not None:
        given.report.write_text(text)
    return 0


def install(commit: str) -> Path:
    """The programs of an older version, installed as a user would; where they are."""
    place = fresh_directory("before")
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, check=True, capture_output=True).stdout
    subprocess.run(["tar", "-x", "-C", place], input=archive, check=True)
    subprocess.run(["make", "-s", ".venv/.run", f"PYTHON={sys.executable}"], cwd=place, check=True, stdout=sys.stderr)
    return place / ".venv" / "bin"


def rehearse(commit: str, jobs: int) -> list[str]:
    """Do it; the report's lines.

    Raises:
        AssertionError: a promise was broken.
    """
    before = install(commit)
    logs = fresh_directory("rolling")
    with PostgresServer() as server:
        url = server.create_database()
        on = Stage(url, logs=logs, settings={"lease_seconds": 30, "concurrency": 20, "drain_seconds": 20})
        try:
            return _roll(on, before, commit, jobs, logs)
        finally:
            on.close()


def _roll(on: Stage, before: Path, commit: str, jobs: int, logs: Path) -> list[str]:
    here = Path(sys.executable).parent
    began = time.monotonic()
    story: list[str] = []

    def note(what: str) -> None:
        done = on.done()
        story.append(f"| {time.monotonic() - began:.0f} s | {what} | {len(_accepted(producers))} | {done} |")
        sys.stderr.write(story[-1] + "\n")

    producers: list[Process] = []
    _run([before / "stockpot", "db", "upgrade"], on, logs)
    was = str(on.rows(f"SELECT version_num FROM {_version_table(on)}")[0]["version_num"])
    old = [_worker(on, before, f"old-{number}", logs) for number in (1, 2)]
    producers.append(_producer(on, before, "old-producer", logs))
    eventually(lambda: on.done() >= jobs, 300, "the old version works")
    note(f"two workers and a producer of {commit} (schema {was}) at work")
    _run([here / "stockpot", "db", "upgrade"], on, logs)
    note(f"database upgraded to {HEAD} under them")
    new = [_worker(on, here, "new-1", logs)]
    producers.append(_producer(on, here, "new-producer", logs))
    seen = on.done()
    eventually(lambda: on.done() >= seen + jobs, 300, "both versions work")
    note("a worker and a producer of this version beside them")
    for number, worker in enumerate(old, 1):
        worker.term()
        assert worker.wait(60) == 0, worker.tail()
        note(f"old worker {number} drained, exit code 0")
        if number == 1:
            new.append(_worker(on, here, "new-2", logs))
            note("a second worker of this version")
    seen = on.done()
    eventually(lambda: on.done() >= seen + jobs, 300, "this version works alone")
    (logs / "stop").touch()
    for producer in producers:
        assert producer.wait(300) == 0, producer.tail()
    note("both producers have ended, the old one as late as the new")
    on.submitted = _accepted(producers)
    on.quiesce()
    note("everything is over")
    left = _left_behind(on)
    on.check(gone=old)
    by = {row["worker"]: row["n"] for row in on.rows("SELECT worker, count(*) AS n FROM attempts_v GROUP BY worker")}
    pids = {str(worker.pid): worker.name for worker in (*old, *new)}
    shares = sorted((pids.get(str(name).split(":")[-2], str(name)), count) for name, count in by.items())
    assert len(by) == len([*old, *new]), "each worker has worked"
    calls = on.calls()
    completed = on.count("status = 'completed'")
    twice = on.extra_calls()
    assert twice == 0, f"{twice} calls were made twice"
    return [
        f"# A rolling upgrade under load: {commit} to {_head()}",
        "",
        f"`python -m ops.rolling_upgrade --from {commit} --jobs {jobs}`: PostgreSQL, Valkey, the simulated provider,",
        "two workers and a producer of each version, the older one installed from git with its own locked dependencies.",
        "",
        "| after | what | accepted | over |",
        "|---|---|---|---|",
        *story,
        "",
        (
            f"Accepted {len(on.submitted)}, completed {completed}, "
            f"upstream calls {len(calls)}, calls beyond one a job {twice}. The checker (I1 to I9) found nothing."
        ),
        "",
        f"Doorbells that the older producer rang at queues which this version does not have: {left}. Their jobs were found",
        "by the look into the database; `docs/upgrade.md` says what to do with them.",
        "",
        "Attempts by worker: " + ", ".join(f"{name} {count}" for name, count in shares) + ".",
    ]


def _left_behind(on: Stage) -> int:
    """How many messages wait in the queues of versions before the namespace (ADR 26); they are taken away."""
    with redis.Redis.from_url(on.valkey.url) as client:
        count = sum(int(str(client.llen(queue))) for queue in OLD_QUEUES)
        client.delete(*OLD_QUEUES)
    return count


def _head() -> str:
    found = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return found.stdout.strip()


def _version_table(on: Stage) -> str:
    names = {row["tablename"] for row in on.rows("SELECT tablename FROM pg_tables")}
    return "stockpot_version" if "stockpot_version" in names else "alembic_version"


def _run(command: list[str | Path], on: Stage, logs: Path) -> None:
    with Process(command, logs=logs, name="command", env=on.env(), cwd=logs) as process:
        assert process.wait(300) == 0, process.tail()


def _worker(on: Stage, programs: Path, name: str, logs: Path) -> Process:
    workers = logs / "workers"
    workers.mkdir(exist_ok=True)
    command: list[str | Path] = [programs / "python", programs / "celery", "-A", "worker", "worker"]
    process = Process(command, logs=workers, name=name, env=on.env(), cwd=workers)
    on.workers.append(process)
    process.wait_for_line("engine_started")
    return process


def _producer(on: Stage, programs: Path, name: str, logs: Path) -> Process:
    given = [
        (on.body("slow=10" if number % 3 == 0 else "ok", stream=number % 2 == 0), _options(on, number))
        for number in range(100)
    ]
    command: list[str | Path] = [programs / "python", "-c", PRODUCER, logs / "stop"]
    return Process(command, logs=logs, name=name, env=on.env(), cwd=logs, stdin=json.dumps(given) + "\n")


def _options(on: Stage, number: int) -> dict[str, str]:
    return {"webhook": on.hooks.url("/ok")} if number % 10 in {1, 4, 8} else {}


def _accepted(producers: Sequence[Process]) -> list[str]:
    """The ids that the producers were given."""
    lines = [line for producer in producers for line in producer.stdout.read_text().splitlines()]
    return [line.removeprefix("id ") for line in lines if line.startswith("id ")]


if __name__ == "__main__":
    sys.exit(main())
