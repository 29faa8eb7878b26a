"""A multipart upload, read as it comes: small fields, and one file whose bytes are handed on in order.

The parser keeps nothing of the file. What is malformed, ends early or has more than it may is a 400 that names the fault.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from worker.gateway.errors import ApiError

#: A field's value and all fields of a form; purposes and seconds are shorter.
_FIELD_BYTES, _FIELDS = 4 * 1024, 32


@dataclass(slots=True)
class FileBegins:
    """The file's part begins; its bytes follow."""

    filename: str


@dataclass(slots=True)
class _Part:
    name: str = ""
    filename: str | None = None
    value: bytearray = field(default_factory=bytearray)


class Form:
    """One form. `feed` it every piece of the body, then `end` it."""

    def __init__(self, content_type: str) -> None:
        """Raises ApiError: the body is no multipart form."""
        kind, options = parse_options_header(content_type)
        if kind != b"multipart/form-data" or not options.get(b"boundary"):
            raise ApiError(
                400,
                "Expected a multipart/form-data body with a boundary.",
                param="file",
                code="invalid_type",
            )
        self.fields: dict[str, str] = {}
        self.has_file = False
        self._found: list[FileBegins | bytes] = []
        self._part = _Part()
        self._header = b"", b""
        self._headers: dict[bytes, bytes] = {}
        self._ended = False
        try:
            self._parser = MultipartParser(
                options[b"boundary"],
                {
                    "on_part_begin": self._part_begins,
                    "on_header_field": self._header_name,
                    "on_header_value": self._header_value,
                    "on_header_end": self._header_ends,
                    "on_headers_finished": self._headers_end,
                    "on_part_data": self._data,
                    "on_part_end": self._part_ends,
                    "on_end": self._form_ends,
                },
            )
        except FormParserError as error:
            raise _malformed(str(error)) from None

    def feed(self, data: bytes) -> Iterator[FileBegins | bytes]:
        """Read a piece of the body; what of the file it has. Raises ApiError."""
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise _malformed(str(error)) from None
        found, self._found = self._found, []
        yield from found

    def end(self) -> None:
        """The body is at its end. Raises ApiError when the form is not."""
        if not self._ended:
            raise _malformed("it ended before its closing boundary; the upload was cut off")

    def _part_begins(self) -> None:
        self._part, self._headers = _Part(), {}

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._header = self._header[0] + data[start:end], self._header[1]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._header = self._header[0], self._header[1] + data[start:end]

    def _header_ends(self) -> None:
        self._headers[self._header[0].lower()] = self._header[1]
        self._header = b"", b""

    def _headers_end(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b"").decode("latin-1"))
        self._part.name = _text(options.get(b"name", b""))
        if not self._part.name:
            raise _malformed("a part of it has no name")
        if b"filename" in options or self._part.name == "file":
            self._part.filename = _text(options.get(b"filename", b"file"))
            if self._part.name != "file":
                raise _unknown(self._part.name)
            if self.has_file:
                raise ApiError(400, "There is more than one 'file'.", param="file", code="invalid_value")
            if b"filename" not in options:
                raise ApiError(400, "'file' is no file: it has no filename.", param="file", code="invalid_type")
            self.has_file = True
            self._found.append(FileBegins(self._part.filename))
        elif self._part.name in self.fields:
            message = f"'{self._part.name[:64]}' is given twice."
            raise ApiError(400, message, param=self._part.name[:64], code="invalid_value")

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._part.filename is not None:
            self._found.append(data[start:end])
            return
        self._part.value += data[start:end]
        if len(self._part.value) > _FIELD_BYTES or len(self.fields) >= _FIELDS:
            message = "The form's fields are too long or too many."
            raise ApiError(400, message, param=self._part.name[:64], code="invalid_value")

    def _part_ends(self) -> None:
        if self._part.filename is None:
            self.fields[self._part.name] = _text(bytes(self._part.value))

    def _form_ends(self) -> None:
        self._ended = True


def _text(value: bytes) -> str:
    """Names are UTF-8; who quotes them in latin-1 is understood, too."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _malformed(why: str) -> ApiError:
    return ApiError(400, f"Malformed multipart body: {why}.", code="invalid_multipart")


def _unknown(name: str) -> ApiError:
    return ApiError(400, f"Unknown parameter: '{name[:64]}'.", param=name[:64], code="unknown_parameter")
