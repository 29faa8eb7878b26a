"""What comes of a `stockpot.submit` message: the job that it asks for, or a job that has failed.

The message is the job until it stands in the database, and its sender knows the job by its id. So a message that is
no valid request, or whose idempotency key belongs to another one, leaves a failed job under that id, where its sender
looks. Without an id it could not be found: it is logged, and its key stays free for a mended message.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection

from api_schemas import jsontext
from api_schemas.broker import read_broker_message
from api_schemas.errors import InvalidRequest, JobError
from api_schemas.ids import is_job_id
from api_schemas.jobs import JobRequest, parse_job
from api_schemas.text import storable
from worker.base.errors import IdempotencyConflict
from worker.base.settings import Settings
from worker.db.clock import unix_seconds
from worker.db.connect import Database
from worker.db.jobs import submit
from worker.job.consequences import Consequences

#: The codes of jobs that could not be made; their class is `invalid_request`.
INVALID, CONFLICT = "invalid_submission", "idempotency_conflict"
#: Characters of what is wrong that are kept.
_MESSAGE_LENGTH = 2_000
#: What a job that could not be made keeps of its message, where it is right.
_KEPT = ("tenant", "lane", "webhook", "metadata")
#: Stands where a request has its body, for the checks of the other fields.
_NO_BODY = {"model": "none", "input": ""}
_consequences = Consequences()


@dataclass(frozen=True, slots=True)
class Taken:
    """What was made of a message. `error` is why it is not the job that was asked for; `id` None: nothing was made."""

    id: str | None
    created: bool = False
    error: InvalidRequest | IdempotencyConflict | None = None


def take(
    database: Database, job: object, settings: Settings, *, starts: datetime | None = None, ends: datetime | None = None
) -> Taken:
    """Insert what a message asks for. The same message again changes nothing.

    Args:
        starts: Celery's `eta` of the message; counts where the job names no start.
        ends: Celery's `expires`; counts where the job has no time to live of its own.

    Raises:
        Unreachable: the database does not answer; try again.
    """
    try:
        now = None if ends is None else datetime.fromtimestamp(database.read(unix_seconds), UTC)
        request = _timed(read_broker_message(job, max_bytes=settings.max_request_bytes), starts, ends, now)
        done = database.write(lambda conn: submit.insert(conn, [request], settings))[0]
    except (InvalidRequest, IdempotencyConflict) as error:
        return _refuse(database, job, settings, error)
    return Taken(done.id, done.created)


def _timed(request: JobRequest, starts: datetime | None, ends: datetime | None, now: datetime | None) -> JobRequest:
    """The request with the message's times; `now` is the database's where the message ends."""
    changed: dict[str, Any] = {}
    if starts is not None and request.not_before is None and request.delay_seconds is None:
        changed["not_before"] = starts
    if ends is not None and now is not None and request.ttl_seconds is None:
        # The time to live begins with the job's start. One that is over by now is ended by the next sweep, as `expired`.
        begin = max(now, starts or now)
        changed["ttl_seconds"] = max(0.001, (ends - begin).total_seconds())
    return parse_job(request, **changed) if changed else request


def _refuse(database: Database, job: object, settings: Settings, error: InvalidRequest | IdempotencyConflict) -> Taken:
    given = _document(job)
    if not is_job_id(given.get("id")):
        return Taken(None, error=error)
    kept = _kept(given)
    code = CONFLICT if isinstance(error, IdempotencyConflict) else INVALID
    why = JobError(error_class="invalid_request", code=code, message=storable(str(error))[:_MESSAGE_LENGTH])

    def write(conn: Connection) -> bool:
        ended = submit.insert_failed(conn, kept, why, settings)
        if ended is not None:
            _consequences.write(conn, [ended])
        return ended is not None

    return Taken(kept.id, database.write(write), error)


def _document(job: object) -> Mapping[str, Any]:
    if isinstance(job, str):
        try:
            job = jsontext.loads(job)
        except ValueError:
            return {}
    return job if isinstance(job, Mapping) else {}


def _kept(given: Mapping[str, Any]) -> JobRequest:
    """A request with the message's id and the fields of `_KEPT` that are right."""
    kept: dict[str, Any] = {"id": given["id"], "endpoint": "/v1/responses", "body": _NO_BODY}
    for name in _KEPT:
        if name in given:
            try:
                parse_job({**kept, name: given[name]})
            except InvalidRequest:
                continue
            kept[name] = given[name]
    return parse_job(kept)
