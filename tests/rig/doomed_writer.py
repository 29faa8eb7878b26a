"""Writers that are killed in the middle of their commits, one after the other; what each was promised is written down.

python -m tests.rig.doomed_writer --database URL --kills N --seed S

Prints `kept ID` for each job once its transaction has returned, `died -9` for each death. A child submits, claims and
settles; the parent, which touches no database, kills it at a random moment. Forking spares the seconds that a worker
needs to start, so that hundreds of kills hit hundreds of commits.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import time
from pathlib import Path

from api_schemas.jobs import parse_job
from worker.base.settings import Settings, load
from worker.db.connect import Database
from worker.db.jobs import claim, settle
from worker.db.jobs.settle import Settlement
from worker.db.jobs.submit import insert

#: A child lives between its first commit and that many seconds after it: several commits, and any point within one.
_LONGEST_LIFE = 0.03


def main() -> int:
    """The parent: bear, kill, bury."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--database", required=True)
    parser.add_argument("--kills", type=int, required=True)
    parser.add_argument("--seed", type=int, default=43)
    given = parser.parse_args()
    chance = random.Random(given.seed)
    settings = load(database_url=given.database, home=Path())
    for _ in range(given.kills):
        born, ready = os.pipe()
        pid = os.fork()
        if pid == 0:
            _write_until_killed(settings, ready)
        os.close(ready)
        os.read(born, 1)
        time.sleep(chance.uniform(0, _LONGEST_LIFE))
        os.kill(pid, signal.SIGKILL)
        os.close(born)
        _, status = os.waitpid(pid, 0)
        _say(f"died {os.waitstatus_to_exitcode(status)}")
    return 0


def _write_until_killed(settings: Settings, ready: int) -> None:
    database = Database(settings)
    owner = f"doomed:{os.getpid()}:0"
    request = parse_job({"model": "sim:ok", "messages": [{"role": "user", "content": "?"}]})
    while True:
        jobs = database.write(lambda conn: insert(conn, [request] * 4, settings))
        _say("\n".join(f"kept {job.id}" for job in jobs))
        os.write(ready, b".")
        held = database.write(lambda conn: claim.claim_due(conn, "interactive", 2, owner=owner, lease=1))
        back = [
            Settlement(one.id, one.fence, one.attempt, "queued", "released", spent=False, called=False) for one in held
        ]
        database.write(lambda conn: settle.settle(conn, back))


def _say(line: str) -> None:
    """In one write, so that a death cannot tear it."""
    os.write(sys.stdout.fileno(), line.encode() + b"\n")


if __name__ == "__main__":
    sys.exit(main())
