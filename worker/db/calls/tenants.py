"""What all callers of a tenant together may do: set, list, remove, lock. The caller commits."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection, text

from worker.db.clock import is_postgres, now_sql

#: Calls that one look marks at most: a tenant that had no limit has a history, and the rest waits for the next look.
SLICE = 1_000


@dataclass(frozen=True, slots=True)
class TenantLimits:
    """The limits of a tenant; None is no limit."""

    tenant: str
    rpm: int | None = None
    tpm: int | None = None
    max_in_flight: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


_COLUMNS = "tenant, rpm, tpm, max_in_flight"


def put(conn: Connection, limits: TenantLimits) -> None:
    """Set the limits of a tenant, in place of those that it had."""
    conn.execute(
        text(f"""
        INSERT INTO tenant_limits ({_COLUMNS}, set_at)
        VALUES (:tenant, :rpm, :tpm, :max_in_flight, {now_sql(conn)})
        ON CONFLICT (tenant) DO UPDATE SET rpm = excluded.rpm, tpm = excluded.tpm,
            max_in_flight = excluded.max_in_flight, set_at = excluded.set_at
        """),
        asdict(limits),
    )


def remove(conn: Connection, tenant: str) -> bool:
    """Forget the limits of a tenant; False when there were none."""
    gone = conn.execute(text("DELETE FROM tenant_limits WHERE tenant = :tenant"), {"tenant": tenant})
    return bool(gone.rowcount)


def every(conn: Connection) -> list[TenantLimits]:
    """The limits of all tenants that have some."""
    rows = conn.execute(text(f"SELECT {_COLUMNS} FROM tenant_limits ORDER BY tenant"))
    return [TenantLimits(*row) for row in rows]


def get(conn: Connection, tenant: str) -> TenantLimits | None:
    """The limits of one tenant."""
    row = conn.execute(text(f"SELECT {_COLUMNS} FROM tenant_limits WHERE tenant = :tenant"), {"tenant": tenant}).first()
    return None if row is None else TenantLimits(*row)


def lock(conn: Connection, tenant: str) -> TenantLimits | None:
    """The limits of a tenant with a lock on their row: its calls are counted by one transaction at a time."""
    suffix = "FOR UPDATE" if is_postgres(conn) else ""
    row = conn.execute(
        text(f"SELECT {_COLUMNS} FROM tenant_limits WHERE tenant = :tenant {suffix}"), {"tenant": tenant}
    ).first()
    return None if row is None else TenantLimits(*row)


def mark_over(conn: Connection, tenant: str) -> int:
    """Mark calls that are over, so that they are not looked at again; returns how many."""
    done = conn.execute(
        text(f"""
        UPDATE api_calls SET over = {"true" if is_postgres(conn) else "1"} WHERE job_id IN (
            SELECT c.job_id FROM api_calls AS c LEFT JOIN jobs AS j ON j.id = c.job_id
            WHERE c.tenant = :tenant AND NOT c.over AND (j.id IS NULL OR j.finished_at IS NOT NULL)
            ORDER BY c.job_id LIMIT {SLICE} {"FOR UPDATE OF c SKIP LOCKED" if is_postgres(conn) else ""})
        """),
        {"tenant": tenant},
    )
    return int(done.rowcount)
