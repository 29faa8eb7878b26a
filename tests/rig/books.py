"""The ledger against the upstream's journal: after `stockpot reconcile` every call must cost what was billed, to the credit."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, text

from tests.rig import procs
from tests.rig.stage import Stage
from worker.base.money import PICO
from worker.base.settings import Settings
from worker.db.connect import Database
from worker.simulator.journal import calls, read_journal

T = TypeVar("T")

#: Seconds for one run of the command.
_PATIENCE = 120


def reconcile(on: Stage) -> None:
    """Run the command twice; between the runs an hour goes by, so that nothing is late any more."""
    _run(on)
    postgres = on.database_url.startswith("postgresql")
    past = "statement_timestamp() - interval '1 hour'" if postgres else "datetime('now', '-1 hour')"
    write(on, lambda conn: conn.execute(text(f"UPDATE attempts SET finished_at = {past} WHERE reconciled = 'late'")))
    _run(on)


def write(on: Stage, verb: Callable[[Connection], T]) -> T:
    """Run a verb of `worker.db` on the stage's database."""
    with closing(Database(Settings(database_url=on.database_url), pool_size=1)) as database:
        return database.write(verb)


def _run(on: Stage) -> None:
    stockpot = Path(sys.executable).with_name("stockpot")
    done = procs.run([stockpot, "reconcile"], env=on.env(), timeout=_PATIENCE)
    assert done.returncode == 0, done.stderr


def billed(on: Stage) -> dict[str, Decimal]:
    """What each call was billed, by client request id, as the upstream swears."""
    return {
        str(call.received.client_request_id): call.done.usd
        for call in calls(read_journal(on.journal))
        if call.done is not None and call.done.billed
    }


def ledger(on: Stage) -> dict[str, dict[str, Any]]:
    """The attempts, by client request id."""
    rows = on.rows("SELECT job_id, attempt, outcome, reconciled, cost_picousd FROM attempts")
    return {f"{row['job_id']}.{row['attempt']}": dict(row) for row in rows}


def differences(on: Stage) -> Iterator[str]:
    """Every call whose money is not on record as it was billed, and every attempt without a final mark."""
    bills, attempts = billed(on), ledger(on)
    for name in bills.keys() - attempts.keys():
        yield f"{name}: was billed {bills[name]} USD and is not in the ledger"
    for name, row in attempts.items():
        cost = Decimal(row["cost_picousd"] or 0) / PICO
        if cost != bills.get(name, Decimal(0)):
            yield f"{name}: {row['outcome']}, cost is {cost}, billed was {bills.get(name, 0)}"
        kept, paid = row["outcome"] == "completed", name in bills
        right = ("matched" if kept else "orphaned") if paid else "unbilled"
        if row["reconciled"] != right:
            yield f"{name}: {row['outcome']}, {'billed' if paid else 'not billed'}, is marked {row['reconciled']}"
