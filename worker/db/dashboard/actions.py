"""The log of who pressed what: written before anything is done, completed with what came of it. The caller commits."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, text

from api_schemas.ids import uuid7_hex
from worker.db.clock import now_sql
from worker.db.columns import Instant


@dataclass(frozen=True, slots=True)
class Action:
    """One press of a button. `outcome` is None when its process ended before it knew."""

    id: str
    at: datetime
    key_id: str | None
    who: str
    role: str
    tenant: str | None
    action: str
    target: str
    outcome: str | None


def begin(conn: Connection, **what: Any) -> str:
    """Write down what is about to be done (the fields of `Action` but id, time and outcome); its id."""
    action = f"act_{uuid7_hex()}"
    conn.execute(
        text(f"""
        INSERT INTO ui_actions (id, at, key_id, who, role, tenant, action, target)
        VALUES (:id, {now_sql(conn)}, :key_id, :who, :role, :tenant, :action, :target)
        """),
        {"id": action, **what},
    )
    return action


def end(conn: Connection, action: str, outcome: str) -> None:
    """Write down what came of it."""
    conn.execute(text("UPDATE ui_actions SET outcome = :outcome WHERE id = :id"), {"id": action, "outcome": outcome})


def listed(conn: Connection, *, tenant: str | None, before: str | None, limit: int) -> list[Action]:
    """The newest first; of a tenant, or of all."""
    mine = "" if tenant is None else "AND tenant = :tenant"
    older = "" if before is None else "AND id < :before"
    rows = conn.execute(
        text(f"SELECT * FROM ui_actions WHERE true {mine} {older} ORDER BY id DESC LIMIT :limit").columns(at=Instant),
        {"tenant": tenant, "before": before, "limit": limit},
    )
    return [Action(**row._mapping) for row in rows]  # noqa: SLF001 -- its public name
