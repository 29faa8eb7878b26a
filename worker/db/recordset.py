"""Many rows in one parameter: a JSON list that PostgreSQL reads as a table.

The driver's arrays are dumped in Python, element by element: 32 columns cost 100 µs a row, as JSON they cost 4.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson
from sqlalchemy import BigInteger, Boolean, Double, Integer, Table

from worker.db.columns import Instant

#: The PostgreSQL type of a value in a recordset, by its column's type; what stands not here is text.
_TYPES = ((BigInteger, "int8"), (Integer, "int"), (Boolean, "boolean"), (Double, "float8"), (Instant, "timestamptz"))


def column_types(table: Table, names: Iterable[str]) -> dict[str, str]:
    """The PostgreSQL types of these columns, for `recordset`. JSON travels as text and is cast where it is stored."""
    types = {}
    for name in names:
        kind = table.c[name].type
        types[name] = next((pg for sql, pg in _TYPES if isinstance(kind, sql)), "text")
    return types


def recordset(parameter: str, columns: Mapping[str, str]) -> str:
    """A FROM item: the JSON list in the bound `parameter`, with these columns and PostgreSQL types."""
    typed = ", ".join(f"{name} {kind}" for name, kind in columns.items())
    # The parameter is text for every driver: one that takes it for JSON would encode it a second time.
    return f"json_to_recordset(CAST(CAST(:{parameter} AS text) AS json)) AS given({typed})"


def records(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as the parameter's value. Their text is storable: no NUL, no lone surrogate."""
    return orjson.dumps(rows).decode()
