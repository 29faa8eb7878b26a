"""Create, find by what the caller sent, list, rotate, revoke. The caller commits."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import Connection, bindparam, text

from api_schemas import jsontext
from worker.base.errors import NotFound
from worker.base.money import PICO
from worker.db.clock import after_sql, is_postgres, now_sql
from worker.db.columns import Instant
from worker.db.jobs.lookup import moment

#: How often the last use of a key is written at most, in seconds.
USED_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Key:
    """A key as it may be shown."""

    id: str
    tenant: str
    name: str
    hint: str
    models: tuple[str, ...] | None
    rpm: int | None
    tpm: int | None
    max_in_flight: int | None
    budget_usd: Decimal | None
    spent_usd: Decimal  # by calls that are counted
    admin: bool
    read_only: bool
    created_at: datetime | None
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    previous_expires_at: datetime | None

    @property
    def limited(self) -> bool:
        """Whether its calls are counted before one is accepted."""
        return any(limit is not None for limit in (self.rpm, self.tpm, self.max_in_flight, self.budget_usd))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; money as a number of US dollars."""
        return {
            "id": self.id,
            "tenant": self.tenant,
            "name": self.name,
            "hint": self.hint,
            "models": None if self.models is None else list(self.models),
            "rpm": self.rpm,
            "tpm": self.tpm,
            "max_in_flight": self.max_in_flight,
            "budget_usd": None if self.budget_usd is None else float(self.budget_usd),
            "spent_usd": float(self.spent_usd),
            "admin": self.admin,
            "read_only": self.read_only,
        } | {
            name: None if (at := getattr(self, name)) is None else at.isoformat()
            for name in ("created_at", "expires_at", "revoked_at", "last_used_at", "previous_expires_at")
        }


def create(conn: Connection, key: Key, key_hash: str) -> None:
    """Insert a key; its times but `expires_at` are the database's."""
    statement = text(f"""
        INSERT INTO api_keys (id, tenant, name, hash, hint, models, rpm, tpm, max_in_flight, budget_picousd, admin,
            read_only, created_at, expires_at)
        VALUES (:id, :tenant, :name, :hash, :hint, :models, :rpm, :tpm, :max_in_flight, :budget, :admin,
            :read_only, {now_sql(conn)}, :expires_at)
    """).bindparams(bindparam("expires_at", type_=Instant()))
    conn.execute(
        statement,
        {
            "id": key.id,
            "tenant": key.tenant,
            "name": key.name,
            "hash": key_hash,
            "hint": key.hint,
            "models": None if key.models is None else jsontext.dumps(list(key.models)).decode(),
            "rpm": key.rpm,
            "tpm": key.tpm,
            "max_in_flight": key.max_in_flight,
            "budget": None if key.budget_usd is None else int(key.budget_usd * PICO),
            "admin": key.admin,
            "read_only": key.read_only,
            "expires_at": key.expires_at,
        },
    )


def find(conn: Connection, key_hash: str) -> Key | None:
    """The key with this hash, if it is in force; or that of which it was the secret before a rotation."""
    now = now_sql(conn)
    row = (
        conn.execute(
            text(f"""
            SELECT * FROM api_keys
            WHERE (hash = :hash OR (previous_hash = :hash AND previous_expires_at > {now}))
                AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > {now})
            """),
            {"hash": key_hash},
        )
        .mappings()
        .first()
    )
    return None if row is None else _key(row)


def in_force(conn: Connection, key_id: str) -> Key | None:
    """The key with this id, if it is in force."""
    now = now_sql(conn)
    row = (
        conn.execute(
            text(f"""
            SELECT * FROM api_keys
            WHERE id = :id AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > {now})
            """),
            {"id": key_id},
        )
        .mappings()
        .first()
    )
    return None if row is None else _key(row)


def any_key(conn: Connection) -> bool:
    """Whether there ever was a key: with the first one, calls without a key are refused."""
    return conn.execute(text("SELECT 1 FROM api_keys LIMIT 1")).first() is not None


def touch(conn: Connection, key_id: str) -> None:
    """Note that a key was used."""
    conn.execute(
        text(f"""
        UPDATE api_keys SET last_used_at = {now_sql(conn)}
        WHERE id = :id AND (last_used_at IS NULL OR last_used_at < {after_sql(conn, f"-{USED_SECONDS}")})
        """),
        {"id": key_id},
    )


def every(conn: Connection, *, tenant: str | None = None) -> list[Key]:
    """All keys (of a tenant), oldest first; revoked ones too."""
    where = "" if tenant is None else "WHERE tenant = :tenant"
    rows = conn.execute(text(f"SELECT * FROM api_keys {where} ORDER BY id"), {"tenant": tenant}).mappings()
    return [_key(row) for row in rows]


def get(conn: Connection, key_id: str) -> Key:
    """One key, by its id or the beginning of it. Raises NotFound."""
    rows = conn.execute(
        text("SELECT * FROM api_keys WHERE substr(id, 1, :length) = :id ORDER BY id LIMIT 2"),
        {"id": key_id, "length": len(key_id)},
    ).mappings()
    found = [_key(row) for row in rows]
    if len(found) != 1:
        raise NotFound(f"there is no key {key_id[:64]}" if not found else f"several keys begin with {key_id[:64]}")
    return found[0]


def revoke(conn: Connection, key_id: str) -> None:
    """End a key, and the one before its rotation."""
    conn.execute(
        text(f"UPDATE api_keys SET revoked_at = COALESCE(revoked_at, {now_sql(conn)}) WHERE id = :id"), {"id": key_id}
    )


def rotate(conn: Connection, key_id: str, key_hash: str, hint: str, *, grace: float) -> None:
    """Give a key a new secret; the old one serves for `grace` seconds more."""
    conn.execute(
        text(f"""
        UPDATE api_keys SET previous_hash = hash, previous_expires_at = {after_sql(conn, ":grace")},
            hash = :hash, hint = :hint
        WHERE id = :id
        """),
        {"id": key_id, "hash": key_hash, "hint": hint, "grace": grace},
    )


def lock(conn: Connection, key_id: str) -> Key:
    """The key with a lock on its row: one transaction at a time counts its calls. SQLite has one writer anyway."""
    suffix = "FOR UPDATE" if is_postgres(conn) else ""
    row = conn.execute(text(f"SELECT * FROM api_keys WHERE id = :id {suffix}"), {"id": key_id}).mappings().one()
    return _key(row)


def _key(row: Any) -> Key:
    budget = row["budget_picousd"]
    return Key(
        id=row["id"],
        tenant=row["tenant"],
        name=row["name"],
        hint=row["hint"],
        models=None if row["models"] is None else tuple(jsontext.loads(row["models"])),
        rpm=row["rpm"],
        tpm=row["tpm"],
        max_in_flight=row["max_in_flight"],
        budget_usd=None if budget is None else Decimal(budget) / PICO,
        spent_usd=Decimal(row["spent_picousd"]) / PICO,
        admin=bool(row["admin"]),
        read_only=bool(row["read_only"]),
        created_at=moment(row["created_at"]),
        expires_at=moment(row["expires_at"]),
        revoked_at=moment(row["revoked_at"]),
        last_used_at=moment(row["last_used_at"]),
        previous_expires_at=moment(row["previous_expires_at"]),
    )
