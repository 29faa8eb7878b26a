"""Workers that were not seen since the database's clock was set back: they are dead, and what they hold is free.

Their leases were written by the clock as it was, and would last for as much longer as it was set back by. A worker that
lives has announced itself and renewed its leases since.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, bindparam, text

from worker.db.clock import after_sql, now_sql
from worker.db.jobs import leases
from worker.db.workers.registry import MISSED

#: What a worker holds: the table, and the status of its rows that are held.
_HELD = {"jobs": "in_progress", "webhook_events": "delivering"}


def end_leases(conn: Connection, *, lease: float) -> int:
    """End the leases of workers whose row lies ahead, on jobs and deliveries; how many. The caller commits.

    Only if the database has been steady since for a lease, and for longer than such a worker may miss heartbeats: whose row
    lies ahead then has not been seen since the step. It is shown as silent from now on.

    Args:
        lease: seconds; what lies ahead by less than that is waited for.
    """
    missed = after_sql(conn, f"-{MISSED} * workers.heartbeat_seconds")
    found = conn.execute(
        text(f"""
        SELECT owner FROM workers WHERE seen_at > {after_sql(conn, ":ahead")} {leases.steady_sql(conn, missed)}
        """),
        {"ahead": lease, **leases.steady_params(lease)},
    )
    owners = [row[0] for row in found]
    if not owners:
        return 0
    listed: Any = bindparam("owners", owners, expanding=True)
    ended = 0
    for table, status in _HELD.items():
        statement = f"""
            UPDATE {table} SET lease_until = {now_sql(conn)}
            WHERE status = '{status}' AND lease_owner IN :owners AND lease_until > {after_sql(conn, ":ahead")}
        """
        ended += conn.execute(text(statement).bindparams(listed), {"ahead": lease}).rowcount
    silent = after_sql(conn, f"-{MISSED + 1} * heartbeat_seconds")
    conn.execute(text(f"UPDATE workers SET seen_at = {silent} WHERE owner IN :owners").bindparams(listed))
    return ended
