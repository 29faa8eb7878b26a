"""The keys of the HTTP gateway: create, list, rotate, revoke, and whose a key is that a caller sends.

A key is shown once, when it is made or rotated; the database has its SHA-256.
"""

from __future__ import annotations

import builtins
import hashlib
import re
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from api_schemas.errors import FieldProblem
from api_schemas.ids import uuid7_hex
from api_schemas.jobs import check_tenant
from worker.base.errors import InvalidRequest, NotAllowed, NotFound
from worker.db.calls import tenants
from worker.db.calls.tenants import TenantLimits
from worker.db.connect import Database
from worker.db.keys import records
from worker.db.keys.records import Key
from worker.producer.faces import awaited

if TYPE_CHECKING:
    from worker.producer.connections import Connections

__all__ = ["AsyncKeys", "Key", "Keys", "TenantLimits"]

PREFIX = "sk-sp-"
_SECRET = re.compile(r"sk-sp-[A-Za-z0-9_-]{43}")


class Keys:
    """The keys in a database, of all tenants."""

    def __init__(self, database: Database | Connections) -> None:
        self._database = database

    def create(
        self,
        tenant: str = "default",
        *,
        name: str = "",
        models: Sequence[str] | None = None,
        rpm: int | None = None,
        tpm: int | None = None,
        max_in_flight: int | None = None,
        budget_usd: Decimal | None = None,
        expires_at: datetime | None = None,
        admin: bool = False,
        read_only: bool = False,
    ) -> tuple[Key, str]:
        """Make a key; returns it and its secret, which cannot be read again.

        Args:
            tenant: whose jobs, files and batches its callers see.
            models: the only ones that it may use; None for all.
            rpm: calls within any 60 seconds.
            tpm: tokens within any 60 seconds.
            max_in_flight: calls that run at once.
            budget_usd: what all its calls together may cost.
            expires_at: when it ends.
            admin: may do what concerns all tenants.
            read_only: may read and change nothing.

        Raises:
            InvalidRequest: a value that no key can have.
        """
        problems = _check_limits(rpm=rpm, tpm=tpm, max_in_flight=max_in_flight)
        if budget_usd is not None and not 0 < budget_usd < 10**6:
            problems.append(FieldProblem(field="budget_usd", message="expected US dollars above 0 and below a million"))
        if admin and read_only:
            problems.append(FieldProblem(field="read_only", message="a key is `admin` or `read_only`, not both"))
        if len(name) > 100 or (name and not name.isprintable()):
            problems.append(FieldProblem(field="name", message="expected at most 100 printable characters"))
        if problems:
            raise InvalidRequest(problems)
        secret = _new_secret()
        key = Key(
            id=f"key_{uuid7_hex()}",
            tenant=check_tenant(tenant),
            name=name,
            hint=secret[-4:],
            models=None if models is None else tuple(models),
            rpm=rpm,
            tpm=tpm,
            max_in_flight=max_in_flight,
            budget_usd=budget_usd,
            spent_usd=Decimal(0),
            admin=admin,
            read_only=read_only,
            created_at=None,
            expires_at=expires_at,
            revoked_at=None,
            last_used_at=None,
            previous_expires_at=None,
        )
        self._database.write(lambda conn: records.create(conn, key, _hash(secret)))
        return self.get(key.id), secret

    def list(self, *, tenant: str | None = None) -> list[Key]:
        """All keys (of a tenant), oldest first; revoked ones too."""
        return self._database.read(lambda conn: records.every(conn, tenant=tenant))

    def get(self, key_id: str) -> Key:
        """One key, by its id or the beginning of it. Raises NotFound."""
        return self._database.read(lambda conn: records.get(conn, key_id))

    def revoke(self, key_id: str) -> Key:
        """End a key at once. Raises NotFound."""
        key = self.get(key_id)
        self._database.write(lambda conn: records.revoke(conn, key.id))
        return self.get(key.id)

    def rotate(self, key_id: str, *, grace_seconds: float = 0.0) -> tuple[Key, str]:
        """Give a key a new secret, and keep its limits and what it spent; the old one serves for `grace_seconds` more.

        Raises:
            NotFound: no such key.
            NotAllowed: it is revoked.
        """
        key = self.get(key_id)
        if key.revoked_at is not None:
            raise NotAllowed(f"{key.id} is revoked; create a new key")
        secret = _new_secret()
        self._database.write(lambda conn: records.rotate(conn, key.id, _hash(secret), secret[-4:], grace=grace_seconds))
        return self.get(key.id), secret

    def limit_tenant(
        self, tenant: str, *, rpm: int | None = None, tpm: int | None = None, max_in_flight: int | None = None
    ) -> TenantLimits:
        """Set what all callers of a tenant together may do, in place of what was set before.

        It counts beside the limits of each key. What a tenant may cost is a budget (`pot.budgets`).

        Raises:
            InvalidRequest: a value that no limit can have, or none at all.
        """
        problems = _check_limits(rpm=rpm, tpm=tpm, max_in_flight=max_in_flight)
        if rpm is tpm is max_in_flight is None:
            problems.append(FieldProblem(field="rpm", message="expected a limit: rpm, tpm or max_in_flight"))
        if problems:
            raise InvalidRequest(problems)
        limits = TenantLimits(check_tenant(tenant), rpm, tpm, max_in_flight)
        self._database.write(lambda conn: tenants.put(conn, limits))
        while self._database.write(lambda conn: tenants.mark_over(conn, tenant)) == tenants.SLICE:
            pass  # its history, so that the next call need not look at it
        return limits

    def unlimit_tenant(self, tenant: str) -> None:
        """Forget the limits of a tenant. Raises NotFound."""
        if not self._database.write(lambda conn: tenants.remove(conn, tenant)):
            raise NotFound(f"tenant {tenant[:64]} has no limits")

    def tenant_limits(self) -> builtins.list[TenantLimits]:
        """The limits of every tenant that has some."""
        return self._database.read(tenants.every)

    def find(self, secret: str) -> Key | None:
        """The key that a caller sends, if it is in force."""
        if _SECRET.fullmatch(secret) is None:
            return None
        return self._database.read(lambda conn: records.find(conn, _hash(secret)))

    def touch(self, key: Key) -> None:
        """Note that a key was used, once a minute."""
        if (
            key.last_used_at is not None
            and (datetime.now(UTC) - key.last_used_at).total_seconds() < records.USED_SECONDS
        ):
            return
        self._database.write(lambda conn: records.touch(conn, key.id))

    def exist(self) -> bool:
        """Whether there is, or was, any key: from then on calls without one are refused."""
        return self._database.read(records.any_key)


class AsyncKeys:
    """As `Keys`, awaitable."""

    def __init__(self, connections: Connections) -> None:
        self._blocking = Keys(connections)

    create = awaited(Keys.create)
    list = awaited(Keys.list)
    get = awaited(Keys.get)
    revoke = awaited(Keys.revoke)
    rotate = awaited(Keys.rotate)
    limit_tenant = awaited(Keys.limit_tenant)
    unlimit_tenant = awaited(Keys.unlimit_tenant)
    tenant_limits = awaited(Keys.tenant_limits)
    find = awaited(Keys.find)
    touch = awaited(Keys.touch)
    exist = awaited(Keys.exist)


def _check_limits(**limits: int | None) -> list[FieldProblem]:
    return [
        FieldProblem(field=field, message=f"expected at least 1, got {value}")
        for field, value in limits.items()
        if value is not None and value < 1
    ]


def _new_secret() -> str:
    return PREFIX + secrets.token_urlsafe(32)


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
