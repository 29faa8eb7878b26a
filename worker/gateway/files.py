"""`/files`: list, get, delete, and the content: whole, a range, or of a batch's file what is behind a line."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from worker.db.files.records import FileRow
from worker.gateway.answers import json_response
from worker.gateway.auth import Caller
from worker.gateway.download import Download
from worker.gateway.errors import ApiError
from worker.gateway.file_wire import attachment, byte_range, file_object
from worker.gateway.queries import check_query, number, order_of
from worker.gateway.routing import route
from worker.gateway.state import Gateway
from worker.gateway.uploads import create_file

#: A page of files.
MOST = 10_000


async def list_files(request: Request, caller: Caller) -> Response:
    """`GET /files`."""
    check_query(request, "purpose", "limit", "order", "after")
    limit = number(request, "limit", least=1, most=MOST) or MOST
    asked = request.query_params
    found = (
        await Gateway.of(request)
        .pot(caller.tenant)
        .files.list(
            purpose=asked.get("purpose"), after=asked.get("after"), limit=limit + 1, order=order_of(request, "desc")
        )
    )
    page = [file_object(row) for row in found[:limit]]
    return json_response(
        {
            "object": "list",
            "data": page,
            # The schema of OpenAI's list has texts here, and an empty page has no next one.
            "first_id": page[0]["id"] if page else "",
            "last_id": page[-1]["id"] if page else "",
            "has_more": len(found) > limit,
        }
    )


async def get_file(request: Request, caller: Caller) -> Response:
    """`GET /files/{id}`."""
    return json_response(file_object(await _file(request, caller)))


async def delete_file(request: Request, caller: Caller) -> Response:
    """`DELETE /files/{id}`."""
    file = request.path_params["file_id"]
    await Gateway.of(request).pot(caller.tenant).files.delete(file)
    return json_response({"id": file, "object": "file", "deleted": True})


async def file_content(request: Request, caller: Caller) -> Response:
    """`GET /files/{id}/content`.

    A batch's file may be read while it grows: `X-Incomplete` marks that, `X-Last-Line` how many lines are read
    with this answer, and `?offset=` that many leaves them out.
    """
    check_query(request, "offset")
    row = await _file(request, caller)
    files = Gateway.of(request).pot(caller.tenant).files
    start, end, status = 0, row.bytes, 200
    headers = {
        "accept-ranges": "bytes",
        "content-disposition": attachment(row.filename),
        "content-type": "application/octet-stream",
        "x-content-type-options": "nosniff",
    }
    offset = request.query_params.get("offset")
    if row.purpose == "batch_output":
        lines = number(request, "offset") or 0
        start = await files.byte_of_line(row, lines)
        headers |= {"x-incomplete": str(row.state == "growing").lower(), "x-last-line": str(max(lines, row.lines))}
    elif offset is not None:
        raise ApiError(400, "Only the files of a batch are read by lines.", param="offset", code="invalid_value")
    if row.sha256 is not None:
        headers["etag"] = f'"{row.sha256}"'
    if offset is None and (asked := byte_range(_range(request, row), row.bytes)) is not None:
        start, end = asked
        status, headers["content-range"] = 206, f"bytes {start}-{end - 1}/{row.bytes}"
    headers["content-length"] = str(end - start)
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers)
    pieces = files.read(row, start, end)
    return Download(
        pieces, status, headers, size=end - start, send_seconds=Gateway.of(request).settings.gateway_send_seconds
    )


def _range(request: Request, row: FileRow) -> str | None:
    """The range that is asked for, unless it is one of another content."""
    condition = request.headers.get("if-range")
    if condition is not None and condition.strip('"') != row.sha256:
        return None
    return request.headers.get("range")


async def _file(request: Request, caller: Caller) -> FileRow:
    return await Gateway.of(request).pot(caller.tenant).files.get(request.path_params["file_id"])


ROUTES = [
    route("/files", list_files),
    route("/files", create_file, "POST"),
    route("/files/{file_id}", get_file),
    route("/files/{file_id}", delete_file, "DELETE"),
    route("/files/{file_id}/content", file_content),
]
