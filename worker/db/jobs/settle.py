"""Settle: write what became of claimed jobs, a slice at a time, each under its own fence, in one transaction.

One settlement closes the attempt row (`counted`: its use is in `usage_days` with this transaction's commit) and moves the job to a terminal state or back to `queued`; the result and the
webhook outbox rows are written in the same transaction. A settlement whose fence is old finds no row: its worker had
lost the lease, and another worker owns the job now. Settling twice is safe: the second time finds its own mark.
A job that the sweeper has put back and no worker has claimed since has no other owner: the answer of its last
claim is taken all the same (`reinstate`), since it was paid for.
A job that goes back to `queued` although its cancellation was asked for has no time left: `leases.expire` ends it.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, cast

from sqlalchemy import Connection, TextClause, text

from api_schemas.errors import ErrorClass, JobError
from api_schemas.text import storable
from api_schemas.usage import Usage
from worker.base.money import picousd
from worker.base.payloads import CLEAR, Payloads
from worker.db.clock import after_sql, day_sql, is_postgres, now_sql
from worker.db.jobs import answers, usage_days
from worker.db.jobs.ledger import DUE
from worker.db.jobs.tables import attempts, jobs
from worker.db.payloads import of as payloads_of
from worker.db.recordset import column_types, records, recordset


@dataclass(frozen=True, slots=True)
class Settlement:
    """What became of one claim. `status` is the job's next state: a terminal one, or `queued` to be tried again."""

    job_id: str
    fence: int
    attempt: int
    status: str
    outcome: str  # the attempt's: completed, busy, retryable, partial, ambiguous, cancelled, released, …
    spent: bool = True  # False: a 429 or a pause is no failure, and costs no attempt
    called: bool = True  # False: nothing was sent; the attempt row goes, its number is free again
    due_in: float = 0.0  # seconds until the job is due again, for `queued`
    waiting_on: str | None = None
    seq: int = 0  # the place of the terminal event in its block of numbers (`event_numbers`)
    error_class: str | None = None
    error_code: str | None = None
    error_message: str | None = None
    error_status: int | None = None
    error_body: str | None = None
    finish_reason: str | None = None
    response: str | None = None
    text: str | None = None
    provider_id: str | None = None
    model: str | None = None
    inference_id: str | None = None
    request_id: str | None = None
    usage: Usage | None = None
    cost_usd: Decimal | None = None
    cost_source: str | None = None
    first_token_seconds: float | None = None
    total_seconds: float | None = None
    partial_text: str | None = None
    guessed: bool = False  # its cost is a guess, not made from its tokens
    owed: bool = False  # it was sent, and the provider has not stated its cost: to be looked up in its log

    @property
    def terminal(self) -> bool:
        """Whether the job is over."""
        return self.status != "queued"

    @property
    def error(self) -> JobError | None:
        """Why the job, or this call of it, did not complete."""
        if self.error_class is None:
            return None
        return JobError(
            error_class=cast("ErrorClass", self.error_class),
            code=self.error_code,
            message=self.error_message or self.error_class,
            status=self.error_status,
        )

    def row(self, payloads: Payloads = CLEAR) -> dict[str, Any]:
        """The bound parameters of the statements below; text is made storable (no NUL, no lone surrogate)."""
        usage = self.usage
        result, call = self.job_id, f"{self.job_id}.{self.attempt}"
        return {
            "id": self.job_id,
            "fence": self.fence,
            "attempt": self.attempt,
            "status": self.status,
            "outcome": self.outcome,
            "refund": 0 if self.spent else 1,
            "uncall": 0 if self.called else 1,
            "due_in": self.due_in,
            "waiting_on": self.waiting_on,
            "seq": self.seq,
            "error_class": self.error_class,
            "error_code": _clean(self.error_code),
            "error_message": _clean(self.error_message),
            "error_status": self.error_status,
            "error_body": payloads.seal(_clean(self.error_body), f"attempts.error_body:{call}"),
            "finish_reason": _clean(self.finish_reason),
            "response": payloads.seal_json(self.response, f"results.response:{result}"),
            "answer": payloads.seal(_clean(self.text), f"results.text:{result}"),
            "readable": int(self.text is not None and answers.readable(self.response)),
            "provider_id": _clean(self.provider_id),
            "model": _clean(self.model),
            "inference_id": _clean(self.inference_id),
            "request_id": _clean(self.request_id),
            "input_tokens": usage.input_tokens if usage else None,
            "cached_tokens": usage.cached_tokens if usage else None,
            "output_tokens": usage.output_tokens if usage else None,
            "reasoning_tokens": usage.reasoning_tokens if usage else None,
            "total_tokens": usage.total_tokens if usage else None,
            "cost_picousd": picousd(self.cost_usd),
            "cost_source": self.cost_source,
            "first_token_seconds": self.first_token_seconds,
            "total_seconds": self.total_seconds,
            "partial_text": payloads.seal(_clean(self.partial_text), f"attempts.partial_text:{call}"),
            "reconciled": DUE if self.owed else None,
        }


