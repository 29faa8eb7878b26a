"""The records of a session, asked by scenario and column."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ops.bench.measure import median
from ops.bench.scenarios import Record


class Figures:
    """Records with medians over rounds. Failed runs are left out."""

    def __init__(self, records: Sequence[Record]) -> None:
        self._records = [record for record in records if "failed" not in record]

    def rows(self, scenario: str, **where: Any) -> list[Record]:
        """The records of a scenario whose columns have the given values."""
        return [
            record
            for record in self._records
            if record["scenario"] == scenario and all(record.get(key) == value for key, value in where.items())
        ]

    def median(self, scenario: str, column: str, **where: Any) -> float:
        """The median of a column over the rounds; NaN when there is none."""
        return median(row[column] for row in self.rows(scenario, **where) if row.get(column) is not None)

    def groups(self, scenario: str, *columns: str) -> list[tuple[Any, ...]]:
        """The distinct values of the columns, in the order in which they first came."""
        return list(dict.fromkeys(tuple(row[column] for column in columns) for row in self.rows(scenario)))
