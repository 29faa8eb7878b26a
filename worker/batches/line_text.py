"""A line that is over as OpenAI's files have it.

completed                       output file: `response` with status 200 and the answer
failed, the upstream refused    error file: `response` with its status and body, and the same in `error`: some readers
                                look there first, others only
failed in another way           error file: `error` with a code (`timeout`, `truncated`, `poison`, …)
completed, and purged           error file: `answer_purged`
never ran                       error file: `batch_expired` or `batch_cancelled`, in OpenAI's words
"""

from __future__ import annotations

import contextlib
from typing import Any

from api_schemas import jsontext
from api_schemas.batch import error_line, output_line
from api_schemas.ids import JOB
from worker.db.batches.export import FinishedLine

LINE_ID = "batch_req_"


def is_answered(line: FinishedLine) -> bool:
    """Whether a line belongs into the output file; all others belong into the error file."""
    return line.status == "completed" and line.response is not None


def answered(line: FinishedLine) -> bytes:
    """A line of the output file."""
    return output_line(
        line_id=_line_id(line),
        custom_id=line.custom_id,
        status=line.status_code or 200,
        request_id=line.request_id,
        body=(line.response or "null").encode(),
    )


def not_answered(line: FinishedLine) -> bytes:
    """A line of the error file."""
    never = {"expired": "batch_expired", "cancelled": "batch_cancelled"}.get(line.status)
    if never is not None:
        return error_line(line_id=_line_id(line), custom_id=line.custom_id, code=never)
    if line.status == "completed":  # its answer was purged
        message = "This request was answered; the answer was purged."
        return error_line(line_id=_line_id(line), custom_id=line.custom_id, code="answer_purged", message=message)
    code = line.error_code or line.error_class or "failed"
    if line.status_code is not None and line.status_code >= 400:
        body = _error_body(line)
        return output_line(
            line_id=_line_id(line),
            custom_id=line.custom_id,
            status=line.status_code,
            request_id=line.request_id,
            body=jsontext.dumps(body),
            error={"code": str(body["error"].get("code") or code), "message": str(body["error"].get("message") or "")},
        )
    return error_line(line_id=_line_id(line), custom_id=line.custom_id, code=code, message=line.error_message)


def _error_body(line: FinishedLine) -> dict[str, Any]:
    """The upstream's own words if they are a JSON object, with an `error` in OpenAI's shape if they have none."""
    body: Any = None
    if line.error_body:
        with contextlib.suppress(ValueError):
            body = jsontext.loads(line.error_body)
    found: dict[str, Any] = body if isinstance(body, dict) else {}
    if not isinstance(found.get("error"), dict):
        error = {"message": line.error_message or "", "type": line.error_class, "param": None, "code": line.error_code}
        found = {**found, "error": error}
    return found


def _line_id(line: FinishedLine) -> str:
    """The job's id; a copy's has its line behind it, so that each is there once."""
    copy = "" if line.line == line.first_line else f"_{line.line}"
    return LINE_ID + line.job_id.removeprefix(JOB) + copy
