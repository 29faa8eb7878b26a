"""For producers: submit, follow, wait, cancel, retry. `Stockpot` blocks, `AsyncStockpot` awaits; the verbs are the same.

What concerns batches, webhooks, budgets and routes has objects of its own: `pot.batches`, `pot.webhooks`, `pot.budgets`,
`pot.routes`. A submission is one transaction: when `submit` returns, the job is a promise. The doorbell is rung afterwards, by a
thread of its own; a Redis that is frozen or absent delays nothing. All producers of a process share their connections
(see `connections`), so one for each tenant costs nothing.

Importing this module costs what checking a request needs; the database's part (`sql`) is imported with the first producer.
What is only needed to follow a job, or for batches, webhooks and the like, is imported when it is first used
(`tests/unit/test_imports.py`).
"""

from __future__ import annotations

import builtins
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, Self, Unpack, cast

from api_schemas.argument_types import check_types, typed
from api_schemas.errors import ErrorClass, FieldProblem
from api_schemas.event_numbers import after_number
from api_schemas.job_views import PAGE
from api_schemas.jobs import Job, JobDetail, JobOptions, JobRequest, Lane, Request, Status, check_tenant, parse_job
from worker.base import log, tracing
from worker.base.errors import InvalidRequest
from worker.base.later import later
from worker.base.settings import Settings
from worker.base.settings import settings as process_settings
from worker.producer.streams import Streams

if TYPE_CHECKING:
    from sqlalchemy.orm import Session, scoped_session

    from worker.batches.results import Order, ResultLine
    from worker.db.jobs.failures import Failures
    from worker.db.jobs.listing import Filters, Page
    from worker.db.jobs.submit import Submitted
    from worker.db.jobs.usage import Bounds, UsageRow
    from worker.producer import sql
    from worker.producer.batches import Batches
    from worker.producer.budgets import Budgets
    from worker.producer.calls import Calls
    from worker.producer.files import Files
    from worker.producer.keys import Keys
    from worker.producer.loop import Loop
    from worker.producer.reader import Follower
    from worker.producer.routes import Routes
    from worker.producer.waiting import Waiting
    from worker.producer.webhooks import Webhooks
else:
    sql = later("worker.producer.sql")

#: Jobs in one transaction of `submit_many`: large enough to share a commit, small enough to lose nothing on Ctrl-C.
SLICE = 500


