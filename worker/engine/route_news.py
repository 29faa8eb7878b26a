"""Routes that were paused or resumed: log lines, webhooks, and how an empty account is found to be filled again.

The gate decides; here stands what the engine adds: the question for the balance, and one log line, one count and one
webhook event (`route.paused`, `route.resumed`) per change in the whole fleet.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

from worker.base import metrics
from worker.base.errors import SettingsError, Unreachable
from worker.base.log import get_logger
from worker.base.settings import Settings
from worker.base.tasks import end_tasks
from worker.db.threads import DatabaseThreads
from worker.job.consequences import Consequences, RouteChange
from worker.limits.account import Transition
from worker.limits.route import Route
from worker.provider.provider import Provider

log = get_logger(__name__)

#: A balance is taken at its word once in that many seconds. A key that is refused again within them has a limit of its
#: own, which no balance shows; then one call is let out to see, instead of all of them.
BELIEVED_SECONDS = 600.0
#: Seconds between two tries to write a change's webhook events.
_AGAIN_SECONDS = 1.0


class RouteNews:
    """What the limits of this worker ask (`balance`) and report (`changed`)."""

    def __init__(
        self,
        settings: Settings,
        provider: Provider,
        database: DatabaseThreads,
        *,
        consequences: Consequences,
        on_resumed: Callable[[], None],
    ) -> None:
        """`on_resumed` is called when calls may go out again."""
        self._settings = settings
        self._provider = provider
        self._database = database
        self._on_resumed = on_resumed
        self._consequences = consequences
        self._believed: dict[str, float] = {}
        self._announcing: set[asyncio.Task[None]] = set()

    async def balance(self, key_id: str) -> bool | None:
        """Whether the key of this id can pay; None when the provider does not show it, so that a call must find out."""
        try:
            if key_id != self._settings.key_id:
                return None
            pays = (await self._provider.balance()).pays
        except (Unreachable, SettingsError):  # or the key's file is just being replaced
            return None
        if not pays:
            return pays
        now = time.monotonic()
        if now - self._believed.get(key_id, -BELIEVED_SECONDS) < BELIEVED_SECONDS:
            return None
        self._believed[key_id] = now
        return True

    def changed(self, change: Transition) -> None:
        """An account or a route was paused or resumed, and this worker announces it."""
        metrics.ROUTE_CHANGES.labels(change.what, change.of, change.reason).inc()
        facts = {"of": change.of, "route": change.route, "key_id": change.key_id, "reason": change.reason}
        if change.what == "paused":
            log.error("route_paused", **facts, detail=change.detail)
        else:
            log.info("route_resumed", **facts)
            self._on_resumed()
        task = asyncio.create_task(self._announce(_news(change)))
        self._announcing.add(task)
        task.add_done_callback(self._announcing.discard)

    async def watch(self, closed: Callable[[Route], object], every: float) -> None:
        """Notice that the key's account is open again when another worker found it out; ask every so many seconds."""
        shut = False
        while True:
            with contextlib.suppress(SettingsError):  # the key's file is just being replaced
                route = Route(self._settings.upstream_url, self._settings.key_id, "")
                before, shut = shut, closed(route) is not None
                if before and not shut:
                    self._on_resumed()
            await asyncio.sleep(every)

    async def _announce(self, change: RouteChange) -> None:
        """Write the webhook events, for as long as it takes; their ids stay the same."""
        while True:
            events = await self._database.try_write(
                lambda conn: self._consequences.write_route_change(conn, change), -1, "route_hooks_delayed"
            )
            if events >= 0:
                break
            await asyncio.sleep(_AGAIN_SECONDS)
        if events:
            self._consequences.wake()

    async def aclose(self) -> None:
        """Stop announcing; events that the database has not taken are dropped."""
        await end_tasks(self._announcing)


def _news(change: Transition) -> RouteChange:
    return RouteChange(
        what=change.what,
        id=change.route or f"key {change.key_id}",
        reason=change.reason,
        detail=change.detail,
    )
