"""For producers: submit, follow, wait, cancel, retry. `Stockpot` blocks, `AsyncStockpot` awaits; the verbs are the same.

A submission is one transaction: when `submit` returns, the job is a promise. The doorbell is rung afterwards, by a
thread of its own; a Redis that is frozen or absent delays nothing. Live events are read by one event loop of the
process's own, which the blocking face borrows.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Self

from anyio import to_thread

from api_schemas.errors import FieldProblem
from api_schemas.event_numbers import after_number
from api_schemas.jobs import Job, JobDetail, JobRequest, check_tenant
from worker.base import telemetry
from worker.base.errors import InvalidRequest
from worker.base.settings import Settings
from worker.base.settings import settings as process_settings
from worker.batches.results import Order, ResultLine, read
from worker.broker.doorbell import Doorbell
from worker.db import identity
from worker.db.batches import records
from worker.db.connect import Database
from worker.db.jobs import cancel as cancelling
from worker.db.jobs import lookup
from worker.db.jobs import usage as using
from worker.db.jobs.submit import Submitted, insert
from worker.db.ready import ensure_schema
from worker.job.accept import Request, accept
from worker.job.consequences import Consequences
from worker.producer.calls import Calls
from worker.producer.cancellation import announce_cancelled
from worker.producer.keys import Keys
from worker.producer.reader import Events, Follower, Loop
from worker.producer.streams import AsyncStreams, Streams

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.orm import Session

#: Jobs in one transaction of `submit_many`: large enough to share a commit, small enough to lose nothing on Ctrl-C.
SLICE = 500


class Stockpot(Streams):
    """The blocking face. Safe to share between threads; use it as a context manager or call `close`.

    Args:
        settings: where the database and Redis are; read from the environment when left out.
        tenant: whose jobs these are; it scopes keys, limits, webhooks and every query.
    """

    def __init__(self, settings: Settings | None = None, *, tenant: str = "default") -> None:
        self.settings = settings or process_settings()
        telemetry.configure_library(self.settings)
        self.tenant = check_tenant(tenant)
        self._database = Database(self.settings, pool_size=8)
        self._doorbell = Doorbell(self.settings)
        self._consequences = Consequences()
        self.follower = Follower(self.settings, self._database, self.prepare)
        self._loop: Loop | None = None
        self._lock = threading.Lock()
        self._ready = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Send what doorbells wait, within the publish budget, and close the connections."""
        self._doorbell.close()
        if self._loop is not None:
            self._loop.call(self.follower.aclose)
            self._loop.close()
            self._loop = None
        self._database.close()

    @property
    def calls(self) -> Calls:
        """This tenant's calls over OpenAI's wire, for the gateway."""
        self.prepare()
        return Calls(self.settings, self._database, self._doorbell.ring, self.tenant)

    @property
    def keys(self) -> Keys:
        """The keys of the gateway, of all tenants."""
        self.prepare()
        return Keys(self._database)

    # ── submit ───────────────────────────────────────────────────────────────────────────────────────────────────

    def submit(self, request: Request, *, session: Session | None = None, **options: Any) -> Submitted:
        """Submit one completion request: a chat completions or responses body, or a whole `JobRequest`.

        With `session` the job is inserted in the caller's own transaction: it exists when that commits, and the
        workers find it within a sweep interval.

        Args:
            options: fields of `JobRequest`: `idempotency_key`, `webhook`, `lane`, `metadata`, `delay_seconds`,
                `not_before`, `max_attempts`, `on_ambiguous`, `ttl_seconds`, `max_cost_usd`, `endpoint`.

        Raises:
            InvalidRequest: every problem of the request, by field.
            IdempotencyConflict: the key belongs to a request with another body.
            Unreachable: the database does not answer; nothing was accepted.
        """
        job = self._accept(request, options)
        if session is not None:
            return insert(session.connection(), [job], self.settings)[0]
        self.prepare()
        done = self._database.write(lambda conn: insert(conn, [job], self.settings))[0]
        self._ring([done], job)
        return done

    def submit_many(self, requests: Iterable[Request], **options: Any) -> list[str]:
        """Submit many requests, `SLICE` to a transaction, one doorbell per slice; the job ids, in order.

        Bulk lane unless `lane` says otherwise. A request that cannot be accepted stops the run at its slice: those
        before it are accepted, and the error's message counts them.

        Raises:
            InvalidRequest, IdempotencyConflict, Unreachable: as `submit`.
        """
        options = {"lane": "bulk"} | options
        self.prepare()
        ids: list[str] = []
        for slice_ in _slices(requests, SLICE):
            try:
                jobs = [self._accept(one, options) for one in slice_]
                done = self._database.write(lambda conn, jobs=jobs: insert(conn, jobs, self.settings))  # type: ignore[misc]
            except Exception as error:
                error.add_note(f"{len(ids):,} requests before this slice of {len(slice_)} were accepted")
                raise
            ids += [one.id for one in done]
            self._ring(done, jobs[0])
        return ids

    def _accept(self, request: Request, options: Mapping[str, Any]) -> JobRequest:
        """A job of this producer's tenant; one that names another is refused, since it could not read it again."""
        job = accept(request, self.settings, **options)
        said = request if isinstance(request, JobRequest) else job
        if "tenant" not in said.model_fields_set:
            return job.model_copy(update={"tenant": self.tenant})
        if job.tenant != self.tenant:
            raise InvalidRequest([FieldProblem(field="tenant", message=f"this producer's tenant is {self.tenant!r}")])
        return job

    def _ring(self, done: Sequence[Submitted], job: JobRequest) -> None:
        if job.delay_seconds or job.not_before is not None:
            return  # due later; the workers' own look finds it then
        self._doorbell.ring([one.id for one in done if one.created], job.lane)

    def prepare(self) -> None:
        """Make sure that the database can be used; every verb does it first. Raises Unreachable."""
        if not self._ready:
            ensure_schema(self.settings)
            self._doorbell.database = self._database.read(identity.read)
            self._ready = True

    # ── read ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def get(self, job_id: str) -> JobDetail:
        """A job with its response, usage, cost, error and attempts. Raises NotFound, Unreachable."""
        self.prepare()
        return self._database.read(lambda conn: lookup.job(conn, job_id, tenant=self.tenant))

    def list(
        self,
        *,
        status: str | None = None,
        lane: str | None = None,
        batch: str | None = None,
        since: datetime | None = None,
        limit: int = lookup.PAGE,
        before: str | None = None,
    ) -> list[Job]:
        """Jobs, newest first; `before` is the id that the page before ended with. Raises Unreachable."""
        self.prepare()
        return self._database.read(
            lambda conn: lookup.jobs(
                conn,
                tenant=self.tenant,
                status=status,
                lane=lane,
                batch=batch,
                since=since,
                limit=limit,
                before=before,
            )
        )

    def usage(self, *, by: Sequence[str] = (), since: datetime | None = None) -> Sequence[using.UsageRow]:
        """Tokens and cost, summed by day, model, lane, tenant, batch or `metadata.KEY`. Raises Unreachable."""
        self.prepare()
        return self._database.read(lambda conn: using.usage(conn, tenant=self.tenant, by=by, since=since))

    def batch_lines(
        self, batch: str, *, offset: int = 0, follow: bool = False, order: Order = Order.ENDED
    ) -> Iterator[ResultLine]:
        """The lines of a batch that are over, behind the first `offset` of them; with `follow` until the batch is over.

        Each has the `offset` behind it: whoever goes on from the last one that it has kept, at any time, gets each
        `custom_id` once. `order="file"` is the order of the input: a line waits until all before it are over.

        Raises:
            NotFound: no such batch of this tenant.
            Unreachable: the database does not answer; go on from the last offset.
        """
        self.prepare()
        self._database.read(lambda conn: records.get(conn, batch, tenant=self.tenant))
        for page in read(self._database, batch, offset=offset, follow=follow, order=Order(order)):
            yield from page

    # ── change ───────────────────────────────────────────────────────────────────────────────────────────────────

    def cancel(self, job_id: str) -> str:
        """Cancel a job; its new status: `cancelled`, or `in_progress` while its worker closes the connection.

        Raises:
            NotFound: no such job of this tenant.
            NotAllowed: it is finished in another way.
        """
        self.prepare()

        def write(conn: Any) -> cancelling.Cancelled:
            done = cancelling.cancel(conn, job_id, tenant=self.tenant)
            self._consequences.write(conn, [] if done.ended is None else [done.ended])
            return done

        done = self._database.write(write)
        if done.changed:
            announce_cancelled(self.settings, done)
        return done.status

    def retry(self, job_id: str) -> None:
        """Queue a failed, cancelled or expired job again. Raises NotFound, NotAllowed."""
        self.prepare()
        ttl = self.settings.job_ttl_seconds
        self._database.write(lambda conn: cancelling.retry(conn, job_id, tenant=self.tenant, ttl=ttl))
        self._doorbell.ring([job_id], "interactive")

    # ── follow ───────────────────────────────────────────────────────────────────────────────────────────────────

    def events(self, job_id: str, after: int | str = 0, *, heartbeat: float | None = None) -> Iterator[dict[str, Any]]:
        """A job's live events after number `after`, from the log and then live, ending with the terminal event.

        With `heartbeat` an event of type `heartbeat`, without a number, comes after so many seconds of silence.

        Raises InvalidRequest (`after` is no number), NotFound, Unreachable.
        """
        self.prepare()
        yield from self._reading().iterate(self.follower.events(job_id, self.tenant, after_number(after), heartbeat))

    def wait(self, job_id: str, timeout: float | None = None) -> JobDetail:
        """Wait until a job is over. Raises WaitTimeout after `timeout` seconds (the job goes on), NotFound."""
        self.prepare()
        return self._reading().call(self.follower.wait, job_id, self.tenant, timeout)

    def _reading(self) -> Loop:
        with self._lock:
            if self._loop is None:
                self._loop = Loop()
            return self._loop