def _clean(value: str | None) -> str | None:
    return None if value is None else storable(value)


#: The columns of a settlement's row with their PostgreSQL types: those of the ledger, of the job's error, and its own.
_OWN_TYPES = {
    "id": "text",
    "fence": "int",
    "attempt": "int",
    "status": "text",
    "refund": "int",
    "uncall": "int",
    "due_in": "float8",
    "seq": "int",
    "response": "text",
    "answer": "text",
    "readable": "int",
    "provider_id": "text",
    "model": "text",
}
_LEDGER = (
    "outcome, error_class, error_code, error_message, error_body, inference_id, request_id, input_tokens,"
    " cached_tokens, output_tokens, reasoning_tokens, total_tokens, cost_picousd, cost_source, first_token_seconds,"
    " total_seconds, partial_text, reconciled"
).split(", ")
_ERROR = ["error_class", "error_code", "error_message", "error_status"]
_STATE = ["finish_reason", "waiting_on"]
_TYPES = _OWN_TYPES | column_types(attempts, _LEDGER) | column_types(jobs, _ERROR + _STATE)


def _assigned(given: str, own: str) -> str:
    """What a settlement writes to a job. One that goes back without a call keeps the error of its last one."""
    kept = [
        f"{name} = CASE WHEN {given}uncall = 1 AND {given}status = 'queued' THEN {own}{name} ELSE {given}{name} END"
        for name in _ERROR
    ]
    return ", ".join([*kept, *(f"{name} = {given}{name}" for name in _STATE)])


def settle(conn: Connection, settlements: Sequence[Settlement]) -> set[str]:
    """Write a slice of settlements; the ids of those that were (or had already been) written.

    An id that is missing in the answer was fenced off. The caller commits.
    """
    written = set(write(conn, settlements))
    return written | already(conn, [one for one in settlements if one.job_id not in written])


def write(conn: Connection, settlements: Sequence[Settlement]) -> dict[str, int]:
    """Write a slice of settlements; those that were written now, and how many lines each job answers.

    The caller commits.
    """
    if not settlements:
        return {}  # the statement costs 2 ms whatever it is given
    payloads = payloads_of(conn)
    rows = [settlement.row(payloads) for settlement in settlements]
    return _postgres(conn, rows) if is_postgres(conn) else _sqlite(conn, rows)


def already(conn: Connection, settlements: Sequence[Settlement]) -> set[str]:
    """Those that an earlier try had committed although its acknowledgement was lost (RELIABILITY D1).

    The mark is the attempt row itself, closed with our outcome under our fence; a sweeper's mark is `lost`.
    """
    mark = text(
        "SELECT 1 FROM attempts WHERE job_id = :id AND attempt = :attempt AND fence = :fence AND outcome = :outcome"
    )
    rows = [settlement.row() for settlement in settlements]
    return {row["id"] for row in rows if not row["uncall"] and conn.execute(mark, row).first() is not None}


@dataclass(frozen=True, slots=True)
class Reinstated:
    """A claim that is in force again; what was counted as the cost of its call, and on which UTC day, if anything."""

    settlement: Settlement
    counted: tuple[int, str] | None


def reinstate(conn: Connection, settlements: Sequence[Settlement]) -> list[Reinstated]:
    """Put claims back into force that the sweeper took for lost and no worker has claimed since: then `write` takes them.

    The caller commits.
    """
    now = now_sql(conn)
    lost = "job_id = :id AND attempt = :attempt AND fence = :fence AND outcome = 'lost'"
    back: list[Reinstated] = []
    for one in sorted(settlements, key=lambda one: one.job_id):  # a look-up locks several calls in this order, too
        key = {"id": one.job_id, "fence": one.fence, "attempt": one.attempt}
        moved = conn.execute(
            text(f"""
            UPDATE jobs SET status = 'in_progress', lease_owner = 'settling', lease_until = {now}
            WHERE id = :id AND fence = :fence AND status = 'queued' AND EXISTS (SELECT 1 FROM attempts WHERE {lost})
            """),
            key,
        ).rowcount
        if moved:
            # Locked: a look-up that is being written would replace the cost between this reading and the next statement.
            locked = "FOR UPDATE" if is_postgres(conn) else ""
            counted = f"SELECT cost_picousd, {day_sql(conn, 'finished_at')} AS day FROM attempts WHERE {lost} {locked}"
            row = conn.execute(text(counted), key).one()
            usage_days.count(conn, [(one.job_id, one.attempt)], sign=-1)
            conn.execute(
                text(f"""
                UPDATE attempts SET outcome = 'running', finished_at = NULL, reconciled = NULL, cost_picousd = NULL,
                    cost_source = NULL, counted = NULL WHERE {lost}
                """),
                key,
            )
            back.append(Reinstated(one, None if row.cost_picousd is None else (int(row.cost_picousd), row.day)))
    return back


