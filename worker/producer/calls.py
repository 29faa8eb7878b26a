"""Calls that come over OpenAI's wire: accepted with their jobs in one transaction, joined by their repeats, read back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import Connection

from api_schemas.jobs import JobDetail, JobRequest
from api_schemas.upstream_errors import UpstreamError, read_error
from worker.base import tracing
from worker.base.errors import NotFound
from worker.db.calls import limits, records, tenants
from worker.db.calls.limits import Refused, Standing
from worker.db.calls.records import Call, Kind, NewCall
from worker.db.jobs import lookup, submit
from worker.producer.faces import awaited
from worker.producer.scope import Scope

__all__ = ["Accepted", "AsyncCalls", "Call", "Calls", "Kind", "NewCall", "Refused", "Standing"]


@dataclass(frozen=True, slots=True)
class Accepted:
    """A call that has its job: `created` is False for a repeat, which has joined the job of its first."""

    job_id: str
    created: bool
    call: Call
    standing: Standing = field(default_factory=Standing)
    first_epoch: int = 0  # what attempts before this one have shown is void


class Calls:
    """The calls of one tenant."""

    def __init__(self, scope: Scope, ring: Callable[[list[str], str], None]) -> None:
        self._scope = scope
        self._settings = scope.settings
        self._tenant = scope.tenant
        self._ring = ring

    def accept(self, job: JobRequest, new: NewCall) -> Accepted:
        """Accept a call with its job, or join the one that it repeats.

        Raises:
            Refused: a limit of its key or its tenant.
            IdempotencyConflict: its idempotency key belongs to another request.
            Unreachable: the database does not answer; nothing was accepted.
        """
        try:
            accepted = self._write(job, new)
        except records.Overtaken:
            accepted = self._write(job, new)
        if isinstance(accepted, Refused):  # what was counted on the way is committed
            raise accepted
        return accepted

    def _write(self, job: JobRequest, new: NewCall) -> Accepted | Refused:
        with tracing.span("stockpot.submit", "producer", {"stockpot.lane": job.lane, "stockpot.jobs": 1}):
            accepted = self._scope.write(lambda conn: self._accept(conn, job, new))
            if isinstance(accepted, Accepted) and accepted.created:
                self._scope.connections.follower.accepted(accepted.job_id, self._tenant)
                self._ring([accepted.job_id], job.lane)
        return accepted

    def _accept(self, conn: Connection, job: JobRequest, new: NewCall) -> Accepted | Refused:
        if (made := records.insert_free(conn, new, job, self._settings)) is not None:
            return Accepted(new.job_id, created=True, call=made)
        repeated = records.find_repeated(conn, new)
        if repeated is not None:
            call = records.get(conn, repeated, tenant=self._tenant, kind=new.kind, stored=False)
            epoch = records.first_epoch(conn, repeated)
            return Accepted(repeated, created=False, call=call, first_epoch=epoch)
        key_id = new.key_id if new.limited else None
        try:
            standing = limits.admit(
                conn, tenant=self._tenant, key_id=key_id, tokens=new.tokens, picousd=new.reserved_picousd
            )
        except Refused as refused:
            return refused
        made = records.insert(conn, new)
        submit.insert(conn, [job], self._settings)
        return Accepted(new.job_id, created=True, call=made, standing=standing)

    def limited(self) -> bool:
        """Whether calls of the tenant are counted, whatever their key."""
        return self._scope.read(lambda conn: tenants.get(conn, self._tenant) is not None)

    def get(self, job_id: str, kind: Kind) -> tuple[Call, JobDetail]:
        """A stored call with its job. Raises NotFound."""
        return self._scope.read(
            lambda conn: (
                records.get(conn, job_id, tenant=self._tenant, kind=kind),
                lookup.job(conn, job_id, tenant=self._tenant),
            )
        )

    def whole(self, call: Call) -> tuple[JobDetail, dict[str, Any] | None]:
        """A call's job with all that came of it, and the body of its request (None once it was purged)."""
        return self._scope.read(
            lambda conn: (
                lookup.job(conn, call.job_id, tenant=self._tenant),
                records.body(conn, call.job_id),
            )
        )

    def refusal(self, job: JobDetail) -> UpstreamError:
        """The provider's answer to the last call of a job that failed; empty where there is none, or it was not kept."""
        bodies = self._scope.read(lambda conn: lookup.error_bodies(conn, job.id))
        last = max((call.attempt for call in job.attempt_log), default=None)
        return UpstreamError() if last is None else read_error(bodies.get(last, "").encode())

    def list(
        self,
        kind: Kind,
        *,
        after: str | None,
        limit: int,
        ascending: bool,
        model: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> tuple[list[tuple[Call, JobDetail]], bool]:
        """One page of stored calls that have their answer, and whether more follow.

        Raises:
            NotFound: there is no call `after`.
        """

        def read(conn: Connection) -> tuple[list[tuple[Call, JobDetail]], bool]:
            if after is not None:
                records.get(conn, after, tenant=self._tenant, kind=kind)
            found = records.page(
                conn,
                tenant=self._tenant,
                kind=kind,
                after=after,
                limit=limit + 1,
                ascending=ascending,
                model=model,
                metadata=metadata,
            )
            page = [(call, lookup.job(conn, call.job_id, tenant=self._tenant)) for call in found[:limit]]
            return page, len(found) > limit

        return self._scope.read(read)

    def set_metadata(self, call: Call, metadata: Mapping[str, str] | None) -> Call:
        """Replace a stored call's metadata."""
        self._scope.write(lambda conn: records.set_metadata(conn, call.job_id, tenant=self._tenant, metadata=metadata))
        return replace(call, metadata=None if metadata is None else dict(metadata))

    def delete(self, job_id: str, kind: Kind) -> None:
        """Forget a call. Raises NotFound."""

        def write(conn: Connection) -> None:
            call = records.get(conn, job_id, tenant=self._tenant, kind=kind)
            if not (call.stored or call.background):
                raise NotFound(f"there is no {kind} of that id")
            records.delete(conn, job_id, tenant=self._tenant)

        self._scope.write(write)


class AsyncCalls:
    """As `Calls`, awaitable."""

    def __init__(self, blocking: Calls) -> None:
        self._blocking = blocking

    accept = awaited(Calls.accept)
    limited = awaited(Calls.limited)
    get = awaited(Calls.get)
    whole = awaited(Calls.whole)
    refusal = awaited(Calls.refusal)
    list = awaited(Calls.list)
    set_metadata = awaited(Calls.set_metadata)
    delete = awaited(Calls.delete)
