"""Answers: JSON, and OpenAI's lists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from starlette.responses import Response

from api_schemas import jsontext


def json_response(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """An answer of JSON."""
    return Response(jsontext.dumps(value), status, headers=headers, media_type="application/json")


def list_response(data: Sequence[Mapping[str, Any]], *, has_more: bool) -> Response:
    """One page of a list; the page after it is asked for with `after=` its `last_id`."""
    return json_response(
        {
            "object": "list",
            "data": list(data),
            "first_id": data[0]["id"] if data else None,
            "last_id": data[-1]["id"] if data else None,
            "has_more": has_more,
        }
    )
