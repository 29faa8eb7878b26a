"""Files as OpenAI's wire has them, and the header that asks for a range."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

from worker.db.files.records import FileRow
from worker.gateway.errors import ApiError

#: What cannot stand between the quotation marks of a header's value.
_UNQUOTABLE = re.compile(r"[^ !#-\[\]-~]")


def file_object(row: FileRow) -> dict[str, Any]:
    """A file. One that a batch still writes is `uploaded`, not yet `processed`."""
    found: dict[str, Any] = {
        "id": row.id,
        "object": "file",
        "bytes": row.bytes,
        "created_at": int(row.created_at.timestamp()),
        "filename": row.filename,
        "purpose": row.purpose,
        "status": "processed" if row.state == "ready" else "uploaded",
    }
    if row.expires_at is not None:
        found["expires_at"] = int(row.expires_at.timestamp())
    return found


def attachment(filename: str) -> str:
    """The `Content-Disposition` of a file (RFC 6266): a name that is no plain ASCII stands percent-encoded beside its likeness."""
    likeness = _UNQUOTABLE.sub("_", filename)
    known = f'attachment; filename="{likeness}"'
    return known if likeness == filename else f"{known}; filename*=UTF-8''{quote(filename, safe='', errors='replace')}"


def whole_number(text: str) -> int | None:
    """A number of at most 18 digits; None when it is none."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None


def byte_range(header: str | None, size: int) -> tuple[int, int] | None:
    """The one range that a `Range` header asks for, as start and end; None: all of it.

    Several ranges, and what is none, are answered with all of it, as HTTP allows.

    Raises:
        ApiError: 416, the range is behind the file's end.
    """
    unit, _, ranges = (header or "").strip().partition("=")
    first, dash, last = ranges.strip().partition("-")
    if unit.strip().lower() != "bytes" or not dash or "," in ranges:
        return None
    begin, end = whole_number(first.strip()), whole_number(last.strip())
    if (first.strip() and begin is None) or (last.strip() and end is None) or (begin is None and end is None):
        return None
    if begin is None:  # the last bytes
        start, stop = max(0, size - (end or 0)), size
        behind = end == 0
    else:
        if end is not None and end < begin:
            return None
        start, stop = begin, size if end is None else min(size, end + 1)
        behind = begin >= size
    if behind or start >= stop:
        headers = {"content-range": f"bytes */{size}"}
        raise ApiError(416, f"The range is behind the file's {size:,} bytes.", headers=headers)
    return start, stop
