"""`pot.routes`: the limits of each (upstream, key, model), what was learned, what is paused and why."""

from __future__ import annotations

import builtins
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from anyio import to_thread

from api_schemas.argument_types import typed
from worker import embedded
from worker.base.errors import NotAllowed, NotFound, Unreachable
from worker.base.redis import AWAY
from worker.limits.admission import Admission
from worker.limits.limiter import RouteState
from worker.limits.route import Route, key_id
from worker.producer.faces import blocked
from worker.producer.scope import Scope

__all__ = ["AsyncRoutes", "RouteState", "Routes"]


@typed
class AsyncRoutes:
    """The routes of the fleet; they are no tenant's."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    async def list(self) -> builtins.list[RouteState]:
        """Every route that was used in the last days, by name. Raises Unreachable without Redis."""
        async with self._admission() as admission:
            return await admission.snapshot()

    async def pause(self, route: str, *, reason: str = "") -> RouteState | None:
        """Stop calls on a route (its name or its model) until `resume`; running calls end as they would.

        Raises:
            NotFound: no such route, and no key to make it with.
            NotAllowed: the model has several routes.
            Unreachable: Redis does not answer.
        """
        async with self._admission() as admission:
            chosen = await self._choose(admission, route)
            await admission.pause(chosen, reason)
            return await _state(admission, chosen)

    async def resume(self, route: str) -> RouteState | None:
        """Let a route (its name or its model) go on, whatever paused it or its key's account. Raises as `pause`."""
        async with self._admission() as admission:
            chosen = await self._choose(admission, route)
            await admission.resume(chosen)
            return await _state(admission, chosen)

    @asynccontextmanager
    async def _admission(self) -> AsyncIterator[Admission]:
        settings = self._scope.settings
        url = await to_thread.run_sync(embedded.redis_url, settings)
        admission = Admission(url, permit_ttl=settings.lease_seconds)
        try:
            yield admission
        except AWAY as error:
            raise Unreachable("Redis", f"{type(error).__name__}: {error}", "`stockpot doctor` checks it.") from error
        finally:
            await admission.aclose()

    async def _choose(self, admission: Admission, name: str) -> Route:
        """The route of this name or model; one that was never used is made from the settings."""
        known = [state.route for state in await admission.snapshot()]
        found = [route for route in known if name in {route.name, route.digest}] or [
            route for route in known if route.model == name
        ]
        if len(found) > 1:
            raise NotAllowed(f"{name} is several routes; name one: {', '.join(route.name for route in found)}")
        return found[0] if found else self._unused(name)

    def _unused(self, model: str) -> Route:
        settings = self._scope.settings
        if settings.key is None or "@" in model:
            raise NotFound(f"no route {model[:128]} has been used; `stockpot routes` lists them")
        return Route(settings.upstream_url, key_id(settings.key), model)


async def _state(admission: Admission, route: Route) -> RouteState | None:
    return next((state for state in await admission.snapshot() if state.route == route), None)


class Routes:
    """The routes of the fleet; they are no tenant's."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._awaiting = AsyncRoutes(scope)

    list = blocked(AsyncRoutes.list)
    pause = blocked(AsyncRoutes.pause)
    resume = blocked(AsyncRoutes.resume)
