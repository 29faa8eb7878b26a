"""The Redis keys of the limits. Owner: `worker.limits`, the only writer; each key has a TTL.

    <namespace>:route:<digest>:state      hash    learned limit, its open window, breaker, manual pause     7 days
    <namespace>:route:<digest>:holders    hash    holder → permits held, wanted, until when                 2 leases
    <namespace>:route:<digest>:rates      hash    requests and tokens of the last minute, in quarters of a second 150 s
    <namespace>:scope:<digest>:holders    hash    the same for a key's or a tenant's limits                 2 leases
    <namespace>:scope:<digest>:rates      hash                                                              150 s
    <namespace>:key:<key id>:account      hash    paused, why, since when, next probe; refused jobs         7 days
    <namespace>:limits:routes             hash    digest → the route's parts, for `stockpot routes`         7 days
    <namespace>:limits:workers            zset    worker → when its share falls to the others               2 leases

All are caches of what can be learned again: with the lot deleted, limits are kept and only learned values start anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from worker.base.redis_urls import DEFAULT_NAMESPACE
from worker.limits.route import Route, Scope

#: What was learned is worth keeping over a weekend without traffic, not for ever.
STATE_TTL = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of one namespace."""

    namespace: str = DEFAULT_NAMESPACE

    @property
    def routes(self) -> str:
        """Every route that was used."""
        return f"{self.namespace}:limits:routes"

    @property
    def workers(self) -> str:
        """The workers that live."""
        return f"{self.namespace}:limits:workers"

    def state(self, route: Route) -> str:
        """The learned limit, its open window, the breaker and the manual pause of a route."""
        return f"{self.namespace}:route:{route.digest}:state"

    def account(self, key_id: str) -> str:
        """Whether the key's account takes calls."""
        return f"{self.namespace}:key:{key_id}:account"

    def holders(self, of: Route | Scope) -> str:
        """Who holds how many permits of a route or a scope."""
        return f"{self.namespace}:{_kind(of)}:{of.digest}:holders"

    def rates(self, of: Route | Scope) -> str:
        """What a route or a scope has spent of its minute."""
        return f"{self.namespace}:{_kind(of)}:{of.digest}:rates"


def _kind(of: Route | Scope) -> str:
    return "route" if isinstance(of, Route) else "scope"
