"""Authentication: a key, or none on loopback while there are no keys.

Without a key the call must come from this machine and look like it: a loopback address, a loopback `Host` (a page of
another site that was rebound to 127.0.0.1 sends its own) and no trace of a proxy, behind which any client may stand.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from anyio import to_thread
from starlette.requests import Request

from api_schemas.jobs import check_tenant
from worker.gateway.errors import ApiError
from worker.gateway.local import is_local
from worker.gateway.state import Gateway
from worker.producer.keys import Key

#: Roles of a key.
ADMIN, READ_ONLY = "admin", "read_only"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls. Everything that a request reads or changes is its tenant's."""

    tenant: str
    key: str | None = None  # the key's id; None without keys
    roles: frozenset[str] = field(default_factory=frozenset)
    models: frozenset[str] | None = None  # None: all
    limited: bool = False  # its key's calls are counted before one is accepted
    budgeted: bool = False

    def may_use(self, model: str) -> bool:
        """Whether the caller's key admits a model."""
        return self.models is None or model in self.models

    def require(self, role: str) -> None:
        """Refuse a caller without this role: 403."""
        if role not in self.roles:
            raise ApiError(403, f"This needs a key with the role {role}.", code="insufficient_permissions")


async def authenticate(request: Request) -> Caller:
    """The caller of a request. Raises ApiError 401."""
    keys = Gateway.of(request).keys
    secret = bearer(request)
    key = None if secret is None else await to_thread.run_sync(keys.find, secret)
    if key is not None:
        await to_thread.run_sync(keys.touch, key)
        return _caller(request, key)
    if await to_thread.run_sync(keys.exist):
        words = (
            "Incorrect API key provided." if secret else "You didn't provide an API key: Authorization: Bearer sk-sp-…"
        )
        raise ApiError(401, words, code="invalid_api_key")
    if not is_local(request, Gateway.of(request).settings):
        raise ApiError(
            401,
            "Without a key only this machine is served. Give one: Authorization: Bearer sk-sp-…"
            " (`stockpot keys create`).",
            code="invalid_api_key",
        )
    return Caller("default", roles=frozenset({ADMIN}))


def _caller(request: Request, key: Key) -> Caller:
    """An admin's key may speak for another tenant: `Stockpot-Tenant`."""
    roles = frozenset(role for role, has in ((ADMIN, key.admin), (READ_ONLY, key.read_only)) if has)
    tenant = key.tenant
    if key.admin and (named := request.headers.get("stockpot-tenant")):
        tenant = check_tenant(named)
    return Caller(
        tenant,
        key.id,
        roles,
        models=None if key.models is None else frozenset(key.models),
        limited=key.limited,
        budgeted=key.budget_usd is not None,
    )


def bearer(request: Request) -> str | None:
    """The key that a request carries."""
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    return key.strip() or None if scheme.lower() == "bearer" else None
