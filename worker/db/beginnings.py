"""Ids by how they begin, for people who type them. Reads only, within the primary key."""

from __future__ import annotations

from typing import Literal

from sqlalchemy import Connection, text

#: Tables whose ids people type.
Table = Literal["jobs", "batches", "webhook_events"]

#: As many are named when a beginning is not enough.
AT_MOST = 4


def beginning_with(conn: Connection, table: Table, beginning: str, *, tenant: str | None) -> list[str]:
    """The tenant's (or all tenants') first few ids that begin so, in the order they were made; at most `AT_MOST`."""
    mine = "" if tenant is None else "AND tenant = :tenant"
    found = conn.execute(
        text(f"SELECT id FROM {table} WHERE id >= :first AND id < :last {mine} ORDER BY id LIMIT :most"),
        # Ids are lower-case ASCII: what sorts after every one that begins so ends in a tilde.
        {"first": beginning, "last": f"{beginning}~", "tenant": tenant, "most": AT_MOST},
    )
    return [str(one) for one in found.scalars()]
