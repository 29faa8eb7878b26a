"""Batch files and the batch object, in OpenAI's format.

Source: OpenAI's batch guide and its SDK's `types/batch.py`. Unlike OpenAI's, a file may mix models and endpoints.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, Self, cast

from pydantic import BaseModel, ConfigDict, Field

from api_schemas import jsontext
from api_schemas.bodies import EXPECTED, Endpoint, body_problems
from api_schemas.errors import FieldProblem, InvalidRequest
from api_schemas.jobs import MAX_REQUEST_BYTES, parse_document
from api_schemas.plain import plain_body, plain_document
from api_schemas.problems import got

BatchStatus = Literal[
    "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"
]
MAX_CUSTOM_ID = 512
"""Characters of a custom_id: longer than any id, short enough for a unique index on every database."""

NEVER_RAN = {
    "batch_expired": "This request could not be executed before the completion window expired.",
    "batch_cancelled": "This request was not executed because the batch was cancelled.",
}
"""Error codes of requests that never ran, with OpenAI's own words."""


class BatchLine(NamedTuple):
    """One valid line of an input file. `number` counts from 1."""

    number: int
    custom_id: str
    endpoint: Endpoint
    body: dict[str, Any]

    @classmethod
    def read(cls, line: bytes, number: int, *, max_bytes: int = MAX_REQUEST_BYTES) -> Self | list[FieldProblem]:
        """Read one line: the line, or everything that is wrong with it. Never raises."""
        plain = plain_document(line) if len(line) <= max_bytes else None
        if plain is not None:
            custom_id, url, body = plain.get("custom_id"), plain.get("url"), plain.get("body")
            named = type(custom_id) is str and 0 < len(custom_id) <= MAX_CUSTOM_ID and plain.get("method") == "POST"
            if named and plain_body(url, body):
                return cls(number, cast("str", custom_id), cast("Endpoint", url), cast("dict[str, Any]", body))
        return cls._read_fully(line, number, max_bytes)

    @classmethod
    def _read_fully(cls, line: bytes, number: int, max_bytes: int) -> Self | list[FieldProblem]:
        try:
            document = parse_document(line, max_bytes=max_bytes)
        except InvalidRequest as error:
            return error.problems
        custom_id, body, url = (document.get("custom_id"), document.get("body"), document.get("url"))
        problems: list[FieldProblem] = []
        if not isinstance(custom_id, str) or not 0 < len(custom_id) <= MAX_CUSTOM_ID:
            message = f"expected a string of 1 to {MAX_CUSTOM_ID} characters, {_given(document, 'custom_id')}"
            problems.append(FieldProblem(field="custom_id", message=message))
        if document.get("method") != "POST":
            problems.append(FieldProblem(field="method", message=f'expected "POST", {_given(document, "method")}'))
        if url is None:
            problems.append(FieldProblem(field="url", message=f"missing; give {EXPECTED}"))
        if not isinstance(body, dict):
            message = f"expected an object, {_given(document, 'body')}"
            problems.append(FieldProblem(field="body", message=message))
        elif url is not None:
            found = body_problems(url, body, "body")
            problems += [FieldProblem(field="url", message=p.message) if p.field == "endpoint" else p for p in found]
        if problems:
            return problems
        return cls(number, cast("str", custom_id), cast("Endpoint", url), cast("dict[str, Any]", body))


def _given(document: dict[str, Any], name: str) -> str:
    return f"got {got(document[name])}" if name in document else "but it is missing"


#: What Python's `str.splitlines` and many line readers take for line ends, and JSON may hold raw within strings.
_LINE_ENDS = ((b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"), (b"\xc2\x85", b"\\u0085"))


def one_line(line: bytes) -> bytes:
    """A line of JSON that every reader takes for one line: Unicode's other line ends are escaped (only strings have them)."""
    for raw, escaped in _LINE_ENDS:
        if raw in line:
            line = line.replace(raw, escaped)
    return line


def output_line(
    *,
    line_id: str,
    custom_id: str | None,
    status: int,
    request_id: str | None,
    body: bytes,
    error: dict[str, str] | None = None,
) -> bytes:
    """A line of the output file, or of the error file when `status` is the upstream's failure; ends with a newline.

    `body` is JSON text and goes in as it is, unless it has line breaks, which would end the line.
    """
    if b"\n" in body or b"\r" in body:
        body = jsontext.dumps(jsontext.loads(body))
    return one_line(
        b'{"id":%b,"custom_id":%b,"response":{"status_code":%d,"request_id":%b,"body":%b},"error":%b}\n'
        % (
            jsontext.dumps(line_id),
            jsontext.dumps(custom_id),
            status,
            jsontext.dumps(request_id),
            body,
            jsontext.dumps(error),
        )
    )


def error_line(*, line_id: str, custom_id: str | None, code: str, message: str | None = None) -> bytes:
    """A line of the error file for a request that never got an answer; ends with a newline."""
    error = {"code": code, "message": message or NEVER_RAN.get(code, "This request could not be executed.")}
    line = {"id": line_id, "custom_id": custom_id, "response": None, "error": error}
    return one_line(jsontext.dumps(line) + b"\n")


class BatchProblem(BaseModel):
    """Why an input file was refused: one line's problem."""

    code: str = "invalid_request"
    line: int | None = None
    message: str
    param: str | None = None


class BatchProblems(BaseModel):
    """The list under a batch's `errors`."""

    object: Literal["list"] = "list"
    data: list[BatchProblem] = Field(default_factory=list)


class RequestCounts(BaseModel):
    """How far a batch is."""

    total: int = 0
    completed: int = 0
    failed: int = 0


class InputDetails(BaseModel):
    """Part of the input tokens."""

    cached_tokens: int = 0


class OutputDetails(BaseModel):
    """Part of the output tokens."""

    reasoning_tokens: int = 0


class BatchUsage(BaseModel):
    """Tokens of the whole batch so far."""

    input_tokens: int = 0
    input_tokens_details: InputDetails = Field(default_factory=InputDetails)
    output_tokens: int = 0
    output_tokens_details: OutputDetails = Field(default_factory=OutputDetails)
    total_tokens: int = 0


class Batch(BaseModel):
    """The batch object; times are Unix seconds. Stockpot's additions come last and are open."""

    model_config = ConfigDict(extra="allow")

    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    model: str | None = None
    errors: BatchProblems | None = None
    input_file_id: str
    completion_window: str = "24h"
    status: BatchStatus
    output_file_id: str | None = None
    error_file_id: str | None = None
    created_at: int
    in_progress_at: int | None = None
    expires_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    request_counts: RequestCounts = Field(default_factory=RequestCounts)
    usage: BatchUsage | None = None
    metadata: dict[str, str] | None = None
    cost_usd: float | None = Field(default=None, description="What the batch has cost so far, in US dollars")

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, every field present."""
        return self.model_dump(mode="json")
