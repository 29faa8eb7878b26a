"""`POST /files`: a file goes from the socket into the store a piece at a time; memory holds one piece an upload.

An upload that breaks, is refused or stops coming leaves no file. One whose process dies neither: the workers collect
its pieces. A refused upload is read on, and forgotten, for a while: a client that is still sending would see a broken
connection instead of the answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import anyio
from anyio import to_thread
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from api_schemas import jsontext
from worker.base.errors import StockpotError
from worker.base.log import get_logger
from worker.gateway.answers import json_response
from worker.gateway.auth import Caller
from worker.gateway.bodies import IDLE_SECONDS, check_encoding
from worker.gateway.errors import ApiError
from worker.gateway.file_wire import file_object, whole_number
from worker.gateway.multipart import FileBegins, Form
from worker.gateway.state import Gateway
from worker.producer.files import (
    LONGEST_SECONDS,
    PURPOSES,
    SHORTEST_SECONDS,
    Upload,
    kept_seconds,
)

log = get_logger(__name__)

#: What comes slower than this, after a first minute, only holds a place, in bytes a second.
SLOWEST, PATIENCE_SECONDS = 1_024, 60.0
#: The form around the file.
_OVERHEAD = 64 * 1024
_FIELDS = {"purpose", "expires_after[anchor]", "expires_after[seconds]"}


async def create_file(request: Request, caller: Caller) -> Response:
    """`POST /files`."""
    gateway = Gateway.of(request)
    limit = gateway.settings.max_file_bytes
    reading = _Reading(request, most=2 * limit + _OVERHEAD)
    async with gateway.uploads:
        try:
            check_encoding(request)
            declared = request.headers.get("content-length", "")
            if declared.isdigit() and int(declared) > limit + _OVERHEAD:
                raise _too_large(limit, "STOCKPOT_MAX_FILE_BYTES")
            return await _Receiving(gateway, caller).run(Form(request.headers.get("content-type", "")), reading)
        except (ApiError, StockpotError):
            with contextlib.suppress(ApiError):
                await reading.forget_the_rest()
            raise


class _Reading:
    """The request's body, in time and bounded."""

    def __init__(self, request: Request, *, most: int) -> None:
        self._pieces = request.stream()
        self._most = most
        self._began = time.monotonic()
        self._bytes = 0
        self._over = False

    async def pieces(self) -> AsyncIterator[bytes]:
        """The pieces as they come. Raises ApiError when they come too slowly, or not at all."""
        try:
            while True:
                async with asyncio.timeout(IDLE_SECONDS):
                    piece = await anext(self._pieces, None)
                if piece is None:
                    self._over = True
                    return
                self._bytes += len(piece)
                lasted = time.monotonic() - self._began
                if lasted > PATIENCE_SECONDS and self._bytes < SLOWEST * lasted:
                    raise TimeoutError
                yield piece
        except TimeoutError:
            self._over = True
            raise ApiError(408, "The upload did not come in time.", code="timeout") from None
        except ClientDisconnect:
            self._over = True
            raise ApiError(400, "The upload ended before its body did.") from None

    async def forget_the_rest(self) -> None:
        """Read the rest of a body that is refused, as far as it is no longer than what may be refused."""
        if self._over:
            return
        async for _ in self.pieces():
            if self._bytes > self._most:
                return


