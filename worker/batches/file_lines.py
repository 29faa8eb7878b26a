"""A line of a stored batch file, with OpenAI's codes for what is wrong with it: one problem a line, the first.

invalid_json_line             not JSON, or no object
missing_required_parameter    no `custom_id`, `method`, `url` or `body`
invalid_url                   not the batch's endpoint
streaming_unsupported         `body.stream`
model_not_found               the upstream has no such model, or the key may not use it
invalid_request               all else; `param` names the field
"""

from __future__ import annotations

from typing import Any

from api_schemas import jsontext
from api_schemas.batch import BatchLine, BatchProblem
from api_schemas.errors import FieldProblem

_REQUIRED = ("custom_id", "method", "url", "body")


class FileLines:
    """Reads the lines of one batch."""

    def __init__(self, endpoint: str, *, max_line_bytes: int, allowed_models: str | None = None) -> None:
        """`allowed_models` is a JSON list of the models that the batch's key may use; None: any."""
        self._allowed = None if allowed_models is None else frozenset(jsontext.loads(allowed_models))
        self._endpoint = endpoint
        self._longest = max_line_bytes

    def read(self, raw: bytes, number: int) -> BatchLine | list[BatchProblem]:
        """Read one line: the line, or what is wrong with it. Never raises."""
        line = BatchLine.read(raw, number, max_bytes=self._longest)
        if isinstance(line, list):
            return [self._problem(raw, number, line[0])]
        if line.endpoint != self._endpoint:
            return [_other_url(line.endpoint, self._endpoint, number)]
        if line.body.get("stream") is True:
            message = "Streaming is not supported in the Batch API; leave `stream` out."
            return [_problem("streaming_unsupported", number, message, "body.stream")]
        if self._allowed is not None and line.body["model"] not in self._allowed:
            return [unknown_model(str(line.body["model"]), number)]
        return line

    def _problem(self, raw: bytes, number: int, first: FieldProblem) -> BatchProblem:
        try:
            document: Any = jsontext.loads(raw)
        except ValueError:
            message = f"This line is not parseable as valid JSON. {first.message}"
            return _problem("invalid_json_line", number, message)
        if not isinstance(document, dict):
            return _problem(
                "invalid_json_line", number, "This line is not parseable as valid JSON: expected an object."
            )
        for name in _REQUIRED:
            if document.get(name) is None:
                return _problem("missing_required_parameter", number, f"Missing required parameter: '{name}'.", name)
        url, body = document["url"], document["body"]
        if isinstance(url, str) and url != self._endpoint:
            return _other_url(url, self._endpoint, number)
        if first.field == "body.model" and isinstance(body, dict) and not body.get("model"):
            return _problem("invalid_request", number, "Model parameter is required.", "body.model")
        if first.field in {"body.messages", "body.input"} and isinstance(body, dict):
            name = first.field.removeprefix("body.")
            if body.get(name) is None:
                return _problem("invalid_request", number, f"{name.capitalize()} parameter is required.", first.field)
        return _problem("invalid_request", number, first.message, first.field or None)


def unknown_model(model: str, number: int) -> BatchProblem:
    """The model is not served, or not to this batch's key."""
    message = f"The provided model '{model[:200]}' is not supported."
    return _problem("model_not_found", number, message, "body.model")


def _other_url(url: str, endpoint: str, number: int) -> BatchProblem:
    message = f"The URL '{url[:200]}' does not match the batch endpoint '{endpoint}'."
    return _problem("invalid_url", number, message, "url")


def _problem(code: str, number: int, message: str, param: str | None = None) -> BatchProblem:
    return BatchProblem(code=code, line=number, message=message, param=param)