_POSTGRES = f"""
    WITH given AS (SELECT * FROM {recordset("rows", _TYPES)}),
    done AS (
        UPDATE jobs AS j SET status = g.status, lease_owner = NULL, lease_until = NULL,
            finished_at = CASE WHEN g.status = 'queued' THEN NULL ELSE {{now}} END,
            due_at = CASE WHEN g.status = 'queued' THEN {{due}} ELSE j.due_at END,
            expires_at = CASE WHEN g.status = 'queued' AND j.cancel_requested_at IS NOT NULL THEN {{now}}
                ELSE j.expires_at END,
            attempts = j.attempts - g.refund, calls = j.calls - g.uncall, seq = g.seq,
            {_assigned("g.", "j.")}
        FROM given AS g WHERE j.id = g.id AND j.fence = g.fence AND j.status || '' = 'in_progress'
        RETURNING j.id, j.fence, j.answers
    ), ledger AS (
        UPDATE attempts AS a SET finished_at = {{now}}, status_code = g.error_status,
            {", ".join(f"{name} = g.{name}" for name in _LEDGER)},
            counted = CASE WHEN g.total_tokens IS NOT NULL OR g.cost_picousd IS NOT NULL THEN true END
        FROM given AS g JOIN done USING (id, fence)
        WHERE a.job_id = g.id AND a.attempt = g.attempt AND g.uncall = 0
    ), unsent AS (
        DELETE FROM attempts AS a USING given AS g JOIN done USING (id, fence)
        WHERE a.job_id = g.id AND a.attempt = g.attempt AND g.uncall = 1
    ), stored AS (
        INSERT INTO results (job_id, response, text, provider_id, model, text_in_response)
        SELECT id, CAST(response AS json), CASE WHEN once THEN '' ELSE COALESCE(answer, '') END, provider_id, model,
            CASE WHEN once THEN true END
        FROM (
            SELECT g.*, {{once}} AS once FROM given AS g JOIN done USING (id, fence)
            WHERE g.status <> 'queued' AND (g.response IS NOT NULL OR g.answer IS NOT NULL)
        ) AS answered
    )
    SELECT id, answers FROM done
"""


def _postgres(conn: Connection, rows: list[dict[str, Any]]) -> dict[str, int]:
    statement = _statement(now_sql(conn), after_sql(conn, "g.due_in"), answers.once_sql(conn, "g."))
    return {row[0]: row[1] for row in conn.execute(statement, {"rows": records(rows)})}


@functools.cache
def _statement(now: str, due: str, once: str) -> TextClause:
    return text(_POSTGRES.format(now=now, due=due, once=once))


def _sqlite(conn: Connection, rows: list[dict[str, Any]]) -> dict[str, int]:
    now = now_sql(conn)
    move = text(f"""
        UPDATE jobs SET status = :status, lease_owner = NULL, lease_until = NULL,
            finished_at = CASE WHEN :status = 'queued' THEN NULL ELSE {now} END,
            due_at = CASE WHEN :status = 'queued' THEN {after_sql(conn, ":due_in")} ELSE due_at END,
            expires_at = CASE WHEN :status = 'queued' AND cancel_requested_at IS NOT NULL THEN {now}
                ELSE expires_at END,
            attempts = attempts - :refund, calls = calls - :uncall, seq = :seq,
            {_assigned(":", "")}
        WHERE id = :id AND fence = :fence AND status = 'in_progress'
        RETURNING answers
    """)
    ledger = text(f"""
        UPDATE attempts SET finished_at = {now}, status_code = :error_status,
            {", ".join(f"{name} = :{name}" for name in _LEDGER)},
            counted = CASE WHEN :total_tokens IS NOT NULL OR :cost_picousd IS NOT NULL THEN true END
        WHERE job_id = :id AND attempt = :attempt
    """)
    unsent = text("DELETE FROM attempts WHERE job_id = :id AND attempt = :attempt")
    once = answers.once_sql(conn, ":")
    stored = text(f"""
        INSERT INTO results (job_id, response, text, provider_id, model, text_in_response)
        SELECT :id, :response, CASE WHEN once THEN '' ELSE COALESCE(:answer, '') END, :provider_id, :model,
            CASE WHEN once THEN true END
        FROM (SELECT {once} AS once) AS answered
    """)
    written: dict[str, int] = {}
    done = []
    for row in rows:
        answered = conn.execute(move, row).scalar()
        if answered is not None:
            written[row["id"]] = answered
            done.append(row)
    called = [row for row in done if not row["uncall"]]
    if called:
        conn.execute(ledger, called)
    never = [row for row in done if row["uncall"]]
    if never:
        conn.execute(unsent, never)
    whole = [
        row for row in done if row["status"] != "queued" and (row["response"] is not None or row["answer"] is not None)
    ]
    if whole:
        conn.execute(stored, whole)
    return written
