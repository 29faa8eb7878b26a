"""Space given back by slices and VACUUM, and by partitions that are dropped: `python -m ops.bench.space [URL] [--rows N]`.

A table like `results`, whose key begins with its time, in an empty database: ten months are filled; then three times a month is
forgotten and another one filled. Prints what each costs, the files' size, and a look for 64 rows by their keys.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import psycopg

from ops.bench import page
from ops.bench.measure import median
from ops.bench.options import command_line
from ops.bench.rig import Rig

SLICE = 2_000
MONTHS = 10
AGAIN = 3
_KEY = "'job_' || lpad(to_hex(1700000000000 + n * 1000::bigint), 12, '0') || '70008000' || lpad(to_hex(n), 12, '0')"
_COLUMNS = 'job_id text COLLATE "C" PRIMARY KEY, response json, text text, provider_id text, model text'


class Measured:
    """One table, in partitions or whole."""

    def __init__(self, conn: psycopg.Connection[Any], rows: int, *, partitions: bool) -> None:
        self._conn, self._month, self._partitions = conn, rows // MONTHS, partitions
        self._run(f"CREATE TABLE t ({_COLUMNS}) {'PARTITION BY RANGE (job_id)' if partitions else ''}")
        if partitions:
            for month in range(MONTHS + AGAIN):
                ends = f"FROM ('{self._key(month)}') TO ('{self._key(month + 1)}')"
                self._run(f"CREATE TABLE t_{month} PARTITION OF t FOR VALUES {ends}")

    def _run(self, statement: str) -> float:
        began = time.monotonic()
        self._conn.execute(statement.encode())
        return time.monotonic() - began

    def _one(self, statement: str) -> Any:
        [row] = self._conn.execute(statement.encode()).fetchall()
        return row[0]

    def _key(self, month: int) -> str:
        return str(self._one(f"SELECT {_KEY} FROM (SELECT {month * self._month}::bigint AS n) AS one"))

    def fill(self, month: int) -> float:
        """Fill a month; seconds."""
        return self._run(
            f"""INSERT INTO t SELECT {_KEY}, json_build_object('a', repeat(md5(n::text), 12)), '', 'gen-' || n, 'm'
            FROM generate_series({month * self._month}::bigint, {(month + 1) * self._month - 1}) AS n"""
        )

    def forget(self, month: int) -> float:
        """Forget a month and clear what it leaves; seconds."""
        if self._partitions:
            return self._run(f"DROP TABLE t_{month}")
        took, first, end = 0.0, self._key(month), self._key(month + 1)
        while self._one(f"SELECT EXISTS (SELECT 1 FROM t WHERE job_id >= '{first}' AND job_id < '{end}')"):
            oldest = (
                f"SELECT job_id FROM t WHERE job_id >= '{first}' AND job_id < '{end}' ORDER BY job_id LIMIT {SLICE}"
            )
            took += self._run(f"DELETE FROM t WHERE job_id = ANY (ARRAY({oldest}))")
        return took + self._run("VACUUM t")

    def megabytes(self) -> float:
        """The size of the files."""
        parts = "SELECT inhrelid FROM pg_inherits WHERE inhparent = 't'::regclass UNION SELECT 't'::regclass"
        return float(self._one(f"SELECT sum(pg_total_relation_size(inhrelid)) FROM ({parts}) AS p")) / 1e6

    def look(self) -> float:
        """A look for 64 rows by their keys, spread over all months; milliseconds."""
        rows = f"SELECT {_KEY} FROM generate_series(7, {MONTHS * self._month - 1}, {MONTHS * self._month // 64}) AS n"
        keys = [f"'{row[0]}'" for row in self._conn.execute(rows.encode()).fetchall()]
        self._run("VACUUM (ANALYZE) t")
        statement = f"SELECT text FROM t WHERE job_id IN ({', '.join(keys)})"
        return 1000 * median(self._run(statement) for _ in range(50))


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = command_line("space", __doc__)
    parser.add_argument(
        "url", nargs="?", help="an empty PostgreSQL database (postgresql://…); by default one of its own"
    )
    parser.add_argument("--rows", type=int, default=2_000_000)
    return parser


def measure(conn: psycopg.Connection[Any], rows: int, *, partitions: bool) -> None:
    """Fill, forget and fill again; print what it took."""
    table = Measured(conn, rows, partitions=partitions)
    kind = "partitions" if partitions else "slices"
    filled = sum(table.fill(month) for month in range(MONTHS))
    page.measurement(
        "filled", kind=kind, seconds=round(filled, 1), mb=round(table.megabytes()), look_ms=round(table.look(), 2)
    )
    for month in range(AGAIN):
        forgotten, after = table.forget(month), table.megabytes()
        page.measurement(
            "forgotten",
            kind=kind,
            seconds=round(forgotten, 2),
            mb=round(after),
            filled_again_seconds=round(table.fill(MONTHS + month), 1),
            filled_again_mb=round(table.megabytes()),
        )
    conn.execute("DROP TABLE t")


def main() -> None:
    """Measure both, and print."""
    given = arguments().parse_args()
    with Rig() as rig:
        url = given.url or rig.empty_database()
        with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as conn:
            for partitions in (False, True):
                measure(conn, given.rows, partitions=partitions)


if __name__ == "__main__":
    main()
