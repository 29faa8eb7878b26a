"""The awaiting face of the producer: `AsyncStockpot`, with the verbs of `Stockpot`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Literal, Self, Unpack

from anyio import to_thread

from api_schemas.argument_types import typed
from api_schemas.event_numbers import after_number
from api_schemas.jobs import JobDetail, JobOptions, Request
from worker.base.later import later
from worker.base.settings import Settings
from worker.producer.faces import awaited
from worker.producer.stockpot import Stockpot
from worker.producer.streams import AsyncStreams

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session
    from sqlalchemy.orm import Session

    from worker.batches.results import Order, ResultLine
    from worker.db.jobs.submit import Submitted
    from worker.producer import sql
    from worker.producer.async_batches import AsyncBatches
    from worker.producer.budgets import AsyncBudgets
    from worker.producer.calls import AsyncCalls
    from worker.producer.files import AsyncFiles
    from worker.producer.keys import AsyncKeys
    from worker.producer.reader import Events
    from worker.producer.routes import AsyncRoutes
    from worker.producer.waiting import Waiting
    from worker.producer.webhooks import AsyncWebhooks
else:
    sql = later("worker.producer.sql")


@typed
class AsyncStockpot(AsyncStreams):
    """The awaiting face: the same verbs. SQL runs in threads, live events on the caller's own loop.

    Args:
        settings, tenant: as `Stockpot`.
    """

    def __init__(self, settings: Settings | None = None, *, tenant: str = "default") -> None:
        self._blocking = Stockpot(settings, tenant=tenant)
        self.settings = self._blocking.settings
        self.tenant = self._blocking.tenant
        self._scope = self._blocking._scope  # noqa: SLF001 -- the other face
        self._shared = self._scope.connections

    @cached_property
    def batches(self) -> AsyncBatches:  # noqa: D102 -- the class of the other face names it
        from worker.producer.async_batches import AsyncBatches

        return AsyncBatches(self._scope)

    @cached_property
    def files(self) -> AsyncFiles:  # noqa: D102
        from worker.producer.files import AsyncFiles

        return AsyncFiles(self._scope)

    @cached_property
    def webhooks(self) -> AsyncWebhooks:  # noqa: D102
        from worker.producer.webhooks import AsyncWebhooks

        return AsyncWebhooks(self._scope)

    @cached_property
    def budgets(self) -> AsyncBudgets:  # noqa: D102
        from worker.producer.budgets import AsyncBudgets

        return AsyncBudgets(self._scope)

    @cached_property
    def routes(self) -> AsyncRoutes:  # noqa: D102
        from worker.producer.routes import AsyncRoutes

        return AsyncRoutes(self._scope)

    @property
    def calls(self) -> AsyncCalls:
        """As `Stockpot.calls`."""
        from worker.producer.calls import AsyncCalls

        return AsyncCalls(self._blocking.calls)

    @property
    def keys(self) -> AsyncKeys:
        """As `Stockpot.keys`; the database is looked at with the first verb."""
        from worker.producer.keys import AsyncKeys

        return AsyncKeys(self._shared)

    @property
    def blocking(self) -> Stockpot:
        """The blocking face of the same producer, for verbs that are run in a thread."""
        return self._blocking

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """As `Stockpot.close`. A subscription on a loop that others still use ends with the loop."""
        await self._shared.leave_loop()
        await to_thread.run_sync(self._blocking.close)

    def for_tenant(self, tenant: str) -> AsyncStockpot:
        """As `Stockpot.for_tenant`."""
        return AsyncStockpot(self.settings, tenant=tenant)

    def end_readers(self) -> None:
        """As `Stockpot.end_readers`; it does not wait."""
        self._blocking.end_readers()

    async def submit(
        self,
        request: Request,
        *,
        session: AsyncSession | async_scoped_session[Any] | Session | None = None,
        connection: Any = None,
        **options: Unpack[JobOptions],
    ) -> Submitted:
        """As `Stockpot.submit`; `session` is an `AsyncSession`, `connection` also one of asyncpg, psycopg or aiosqlite."""
        if (given := sql.one_of(session, connection)) is not None:
            job = self._blocking._accept(request, options)  # noqa: SLF001 -- the other face
            ring = partial(self._blocking._ring, job=job)  # noqa: SLF001
            return (await sql.insert_awaited(self._shared, given, [job], ring))[0]
        return await to_thread.run_sync(lambda: self._blocking.submit(request, **options))

    submit_many = awaited(Stockpot.submit_many)
    prepare = awaited(Stockpot.prepare)
    get = awaited(Stockpot.get)
    list = awaited(Stockpot.list)
    page = awaited(Stockpot.page)
    usage = awaited(Stockpot.usage)
    failures = awaited(Stockpot.failures)
    usage_bounds = awaited(Stockpot.usage_bounds)
    cancel = awaited(Stockpot.cancel)
    retry = awaited(Stockpot.retry)

    async def waiting(self, job_id: str) -> Waiting | None:
        """As `Stockpot.waiting`."""
        from worker.producer.waiting import waiting

        return await waiting(self._scope, job_id)

    def batch_lines(
        self,
        batch: str,
        *,
        offset: int = 0,
        follow: bool = False,
        order: Order | Literal["file", "ended"] = "ended",
    ) -> AsyncIterator[ResultLine]:
        """As `batches.results`, its newer name."""
        return self.batches.results(batch, offset=offset, follow=follow, order=order)

    def events(self, job_id: str, after: int | str = 0, *, heartbeat: float | None = None) -> Events:
        """As `Stockpot.events`. A step that is cancelled (`asyncio.wait_for(anext(events), 1)`) loses nothing."""
        return self._shared.follower.events(job_id, self.tenant, after_number(after), heartbeat)

    async def wait(self, job_id: str, timeout: float | None = None) -> JobDetail:
        """As `Stockpot.wait`."""
        return await self._shared.follower.wait(job_id, self.tenant, timeout)
