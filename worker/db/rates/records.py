"""Add what a worker did in a minute; read an hour, a day, a week. The caller commits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from sqlalchemy import Connection, text

from worker.db.clock import is_postgres, unix_seconds

#: A minute for an hour's plot, ten for a day's, an hour for a week's; each is kept for some of its plots.
STEPS = (60, 600, 3_600)
KEPT = {60: 2 * 3_600, 600: 2 * 86_400, 3_600: 15 * 86_400}
#: Names that are a level, not an amount: of two workers the higher counts.
LEVEL = "max:"


def add(conn: Connection, amounts: Mapping[str, int]) -> None:
    """Add amounts to the steps of now, in one order for all workers; forget the steps that are too old for any plot."""
    now = int(unix_seconds(conn))
    # All workers lock the rows in this order.
    rows = [
        {"step": step, "at": now // step * step, "name": name, "amount": amount}
        for step in STEPS
        for name, amount in sorted(amounts.items())
    ]
    source = (
        "json_to_recordset(CAST(:rows AS json)) AS r(step int, at bigint, name text, amount bigint)"
        if is_postgres(conn)
        else "(SELECT value ->> 'step' AS step, value ->> 'at' AS at, value ->> 'name' AS name,"
        " value ->> 'amount' AS amount FROM json_each(:rows)) AS r"
    )
    conn.execute(
        text(f"""
        INSERT INTO fleet_rates (step, at, name, amount)
        SELECT step, at, name, amount FROM {source} WHERE true ORDER BY step, at, name
        ON CONFLICT (step, at, name) DO UPDATE SET amount = CASE
            WHEN substr(excluded.name, 1, {len(LEVEL)}) <> '{LEVEL}' THEN fleet_rates.amount + excluded.amount
            WHEN excluded.amount > fleet_rates.amount THEN excluded.amount ELSE fleet_rates.amount END
        """),
        {"rows": orjson.dumps(rows).decode()},
    )
    for step, seconds in KEPT.items():
        given: dict[str, Any] = {"step": step, "before": now - seconds}
        conn.execute(text("DELETE FROM fleet_rates WHERE step = :step AND at < :before"), given)


def read(conn: Connection, step: int, seconds: int) -> tuple[int, dict[str, dict[int, int]]]:
    """The last `seconds` in steps: the beginning of the first step, and each name's amounts by the step's beginning."""
    first = int(unix_seconds(conn) - seconds) // step * step + step
    rows = conn.execute(
        text("SELECT name, at, amount FROM fleet_rates WHERE step = :step AND at >= :first ORDER BY at"),
        {"step": step, "first": first},
    )
    found: dict[str, dict[int, int]] = {}
    for row in rows:
        found.setdefault(row.name, {})[row.at] = row.amount
    return first, found
