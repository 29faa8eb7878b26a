"""Deliver: claim → sign → send → record, on the worker's event loop.

Many destinations at once, few sends to each, and a breaker per destination: one that hangs holds its own few slots
and nothing else. Every claim is a lease under a fence. A process that dies between a receiver's answer and its record
leaves the event to be delivered again, under the same id; one that stands still finds its verdicts refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
import time
from collections.abc import Sequence
from typing import Self
from urllib.parse import urlsplit

from sqlalchemy import Connection

from worker.base import metrics, tracing
from worker.base.crashpoints import crashpoint
from worker.base.errors import SettingsError, Unreachable
from worker.base.log import get_logger
from worker.base.payloads import CLEAR, Payloads, Unreadable
from worker.base.settings import Settings
from worker.base.tasks import end_tasks
from worker.db.clock import unix_seconds
from worker.db.refusals import REFUSED, Apart, Part
from worker.db.webhooks import endpoints, outbox
from worker.db.webhooks.endpoints import Route
from worker.db.webhooks.log import backlog
from worker.db.webhooks.outbox import Claimed, Held
from worker.webhooks.addresses import Policy
from worker.webhooks.destinations import Delivery, Destinations
from worker.webhooks.egress import Blocked, Egress, Unanswered
from worker.webhooks.recording import Recorder, RunSql
from worker.webhooks.secrets import Vault
from worker.webhooks.signing import key_of, signed_headers
from worker.webhooks.verdicts import Health, Judgement, Outcome, judge, undeliverable

IN_FLIGHT = 256
"""Events in hand per process: sends are mostly waiting, and each costs a socket and tens of kilobytes."""

EACH = 8
"""Sends in flight per destination: at 50 ms an answer 160 events a second, and a hanging one holds 3 % of the slots."""

_CLAIM_PAUSE = 0.01
"""Seconds between two claims in a row, so that a claim takes what many finished sends have made room for."""

COUNT_SECONDS = 15.0
"""A usual interval of scraping: counting what waits more often shows nothing new."""

AT_MOST = 100_000
"""Events counted: some ten milliseconds within an index. Beyond that an exact count makes no difference."""

_UNREADABLE_SECONDS = 60.0
"""Until an event whose secret cannot be decrypted is looked at again: mending it takes a person."""

USER_AGENT = "Stockpot-Webhooks/1"

_NOT_NOW: tuple[type[Exception], ...] = (*REFUSED, Unreachable)
"""The database refuses, or does not answer: leases run out, and the next look is another try."""

log = get_logger("stockpot.webhooks")


class Deliverer:
    """Delivers what is due. One per process, on one event loop; `start` and `stop`, or `run_once` for tests.

    Args:
        run_sql: runs a function with a connection in a transaction, off the loop.
        owner: the worker's name in the leases.
        lease_seconds: of a claim; renewed three times in its life.
        poll_seconds: how often to look for due events without a `wake`, and for leases that ran out.
        retry_scale: multiplies the schedule and the breaker's pauses.
        count_backlog: keep the metrics of what waits and what was given up: queries that only serve who scrapes them.
        payloads: what decrypts the events' bodies.
    """

    def __init__(
        self,
        run_sql: RunSql,
        vault: Vault,
        egress: Egress,
        *,
        owner: str,
        lease_seconds: float = 30.0,
        poll_seconds: float = 1.0,
        retry_scale: float = 1.0,
        in_flight: int = IN_FLIGHT,
        each: int = EACH,
        count_backlog: bool = False,
        payloads: Payloads = CLEAR,
    ) -> None:
        self._run_sql = run_sql
        self._vault = vault
        self._payloads = payloads
        self._egress = egress
        self._owner = owner
        self._lease_seconds = lease_seconds
        self._poll_seconds = poll_seconds
        self._polls = True
        self._scale = retry_scale
        self._in_flight = in_flight
        self._each = each
        self._count_backlog = count_backlog
        self._count_at = 0.0  # monotonic seconds
        self._random = random.random
        self._destinations = Destinations(each=each, scale=retry_scale)
        self._recorder = Recorder(run_sql, scale=retry_scale)
        self._claims, self._reclaims = Apart("event"), Apart("event")
        self._deliveries: dict[str, Delivery] = {}
        self._sends: set[asyncio.Task[None]] = set()
        self._paced: dict[str, asyncio.Task[None]] = {}  # by destination: its next send in a slow start
        self._loops: list[asyncio.Task[None]] = []
        self._wake = asyncio.Event()
        self._stopping = False
        # How far the database's clock is ahead of ours: receivers refuse a timestamp that is minutes off.
        self._ahead = 0.0  # the database's clock less the loop's, in seconds: this machine's may be set at any time

    @classmethod
    def of(cls, settings: Settings, run_sql: RunSql, *, owner: str) -> Self:
        """The deliverer of a configuration. Raises SettingsError as `Vault.of` and `Policy.parse` do."""
        return cls(
            run_sql,
            Vault.of(settings),
            Egress(Policy.parse(settings.webhook_allow_private)),
            owner=owner,
            lease_seconds=settings.lease_seconds,
            poll_seconds=settings.sweep_seconds,
            retry_scale=settings.webhook_retry_scale,
            count_backlog=settings.http_port is not None,
            payloads=Payloads.of(settings),
        )

    def start(self) -> Sequence[asyncio.Task[None]]:
        """Begin to deliver, on the running loop; the tasks that do last until `stop`."""
        self._stopping = False
        self._loops = [
            asyncio.create_task(self._claim_forever(), name="webhooks-claim"),
            asyncio.create_task(self._renew_forever(), name="webhooks-renew"),
        ]
        for task in self._loops:
            task.add_done_callback(_say_if_broken)
        return self._loops

    def wake(self) -> None:
        """There is something new in the outbox. Call it on the loop."""
        self._wake.set()

    def ask(self, conn: Connection) -> tuple[float | None, tuple[int, int] | None]:
        """What `Looks` asks on our behalf: seconds until an event is due; how many wait and are given up."""
        counts = None
        if self._count_backlog and time.monotonic() >= self._count_at:
            counts = backlog(conn, at_most=AT_MOST)
        return outbox.seconds_until_due(conn), counts

    def take(self, found: tuple[float | None, tuple[int, int] | None]) -> float | None:
        """What `ask` found. From now on `Looks` asks regularly, and this does not look by itself any more."""
        self._polls = False
        seconds, counts = found
        if counts is not None:
            self._count_at = time.monotonic() + COUNT_SECONDS
            metrics.WEBHOOKS_PENDING.set(counts[0])
            metrics.WEBHOOKS_DEAD.set(counts[1])
        if seconds is not None and seconds <= 0:
            self.wake()
        return seconds

    async def stop(self, drain: float) -> None:
        """Claim no more, give back what waits, let sends finish for `drain` seconds, give the rest back, close."""
        self._stopping = True
        self._wake.set()
        claiming, others = self._loops[:1], self._loops[1:]
        await asyncio.gather(*claiming, return_exceptions=True)
        await self._give_back(self._destinations.empty_waiting(), 0.0)
        if self._sends:
            await asyncio.wait(self._sends, timeout=drain)
        await end_tasks([*self._sends, *self._paced.values(), *others])
        self._paced.clear()
        await self._recorder.close()
        await self._give_back(list(self._deliveries.values()), 0.0)
        self._loops = []
        await self._egress.close()

    async def run_once(self, limit: int = IN_FLIGHT) -> int:
        """Claim what is due, deliver it, and return how many events were claimed, all of them recorded."""
        claimed = await self._claim(limit)
        while self._sends or self._paced:
            await asyncio.wait([*self._sends, *self._paced.values()], return_when=asyncio.FIRST_COMPLETED)
        return claimed

    async def _claim_forever(self) -> None:
        loop = asyncio.get_running_loop()
        reclaim_at = loop.time()
        while not self._stopping:
            self._wake.clear()
            claimed = 0
            try:
                if loop.time() >= reclaim_at:
                    await self._reclaims.gather(self._run_sql, _reclaim, outbox.expired, [])
                    reclaim_at = loop.time() + self._poll_seconds
                claimed = await self._claim(self._in_flight - len(self._deliveries))
            except _NOT_NOW as error:
                log.warning("webhook_claim_failed", error=type(error).__name__)
            await asyncio.sleep(_CLAIM_PAUSE)
            if claimed and len(self._deliveries) < self._in_flight:
                continue  # more may be due
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._poll_seconds if self._polls else None):
                    await self._wake.wait()

    async def _claim(self, limit: int) -> int:
        loop = asyncio.get_running_loop()
        if limit <= 0:
            return 0
        busy, busy_hosts = self._destinations.busy(loop.time())
        metrics.WEBHOOK_BREAKERS_OPEN.set(self._destinations.left_alone())
        ours_until = loop.time() + self._lease_seconds  # from before the statement: the database's lease ends later

        def take(conn: Connection, part: Part) -> tuple[list[Claimed], dict[str, Route]]:
            events = outbox.claim(
                conn,
                self._owner,
                limit=limit,
                each=self._each,
                lease_seconds=self._lease_seconds,
                busy=busy,
                traced=tracing.on,
                busy_hosts=busy_hosts,
                only=part.only,
            )
            if events:
                self._ahead = unix_seconds(conn) - loop.time()
            ids = {event.endpoint_id for event in events if event.endpoint_id is not None}
            return events, endpoints.routes(conn, ids)

        taken: list[tuple[list[Claimed], dict[str, Route]]] = []
        await self._claims.gather(self._run_sql, take, functools.partial(outbox.due, limit), taken)
        events = [event for some, _ in taken for event in some if event.id not in self._recorder.refused.rows]
        routes = {name: route for _, some in taken for name, route in some.items()}
        for event in events:
            crashpoint("hook.claimed", event.job_id)
            delivery = Delivery(event, routes.get(event.endpoint_id or ""), ours_until)
            self._deliveries[event.id] = delivery
            self._destinations.add(delivery, loop.time(), loop.time() + self._ahead)
        for name in dict.fromkeys(event.destination for event in events):
            await self._next(name)
        return len(events)

    async def _next(self, destination: str) -> None:
        """Start what the destination, and others of its host, have room for; give back what waits in vain."""
        for name in self._destinations.near(destination):
            await self._next_of(name)

    async def _next_of(self, destination: str) -> None:
        now = asyncio.get_running_loop().time()
        for delivery in self._destinations.ready(destination, now):
            task = asyncio.create_task(self._deliver(delivery), name=f"webhook-{delivery.event.id}")
            self._sends.add(task)
            task.add_done_callback(functools.partial(self._sent, delivery))
        turned_away, rest = self._destinations.turned_away(destination, now)
        await self._give_back(turned_away, rest)
        pause = self._destinations.pause(destination, now)
        if pause and destination not in self._paced and not self._stopping:
            self._paced[destination] = asyncio.create_task(self._after(pause, destination))

    async def _after(self, pause: float, destination: str) -> None:
        """A slow start's next send, in its time."""
        await asyncio.sleep(pause)
        del self._paced[destination]
        await self._next_of(destination)

    def _sent(self, delivery: Delivery, task: asyncio.Task[None]) -> None:
        """A delivery's task has ended. One that broke leaves its event to the lease, to be claimed again."""
        self._sends.discard(task)
        self._wake.set()
        if task.cancelled():
            return
        self._deliveries.pop(delivery.event.id, None)
        if (error := task.exception()) is not None:
            log.error("webhook_delivery_broke", event_id=delivery.event.id, exc_info=error)

    async def _deliver(self, delivery: Delivery) -> None:
        """One event's attempt, from its turn to its record."""
        loop = asyncio.get_running_loop()
        event = delivery.event
        judgement: Judgement | None = None
        try:
            if loop.time() < delivery.ours_until:  # else it waited too long and is another worker's by now
                judgement = await self._attempt(delivery)
            if judgement is not None and judgement.health is Health.GONE:
                # Before its slot is free: the next event of a disabled endpoint must find it disabled.
                await self._recorder.record(judgement)
        finally:
            self._destinations.finished(event.destination, loop.time(), judgement)
        await self._next(event.destination)
        if judgement is not None and judgement.health is not Health.GONE:
            await self._recorder.record(judgement)

    async def _attempt(self, delivery: Delivery) -> Judgement | None:
        event, route = delivery.event, delivery.route
        if event.endpoint_id is not None and (route is None or route.disabled):
            return Judgement(undeliverable(event, "endpoint disabled"), Health.REFUSING)
        try:
            keys = self._keys(event, route)
            body = self._payloads.open(event.body, f"webhook_events.body:{event.id}")
        except SettingsError as error:
            ids = {"event_id": event.id, "endpoint_id": event.endpoint_id, "error": str(error)}
            log.error("payload_unreadable" if isinstance(error, Unreadable) else "webhook_secret_unreadable", **ids)
            await self._give_back([delivery], _UNREADABLE_SECONDS)
            return None
        url = event.url if event.url is not None else route.url if route is not None else ""
        began = time.monotonic()
        facts: dict[str, tracing.Value] = {
            "stockpot.job.id": event.job_id,
            "stockpot.webhook.id": event.id,
            "stockpot.webhook.attempt": event.attempts + 1,
            "server.address": urlsplit(url).hostname,
        }
        with tracing.span("stockpot.webhook", "client", facts, link=event.traceparent, root=True) as span:
            outcome = await self._post(event, url, body, keys)
            seconds = time.monotonic() - began
            judgement = judge(event, outcome, seconds, now=self._now(), scale=self._scale, random=self._random)
            verdict = judgement.verdict
            span.set({"stockpot.outcome": verdict.status, "http.response.status_code": verdict.status_code})
            if verdict.status != "delivered":
                span.fail(str(verdict.status_code or "no_answer"))
        crashpoint("hook.sent", event.job_id)
        write = log.debug if judgement.health is Health.WELL else log.info
        write(
            "webhook_attempted",
            event_id=event.id,
            job_id=event.job_id,
            endpoint_id=event.endpoint_id,
            attempt=judgement.verdict.attempt,
            outcome=judgement.verdict.status,
            status_code=judgement.verdict.status_code,
            seconds=judgement.verdict.seconds,
        )
        return judgement

    def _now(self) -> float:
        """Unix seconds by the database's clock."""
        return asyncio.get_running_loop().time() + self._ahead

    async def _post(self, event: Claimed, url: str, body: str, keys: list[bytes]) -> Outcome:
        headers = signed_headers(event.id, int(self._now()), body, keys)
        headers |= {"Content-Type": "application/json", "User-Agent": USER_AGENT}
        try:
            return await self._egress.post(url, body.encode(), headers)
        except (Blocked, Unanswered) as outcome:
            return outcome

    def _keys(self, event: Claimed, route: Route | None) -> list[bytes]:
        if route is None:
            return self._vault.tenant_keys(event.tenant)
        return [key_of(self._vault.open(secret)) for secret in (route.secret, *route.previous_secrets)]

    async def _give_back(self, deliveries: Sequence[Delivery], delay: float) -> None:
        if not deliveries:
            return
        held = [Held(delivery.event.id, delivery.event.fence) for delivery in deliveries]
        for delivery in deliveries:
            self._deliveries.pop(delivery.event.id, None)
        try:
            await self._run_sql(functools.partial(outbox.put_back, held=held, delay=delay))
        except _NOT_NOW as error:
            log.warning("webhook_put_back_failed", error=type(error).__name__, events=len(held))  # the leases run out

    async def _renew_forever(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._lease_seconds / 3)
            held = [Held(delivery.event.id, delivery.event.fence) for delivery in self._deliveries.values()]
            if not held:
                continue
            ours_until = loop.time() + self._lease_seconds
            try:
                ours = await self._run_sql(
                    functools.partial(outbox.renew, held=held, lease_seconds=self._lease_seconds)
                )
            except _NOT_NOW as error:
                log.warning("webhook_renew_failed", error=type(error).__name__)
                continue
            for event_id, delivery in self._deliveries.items():
                if event_id in ours:
                    delivery.ours_until = ours_until


def _say_if_broken(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.critical("webhook_loop_broke", loop=task.get_name(), exc_info=error)


def _reclaim(conn: Connection, part: Part) -> int:
    return outbox.reclaim_expired(conn, part.only)
