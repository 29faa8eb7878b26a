"""Errors as they appear in events, results and exceptions."""

from __future__ import annotations

from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

ErrorClass = Literal[
    "invalid_request",
    "authentication",
    "account",
    "not_found",
    "refused",
    "rate_limited",
    "upstream",
    "timeout",
    "truncated",
    "ambiguous",
    "too_large",
    "poison",
    "cancelled",
    "expired",
]
ERROR_CLASSES: tuple[str, ...] = get_args(ErrorClass)


class StockpotError(Exception):
    """The root of everything Stockpot raises on purpose; see `worker.base.errors` for the tree."""


class FieldProblem(BaseModel):
    """One thing that is wrong with a request: where, and what was expected."""

    model_config = ConfigDict(frozen=True)

    field: str = Field(description="Path of the field, e.g. `messages[0].role`; empty for the whole request")
    message: str = Field(description="What was expected, and what came")


class InvalidRequest(StockpotError, ValueError):
    """A request that cannot be accepted. `problems` lists every reason, not only the first."""

    def __init__(self, problems: list[FieldProblem] | str) -> None:
        if isinstance(problems, str):
            problems = [FieldProblem(field="", message=problems)]
        self.problems = problems
        super().__init__("; ".join(f"{p.field}: {p.message}" if p.field else p.message for p in problems))


class JobError(BaseModel):
    """Why a job did not complete, as events, `show` and webhooks show it."""

    model_config = ConfigDict(populate_by_name=True, frozen=True)

    error_class: ErrorClass = Field(validation_alias="class", serialization_alias="class")
    code: str | None = None
    message: str
    status: int | None = Field(default=None, description="The upstream's HTTP status, where there was one")

    def wire(self) -> dict[str, Any]:
        """The object under `error` in events and webhooks."""
        return self.model_dump(by_alias=True)
