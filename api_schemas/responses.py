"""Responses: the request, the result and the events of its stream.

As open as `api_schemas.chat`. Source: `POST /v1/responses` of the provider's OpenAPI file, and OpenAI's own.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, Field
from pydantic_core import PydanticCustomError

from api_schemas.chat import OPEN, Count, ModelId, Objects, Open


def _input(value: Any) -> Any:
    if isinstance(value, str) or (isinstance(value, list) and value and all(isinstance(item, dict) for item in value)):
        return value
    raise PydanticCustomError("expected", "expected input", {"what": "a string or a list of input items (objects)"})


class ResponsesRequest(BaseModel):
    """The body of a response request, as strict as what is certainly wrong and no stricter."""

    model_config = OPEN

    model: ModelId
    input: Annotated[Any, AfterValidator(_input)]
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    background: bool | None = None
    instructions: Any = None
    include: list[str] | None = None
    max_output_tokens: Count | None = None
    previous_response_id: str | None = None
    prompt: dict[str, Any] | None = None
    store: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    text: dict[str, Any] | None = None
    tools: Objects | None = None
    parallel_tool_calls: bool | None = None
    reasoning: dict[str, Any] | None = None
    truncation: str | None = None
    metadata: dict[str, Any] | None = None


class Response(Open):
    """A response. `status` shows whether it is whole; `usage` is the provider's own object."""

    id: str | None = None
    object: str | None = None
    created_at: int | float | None = None
    model: str | None = None
    status: str | None = None
    output: Objects | None = Field(default=None, description="Items: messages, function calls, reasoning, …")
    error: dict[str, Any] | None = None
    incomplete_details: dict[str, Any] | None = None
    usage: dict[str, Any] | None = None
    meta: dict[str, Any] | None = Field(default=None, description="AI/ML API: `meta.usage.usd_spent` is the cost")

    def wire(self) -> dict[str, Any]:
        """The object as it came: only the fields that were given, unknown ones included."""
        return self.model_dump(exclude_unset=True)


class ResponseEvent(Open):
    """One event of a response's stream; events that close one carry the whole `response`."""

    type: str
    sequence_number: int | None = None
    response: Response | None = None

    def wire(self) -> dict[str, Any]:
        """The object as it came: only the fields that were given, unknown ones included."""
        return self.model_dump(exclude_unset=True)
