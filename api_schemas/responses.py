"""Responses: the request. Results and events are the provider's own objects, kept as they come.

As open as `api_schemas.chat`. Source: `POST /v1/responses` of the provider's OpenAPI file, and OpenAI's own.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel
from pydantic_core import PydanticCustomError

from api_schemas.chat import OPEN, Count, ModelId, Objects


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
