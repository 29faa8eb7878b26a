"""The Redis keys of the limits. Owner: `worker.limits`; nobody else writes them, and each one has a TTL.

    stockpot:route:<digest>:state      hash    learned limit, its open window, breaker, manual pause     7 days
    stockpot:route:<digest>:holders    hash    holder → permits held, wanted, until when                 2 leases
    stockpot:route:<digest>:rates      hash    requests and tokens of the last minute, in quarters of a second 150 s
    stockpot:scope:<digest>:holders    hash    the same for a key's or a tenant's limits                 2 leases
    stockpot:scope:<digest>:rates      hash                                                              150 s
    stockpot:key:<key id>:account      hash    paused, why, since when, next probe                       7 days
    stockpot:limits:routes             hash    digest → the route's parts, for `stockpot routes`         7 days
    stockpot:limits:workers            zset    worker → when its share falls to the others               2 leases

All are caches of what can be learned again: with the lot deleted, limits are kept and only learned values start anew.
"""

from __future__ import annotations

from datetime import timedelta

from worker.limits.route import Route, Scope

#: What was learned is worth keeping over a weekend without traffic, not for ever.
STATE_TTL = timedelta(days=7)

ROUTES = "stockpot:limits:routes"
WORKERS = "stockpot:limits:workers"
PATTERNS = ("stockpot:route:*", "stockpot:scope:*", "stockpot:key:*:account", "stockpot:limits:*")


def state(route: Route) -> str:
    """The learned limit, its open window, the breaker and the manual pause of a route."""
    return f"stockpot:route:{route.digest}:state"


def account(key_id: str) -> str:
    """Whether the key's account takes calls."""
    return f"stockpot:key:{key_id}:account"


def holders(of: Route | Scope) -> str:
    """Who holds how many permits of a route or a scope."""
    return f"stockpot:{_kind(of)}:{of.digest}:holders"


def rates(of: Route | Scope) -> str:
    """What a route or a scope has spent of its minute."""
    return f"stockpot:{_kind(of)}:{of.digest}:rates"


def _kind(of: Route | Scope) -> str:
    return "route" if isinstance(of, Route) else "scope"
