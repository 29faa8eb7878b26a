"""Request bodies, bounded: read as they come, refused when they are too large or no JSON object within the limits."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.requests import ClientDisconnect, Request

from api_schemas.jobs import parse_document
from worker.gateway.errors import ApiError
from worker.gateway.state import Gateway

#: A body that makes no progress for so long is given up, in seconds.
IDLE_SECONDS = 30.0


def check_encoding(request: Request) -> None:
    """Refuse a compressed body by its name: read as it is, it would be called broken text. Raises ApiError 415."""
    encoding = request.headers.get("content-encoding", "").strip()
    if encoding.lower() not in {"", "identity"}:
        message = f"The request's body is compressed (Content-Encoding: {encoding[:64]}); send it as it is."
        headers = {"accept-encoding": "identity"}
        raise ApiError(415, message, param="Content-Encoding", code="unsupported_content_encoding", headers=headers)


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body.

    Raises:
        ApiError: 413 when it is larger than `limit` bytes, 408 when it does not come, 415 when it is compressed.
    """
    check_encoding(request)
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise too_large(limit)
    parts: list[bytes] = []
    size = 0
    pieces = request.stream()
    try:
        while True:
            async with asyncio.timeout(IDLE_SECONDS):
                piece = await anext(pieces, None)
            if piece is None:
                return b"".join(parts)
            size += len(piece)
            if size > limit:
                raise too_large(limit)
            parts.append(piece)
    except TimeoutError:
        raise ApiError(408, "The request's body did not come in time.", code="timeout") from None
    except ClientDisconnect:
        raise ApiError(400, "The request ended before its body did.") from None


async def read_json(request: Request) -> dict[str, Any]:
    """The body as a JSON object within the limits of a request. Raises ApiError, InvalidRequest."""
    limit = Gateway.of(request).settings.max_request_bytes
    return parse_document(await read_body(request, limit), max_bytes=limit)


def too_large(limit: int) -> ApiError:
    """413, with the setting: a picture in base64 is soon beyond its default, and only who runs the gateway can raise it."""
    message = f"The request's body is larger than the {limit:,} bytes that STOCKPOT_MAX_REQUEST_BYTES allows here."
    return ApiError(413, message, code="request_too_large")
