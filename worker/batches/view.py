"""A batch as OpenAI's batch object, with our additions behind it."""

from __future__ import annotations

from datetime import datetime
from typing import Any, cast

from api_schemas import jsontext
from api_schemas.batch import Batch, BatchProblems, BatchStatus, BatchUsage, InputDetails, OutputDetails, RequestCounts
from worker.base.money import PICO
from worker.db.batches.records import BatchRow

#: The field with the time at which a batch finished, by its status.
_ENDS = {
    "completed": "completed_at",
    "failed": "failed_at",
    "expired": "expired_at",
    "cancelled": "cancelled_at",
}


def purged(row: BatchRow) -> str | None:
    """What was purged of a batch's lines, and when, in words; None: nothing."""
    marks = (("lines", row.lines_purged_at), ("answers", row.answers_purged_at), ("requests", row.requests_purged_at))
    return ", ".join(f"{name} purged on {at:%Y-%m-%d %H:%M} UTC" for name, at in marks if at is not None) or None


def batch_object(row: BatchRow) -> Batch:
    """The batch object. One that is made by the command has no files: its input is named.

    A cancelled batch whose files are not whole yet is `cancelling`, which is what its client waits at.
    """
    ends: dict[str, Any] = {}
    if row.finished_at is not None:
        ends[_ENDS[row.status]] = _unix(row.finished_at)
    if row.status != "failed":
        ends["finalizing_at"] = _unix(row.finalizing_at or row.finished_at)
    status = "cancelling" if row.status == "finalizing" and row.cancelling_at is not None else row.status
    early = row.input_file_id is not None and row.began_at is None  # it has ended before its lines were imported
    has_errors = row.failed + row.cancelled + row.expired > 0
    return Batch(
        id=row.id,
        endpoint=row.endpoint,
        model=row.model,
        errors=None if row.errors is None else BatchProblems.model_validate_json(row.errors),
        input_file_id=row.input_file_id or row.input_name,
        output_file_id=row.output_file_id,
        error_file_id=row.error_file_id if has_errors else None,
        completion_window=f"{row.window_seconds / 3600:g}h",
        status=cast("BatchStatus", status),
        created_at=int(row.created_at.timestamp()),
        in_progress_at=None if row.status == "validating" or early else _unix(row.began_at or row.due_at),
        expires_at=_unix(row.expires_at),
        cancelling_at=_unix(row.cancelling_at),
        request_counts=RequestCounts(total=row.total, completed=row.completed, failed=row.failed),
        usage=BatchUsage(
            input_tokens=row.input_tokens,
            input_tokens_details=InputDetails(cached_tokens=row.cached_tokens),
            output_tokens=row.output_tokens,
            output_tokens_details=OutputDetails(reasoning_tokens=row.reasoning_tokens),
            total_tokens=row.total_tokens,
        ),
        metadata=None if row.metadata is None else jsontext.loads(row.metadata),
        cost_usd=None if row.cost_usd is None else float(row.cost_usd),
        **ends,
        **_more(row),
    )


def _more(row: BatchRow) -> dict[str, Any]:
    return {
        "tenant": row.tenant,
        "held": row.hold_reason,
        "hold_detail": row.hold_detail,
        "max_cost_usd": None if row.max_cost_picousd is None else float(row.max_cost_picousd / PICO),
        "unpriced": row.unpriced,
        "imported": row.imported,
        "cancelled": row.cancelled,
        "expired": row.expired,
        "calls": row.calls,
        "max_in_flight": row.in_flight_limit,
        "finish_by": _unix(row.finish_by),
        "retry_of": row.retry_of,
        "duplicates": row.duplicates,
        "copied": row.copied,
        "saved_usd": float(row.saved_usd),
        "requests_purged_at": _unix(row.requests_purged_at),
        "answers_purged_at": _unix(row.answers_purged_at),
        "lines_purged_at": _unix(row.lines_purged_at),
    }


def _unix(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.timestamp())