@typed
class Stockpot(Streams):
    """The blocking face. Safe to share between threads; use it as a context manager or call `close`.

    Args:
        settings: where the database and Redis are; read from the environment when left out.
        tenant: whose jobs these are; it scopes keys, limits, webhooks and every query.

    Attributes:
        batches: files of requests.
        files: files that all workers see.
        webhooks: endpoints, their secrets, the delivery log.
        budgets: what tenants may cost.
        routes: the limits of each model; they are no tenant's.
    """

    def __init__(self, settings: Settings | None = None, *, tenant: str = "default") -> None:
        self.settings = settings or process_settings()
        log.configure_library(self.settings.log_level)
        self.tenant = check_tenant(tenant)
        self._shared = sql.acquire(self.settings)
        self._unwatch = sql.watch(self, self._shared)
        self._scope = sql.Scope(self._shared, self.tenant)

    @cached_property
    def batches(self) -> Batches:  # noqa: D102 -- the class names it
        from worker.producer.batches import Batches

        return Batches(self._scope)

    @cached_property
    def files(self) -> Files:  # noqa: D102
        from worker.producer.files import Files

        return Files(self._scope)

    @cached_property
    def webhooks(self) -> Webhooks:  # noqa: D102
        from worker.producer.webhooks import Webhooks

        return Webhooks(self._scope)

    @cached_property
    def budgets(self) -> Budgets:  # noqa: D102
        from worker.producer.budgets import Budgets

        return Budgets(self._scope)

    @cached_property
    def routes(self) -> Routes:  # noqa: D102
        from worker.producer.routes import Routes

        return Routes(self._scope)

    @property
    def calls(self) -> Calls:
        """This tenant's calls over OpenAI's wire, for the gateway."""
        from worker.producer.calls import Calls

        return Calls(self._scope, self._shared.doorbell.ring)

    @property
    def keys(self) -> Keys:
        """The keys of the gateway, of all tenants."""
        from worker.producer.keys import Keys

        return Keys(self._shared)

    @property
    def follower(self) -> Follower:
        """What reads live events for all producers of the process; another one after a `fork`."""
        return self._shared.follower

    def _reading(self) -> Loop:
        return self._shared.loop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the connections back. The last producer of the process closes them; what doorbells wait is sent first."""
        if self._unwatch() is not None:  # not yet closed
            self._shared.release()

    def for_tenant(self, tenant: str) -> Stockpot:
        """The same for another tenant; all connections are shared. Raises InvalidRequest."""
        return Stockpot(self.settings, tenant=tenant)

    def end_readers(self) -> None:
        """End every reader of this process at its next step, whatever tenant it reads for; the jobs go on.

        `events` ends without a terminal event, and goes on from its last number when called again; `wait` raises
        WaitTimeout. The end of the process does it by itself.
        """
        self._shared.end_readers()

    # ── submit ───────────────────────────────────────────────────────────────────────────────────────────────────

    def submit(
        self,
        request: Request,
        *,
        session: Session | scoped_session[Any] | None = None,
        connection: Any = None,
        **options: Unpack[JobOptions],
    ) -> Submitted:
        """Submit one completion request: a chat completions or responses body, or a whole `JobRequest`.

        With `session` or `connection` the job is inserted in the caller's own transaction: it exists when that
        commits, and never if it is rolled back.

        Args:
            session: SQLAlchemy's.
            connection: SQLAlchemy's, Django's, or a driver's: psycopg, psycopg2, sqlite3.
            options: the fields of `JobRequest`.

        Raises:
            InvalidRequest: every problem of the request, by field.
            IdempotencyConflict: the key belongs to a request with another body.
            Unreachable: the database does not answer; nothing was accepted.
            NotAllowed: the connection is in no transaction; or, on SQLite, a transaction of this process's own holds
                the database, and no connection was given.
            TypeError: an option that there is not, or a connection of a kind that Stockpot does not know.
        """
        job = self._accept(request, options)
        if (given := sql.one_of(session, connection)) is not None:
            return sql.insert_in(self._shared, given, [job], lambda done: self._ring(done, job))[0]
        with tracing.span("stockpot.submit", "producer", {"stockpot.lane": job.lane, "stockpot.jobs": 1}):
            done = self._scope.write(lambda conn: sql.insert(conn, [job], self.settings))[0]
            self._ring([done], job)
        if done.created:
            self._shared.follower.accepted(done.id, self.tenant)
        return done

    def submit_many(self, requests: Iterable[Request], **options: Unpack[JobOptions]) -> builtins.list[str]:
        """Submit many requests, `SLICE` to a transaction, one doorbell per slice; the job ids, in order.

        Bulk lane unless `lane` is given. A request that cannot be accepted stops the run at its slice: those
        before it are accepted, and the error's message counts them.

        Raises:
            InvalidRequest, IdempotencyConflict, Unreachable, TypeError: as `submit`.
        """
        if options.get("lane") is None:
            options["lane"] = "bulk"
        ids: builtins.list[str] = []
        rest = iter(requests)
        while slice_ := builtins.list(islice(rest, SLICE)):
            try:
                jobs = [self._accept(one, options) for one in slice_]
                facts: dict[str, tracing.Value] = {"stockpot.lane": jobs[0].lane, "stockpot.jobs": len(jobs)}
                with tracing.span("stockpot.submit", "producer", facts):
                    done = self._scope.write(lambda conn, jobs=jobs: sql.insert(conn, jobs, self.settings))  # type: ignore[misc]
                    self._ring(done, jobs[0])
            except Exception as error:
                error.add_note(f"{len(ids):,} requests before this slice of {len(slice_)} were accepted")
                raise
            ids += [one.id for one in done]
        return ids

    def _accept(self, request: Request, options: JobOptions) -> JobRequest:
        """A job of this producer's tenant; one that names another is refused, since it could not read it again."""
        job = parse_job(request, max_bytes=self.settings.max_request_bytes, **options)
        given = request if isinstance(request, JobRequest) else job
        if "tenant" not in given.model_fields_set and options.get("tenant") is None:
            return job.model_copy(update={"tenant": self.tenant})
        if job.tenant != self.tenant:
            raise InvalidRequest([FieldProblem(field="tenant", message=f"this producer's tenant is {self.tenant!r}")])
        return job

    def _ring(self, done: Sequence[Submitted], job: JobRequest) -> None:
        if job.delay_seconds or job.not_before is not None:
            return  # due later; the workers' own look finds it then
        self._shared.doorbell.ring([one.id for one in done if one.created], job.lane)

    def prepare(self) -> None:
        """Make sure that the database can be used; every verb does it first. Raises Unreachable."""
        self._shared.prepare()

    # ── read ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def get(self, job_id: str, *, all_tenants: bool = False) -> JobDetail:
        """A job with its response, usage, cost, error and attempts: of this tenant, or of any. Raises NotFound, Unreachable."""
        tenant = None if all_tenants else self.tenant
        return self._scope.read(lambda conn: sql.lookup.job(conn, job_id, tenant=tenant))

    def waiting(self, job_id: str) -> Waiting | None:
        """Why a job is not over, in words, and when that is looked at again; None when it is. Raises NotFound, Unreachable."""
        from worker.producer.waiting import waiting

        self.prepare()
        return self._shared.loop().call(waiting, self._scope, job_id)

    def list(
        self,
        *,
        status: Status | None = None,
        lane: Lane | None = None,
        batch: str | None = None,
        model: str | None = None,
        error_class: ErrorClass | None = None,
        since: datetime | None = None,
        limit: int = PAGE,
        before: str | None = None,
    ) -> builtins.list[Job]:
        """Jobs, newest first; `before` is the id that the page before ended with. Raises Unreachable."""
        return self._scope.read(
            lambda conn: sql.listing.jobs(
                conn,
                tenant=self.tenant,
                status=status,
                lane=lane,
                batch=batch,
                model=model,
                error_class=error_class,
                since=since,
                limit=limit,
                before=before,
            )
        )

    def page(
        self,
        *,
        limit: int = PAGE,
        before: str | None = None,
        all_tenants: bool = False,
        **filters: Unpack[Filters],
    ) -> Page:
        """One page of jobs of this tenant, or of all, newest first, and `next` to go on from as `before`. Raises Unreachable.

        It costs the same however seldom the filters match: a page may be short, or empty, and have a next one.
        """
        check_types(filters, sql.listing.Filters)
        return self._scope.read(
            lambda conn: sql.listing.page(
                conn, tenant=None if all_tenants else self.tenant, limit=limit, before=before, **filters
            )
        )

    def usage(
        self,
        *,
        by: Sequence[str] = (),
        since: datetime | None = None,
        until: datetime | None = None,
        timed: bool = False,
        all_tenants: bool = False,
    ) -> Sequence[UsageRow]:
        """Tokens and cost, summed by day, month, model, lane, tenant, batch, job, status and more.

        Of this tenant, or of all. Days are UTC; what reaches further back than two begins and ends with whole ones.

        Args:
            by: also `error_class`, `owner` (the worker that called), `metadata.KEY`.
            timed: with the median and the 95th percentile of how long the newest calls took.

        Raises InvalidRequest, Unreachable.
        """
        tenant = None if all_tenants else self.tenant
        return self._scope.read(
            lambda conn: sql.usage.usage(conn, tenant=tenant, by=by, since=since, until=until, timed=timed)
        )

    def usage_bounds(
        self, *, by: Sequence[str] = (), since: datetime | None = None, until: datetime | None = None
    ) -> Bounds:
        """What `usage` covers of what it is asked for: where it ends, and from when on it has all calls."""
        return self._scope.read(lambda conn: sql.usage.bounds(conn, by, since, until))

    def failures(self, *, since: datetime | None = None, all_tenants: bool = False) -> Failures:
        """The jobs made since then that failed or expired, grouped by why. Of this tenant, or of all."""
        tenant = None if all_tenants else self.tenant
        return self._scope.read(lambda conn: sql.failures(conn, tenant=tenant, since=since))

    def batch_lines(
        self,
        batch: str,
        *,
        offset: int = 0,
        follow: bool = False,
        order: Order | Literal["file", "ended"] = "ended",
    ) -> Iterator[ResultLine]:
        """As `batches.results`, its newer name."""
        return self.batches.results(batch, offset=offset, follow=follow, order=order)

    # ── change ───────────────────────────────────────────────────────────────────────────────────────────────────

    def cancel(self, job_id: str) -> Status:
        """Cancel a job; its new status: `cancelled`, or `in_progress` while its worker closes the connection.

        Raises:
            NotFound: no such job of this tenant.
            NotAllowed: it is finished in another way.
        """

        def write(conn: Any) -> sql.cancel.Cancelled:
            done = sql.cancel.cancel(conn, job_id, tenant=self.tenant)
            self._shared.consequences.write(conn, [] if done.ended is None else [done.ended])
            return done

        done = self._scope.write(write)
        if done.changed:
            from worker.producer.cancellation import announce_cancelled

            announce_cancelled(self.settings, done)
        return cast("Status", done.status)

    def retry(self, job_id: str) -> None:
        """Queue a failed, cancelled or expired job again. Raises NotFound, NotAllowed."""
        ttl = self.settings.job_ttl_seconds
        lane = self._scope.write(lambda conn: sql.cancel.retry(conn, job_id, tenant=self.tenant, ttl=ttl))
        self._shared.doorbell.ring([job_id], lane)

    # ── follow ───────────────────────────────────────────────────────────────────────────────────────────────────

    def events(self, job_id: str, after: int | str = 0, *, heartbeat: float | None = None) -> Iterator[dict[str, Any]]:
        """A job's live events after number `after`, from the log and then live, ending with the terminal event.

        With `heartbeat` an event of type `heartbeat`, without a number, comes after so many seconds of silence.

        Raises InvalidRequest (`after` is no number), NotFound, Unreachable.
        """
        self.prepare()
        yield from self._shared.loop().iterate(
            self._shared.follower.events(job_id, self.tenant, after_number(after), heartbeat)
        )

    def wait(self, job_id: str, timeout: float | None = None) -> JobDetail:
        """Wait until a job is over. Raises WaitTimeout after `timeout` seconds (the job goes on), NotFound."""
        self.prepare()
        return self._shared.loop().call(self._shared.follower.wait, job_id, self.tenant, timeout)