class AsyncStockpot(AsyncStreams):
    """The awaiting face: the same verbs. SQL runs in threads, live events on the caller's own loop."""

    def __init__(self, settings: Settings | None = None, *, tenant: str = "default") -> None:
        self._blocking = Stockpot(settings, tenant=tenant)

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self._blocking.settings

    @property
    def blocking(self) -> Stockpot:
        """The blocking face of the same producer, for verbs that are run in a thread."""
        return self._blocking

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """As `Stockpot.close`."""
        await self._blocking.follower.aclose()
        await to_thread.run_sync(self._blocking.close)

    async def submit(self, request: Request, *, session: AsyncSession | None = None, **options: Any) -> Submitted:
        """As `Stockpot.submit`; `session` is an `AsyncSession`."""
        if session is not None:
            return await session.run_sync(lambda sync: self._blocking.submit(request, session=sync, **options))
        return await to_thread.run_sync(lambda: self._blocking.submit(request, **options))

    async def submit_many(self, requests: Iterable[Request], **options: Any) -> list[str]:
        """As `Stockpot.submit_many`."""
        return await to_thread.run_sync(lambda: self._blocking.submit_many(requests, **options))

    async def get(self, job_id: str) -> JobDetail:
        """As `Stockpot.get`."""
        return await to_thread.run_sync(self._blocking.get, job_id)

    async def list(self, **filters: Any) -> list[Job]:
        """As `Stockpot.list`."""
        return await to_thread.run_sync(lambda: self._blocking.list(**filters))

    async def usage(self, *, by: Sequence[str] = (), since: datetime | None = None) -> Sequence[using.UsageRow]:
        """As `Stockpot.usage`."""
        return await to_thread.run_sync(lambda: self._blocking.usage(by=by, since=since))

    async def batch_lines(
        self, batch: str, *, offset: int = 0, follow: bool = False, order: Order = Order.ENDED
    ) -> AsyncIterator[ResultLine]:
        """As `Stockpot.batch_lines`."""
        lines = self._blocking.batch_lines(batch, offset=offset, follow=follow, order=order)
        while (line := await to_thread.run_sync(next, lines, None, abandon_on_cancel=True)) is not None:
            yield line

    async def cancel(self, job_id: str) -> str:
        """As `Stockpot.cancel`."""
        return await to_thread.run_sync(self._blocking.cancel, job_id)

    async def retry(self, job_id: str) -> None:
        """As `Stockpot.retry`."""
        await to_thread.run_sync(self._blocking.retry, job_id)

    def events(self, job_id: str, after: int | str = 0, *, heartbeat: float | None = None) -> Events:
        """As `Stockpot.events`. A step that is cancelled (`asyncio.wait_for(anext(events), 1)`) loses nothing."""
        return self._blocking.follower.events(job_id, self._blocking.tenant, after_number(after), heartbeat)

    async def wait(self, job_id: str, timeout: float | None = None) -> JobDetail:
        """As `Stockpot.wait`."""
        return await self._blocking.follower.wait(job_id, self._blocking.tenant, timeout)


def _slices(requests: Iterable[Request], size: int) -> Iterator[list[Request]]:
    slice_: list[Request] = []
    for request in requests:
        slice_.append(request)
        if len(slice_) == size:
            yield slice_
            slice_ = []
    if slice_:
        yield slice_