class _Receiving:
    """One upload."""

    def __init__(self, gateway: Gateway, caller: Caller) -> None:
        self._settings = gateway.settings
        self._files = gateway.pot(caller.tenant).files
        self._upload: Upload | None = None
        self._lines = _JsonLines(gateway.settings.max_request_bytes)

    async def run(self, form: Form, reading: _Reading) -> Response:
        """Receive the form and answer. Raises ApiError, StockpotError; nothing is left of the file then."""
        done = False
        try:
            async for piece in reading.pieces():
                for part in form.feed(piece):
                    await self._take(part, form)
            form.end()
            answer = await self._finish(form)
            done = True
            return answer
        finally:
            if not done and self._upload is not None:
                with (
                    anyio.CancelScope(shield=True),
                    contextlib.suppress(StockpotError),
                ):  # else it is found by its idleness
                    await to_thread.run_sync(self._upload.abort)

    async def _take(self, part: FileBegins | bytes, form: Form) -> None:
        if isinstance(part, FileBegins):
            self._upload = await self._files.begin(part.filename)
            return
        assert self._upload is not None  # noqa: S101 -- the form checks it first
        self._lines.read(part)
        full = not self._upload.takes(part)
        self._check_size(form)
        if full:
            await to_thread.run_sync(self._upload.flush)

    def _check_size(self, form: Form) -> None:
        """Refuse what is too large for its purpose, as far as that is known by now. Raises ApiError."""
        size = 0 if self._upload is None else self._upload.bytes
        if form.fields.get("purpose") == "batch" and size > self._settings.max_batch_file_bytes:
            raise _too_large(self._settings.max_batch_file_bytes, "STOCKPOT_MAX_BATCH_FILE_BYTES")
        if size > self._settings.max_file_bytes:
            raise _too_large(self._settings.max_file_bytes, "STOCKPOT_MAX_FILE_BYTES")

    async def _finish(self, form: Form) -> Response:
        for name in form.fields:
            if name not in _FIELDS:
                raise ApiError(400, f"Unknown parameter: '{name[:64]}'.", param=name[:64], code="unknown_parameter")
        if self._upload is None:
            raise _missing("file")
        purpose = form.fields.get("purpose")
        if purpose is None:
            raise _missing("purpose")
        if purpose not in PURPOSES:
            message = f"Invalid value: '{purpose[:64]}'. Supported values are: {', '.join(map(repr, PURPOSES))}."
            raise ApiError(400, message, param="purpose", code="invalid_value")
        seconds = _expiry(form.fields)
        if purpose == "batch":
            self._check_size(form)
            if not self._lines.end():
                message = "Invalid file format for Batch API. Must be .jsonl: one JSON object a line."
                raise ApiError(400, message, param="file", code="invalid_file_format")
        upload = self._upload
        row = await to_thread.run_sync(
            lambda: upload.finish(purpose=purpose, expires_seconds=kept_seconds(purpose, seconds))
        )
        log.info("file_stored", file=row.id, purpose=purpose, bytes=row.bytes)
        return json_response(file_object(row))


class _JsonLines:
    """Whether some line of a file is a JSON object: it is looked at until one is."""

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._line = bytearray()
        self._found = False

    def read(self, data: bytes) -> None:
        """Look at the next bytes of the file."""
        while not self._found and data:
            line, end, data = data.partition(b"\n")
            if len(self._line) <= self._longest:
                self._line += line[: self._longest + 1]
            if end:
                self._look()

    def end(self) -> bool:
        """The file is at its end: whether there was one."""
        self._look()
        return self._found

    def _look(self) -> None:
        line, self._line = bytes(self._line), bytearray()
        # A line that is too long is the batch's to refuse, with its number.
        with contextlib.suppress(ValueError):
            self._found = self._found or len(line) > self._longest or isinstance(jsontext.loads(line), dict)


def _expiry(fields: dict[str, str]) -> int | None:
    anchor, seconds = fields.get("expires_after[anchor]"), fields.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return None
    if anchor != "created_at":
        message = "Expected 'created_at', the only anchor."
        raise ApiError(400, message, param="expires_after.anchor", code=_code(anchor))
    found = None if seconds is None else whole_number(seconds)
    if found is None or not SHORTEST_SECONDS <= found <= LONGEST_SECONDS:
        message = f"Expected {SHORTEST_SECONDS} to {LONGEST_SECONDS} seconds."
        raise ApiError(400, message, param="expires_after.seconds", code=_code(seconds))
    return found


def _code(given: str | None) -> str:
    return "missing_required_parameter" if given is None else "invalid_value"


def _missing(name: str) -> ApiError:
    return ApiError(400, f"Missing required parameter: '{name}'.", param=name, code="missing_required_parameter")


def _too_large(limit: int, setting: str) -> ApiError:
    message = f"The file is larger than the {limit:,} bytes that {setting} allows here."
    return ApiError(413, message, param="file", code="file_too_large")
