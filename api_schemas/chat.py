"""Chat completions: the request. Results and chunks are the provider's own objects, kept as they come.

Typed where Stockpot reads a field, open everywhere else: a provider's additions pass through. Nothing is coerced and
validating never changes a body: what is stored and sent is the caller's own JSON, not a dump of these models.

Source: `POST /v1/chat/completions` of the provider's OpenAPI file, and OpenAI's own, which is wider.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

MODEL_LENGTH = 256
"""Characters of a model id; the provider's longest today has fewer than 80."""

OPEN = ConfigDict(extra="allow", strict=True, hide_input_in_errors=True)
"""Unknown fields are kept, known ones are never coerced, and no error of pydantic's repeats a prompt."""


def _model(value: str) -> str:
    """Names of models stand in tables, logs and routes: one with control characters would command a terminal there."""
    if not value.isprintable():
        raise PydanticCustomError("expected", "expected printable", {"what": "a model's id in printable characters"})
    return value


ModelId = Annotated[str, Field(min_length=1, max_length=MODEL_LENGTH), AfterValidator(_model)]
Count = Annotated[int, Field(ge=1)]
Objects = list[dict[str, Any]]


def _content(value: Any) -> Any:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(part, dict | str) for part in value):
        return value
    raise PydanticCustomError("expected", "expected content", {"what": "a string, a list of content parts or null"})


class ChatMessage(BaseModel):
    """One message. Roles and content parts are the provider's business; only their JSON types are checked."""

    model_config = OPEN

    role: Annotated[str, Field(min_length=1)]
    content: Annotated[Any, AfterValidator(_content)] = None
    tool_calls: Objects | None = None


class ChatRequest(BaseModel):
    """The body of a chat completion, as strict as what is certainly wrong and no stricter."""

    model_config = OPEN

    model: ModelId
    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    n: Count | None = None
    seed: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    tools: Objects | None = None
    parallel_tool_calls: bool | None = None
    response_format: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
