"""A body made plain: compression that was not asked for is undone, within bounds, and labels do not decide.

Only gzip and deflate can be read, also where a proxy has compressed what was compressed. `br` and `zstd` are never asked for,
and an answer in them is an error that names the encoding. Text in UTF-16 becomes UTF-8.
"""

from __future__ import annotations

import codecs
import zlib
from collections.abc import Iterator

_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
#: Bytes that come out at a time, so that a small bomb is noticed before it has grown.
_PIECE = 64 * 1024
#: Layers that are undone, one within the other.
_DEEPEST = 4


class Undecodable(ValueError):
    """The body is compressed in a way that cannot be read, or its compression is broken."""


class Decoder:
    """Decodes one body, piece by piece. `plain` is known once the first bytes are: then nothing is to be decoded."""

    __slots__ = ("_depth", "_inflate", "_inner", "_label", "_start", "_utf16", "plain")

    def __init__(self, label: str, *, depth: int = 0) -> None:
        """`label` is the `Content-Encoding`, a hint only."""
        self.plain = False
        self._label = label.strip().lower()
        self._depth = depth
        self._start = b""
        self._inflate: zlib._Decompress | None = None
        self._utf16: codecs.IncrementalDecoder | None = None
        self._inner: Decoder | None = None  # of what comes out of this layer

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield what the next bytes decode to, in bounded pieces; the caller may stop in between.

        Raises:
            Undecodable: it cannot be read.
        """
        if not self.plain and self._inflate is None and self._utf16 is None:
            data = self._start + data
            if len(data) < len(_ZSTD) and _may_be_coded(data):
                self._start = data
                return
            self._start = b""
            self._begin(data)
        yield from self._decoded(data)

    def close(self) -> Iterator[bytes]:
        """Yield a body that is too short for its encoding to be recognised."""
        if self._start:
            yield self._start
        if self._utf16 is not None and self._utf16.getstate()[0]:
            raise Undecodable("the upstream's answer ends in the middle of a character of UTF-16")
        if self._inner is not None:
            yield from self._inner.close()

    def _begin(self, data: bytes) -> None:
        if self._depth >= _DEEPEST:
            self.plain = True
        elif data.startswith(_GZIP):
            self._inflate = zlib.decompressobj(wbits=31)
        elif (wide := _utf16_of(data)) is not None:
            self._utf16 = codecs.getincrementaldecoder(wide)()
        elif self._label == "deflate" and not _is_text(data):
            zlib_header = data[0] & 15 == 8 and int.from_bytes(data[:2], "big") % 31 == 0
            self._inflate = zlib.decompressobj(wbits=15 if zlib_header else -15)
        elif data.startswith(_ZSTD) or (self._label in ("br", "zstd", "compress") and not _is_text(data)):
            raise Undecodable(f"the upstream compressed its answer ({self._label or 'zstd'}), which was not asked for")
        else:
            self.plain = True
        if self._inflate is not None:
            self._inner = Decoder("", depth=self._depth + 1)

    def _decoded(self, data: bytes) -> Iterator[bytes]:
        if self._inner is not None:
            for piece in self._inflated(data):
                yield from self._inner.feed(piece)
        elif self._utf16 is not None:
            try:
                yield self._utf16.decode(data).encode()
            except UnicodeError as error:
                raise Undecodable(f"the upstream's answer in UTF-16 is broken: {error}") from None
        else:
            yield data

    def _inflated(self, data: bytes) -> Iterator[bytes]:
        while data and self._inflate is not None:
            try:
                piece = self._inflate.decompress(data, _PIECE)
            except zlib.error as error:
                raise Undecodable(f"the upstream's compression is broken: {error}") from None
            data = self._inflate.unconsumed_tail
            if self._inflate.eof:
                data = self._inflate.unused_data
                self._inflate = zlib.decompressobj(wbits=31)
                if not data.startswith(_GZIP):  # what follows the last member means nothing
                    data = b""
            if piece:
                yield piece


def decoded(body: bytes, label: str, limit: int) -> bytes:
    """A whole body made plain, of which at most `limit` bytes are kept.

    Raises:
        Undecodable: it cannot be read.
    """
    decoder = Decoder(label)
    plain = bytearray()
    for piece in decoder.feed(body):
        plain += piece
        if len(plain) >= limit:
            break
    else:
        for piece in decoder.close():
            plain += piece
    return bytes(plain[:limit])


def _is_text(data: bytes) -> bool:
    """Whether the bytes begin as an answer does: JSON, an event, a page."""
    return data[:1] in b'{[":<' or data[:4].isalpha() or data[:1].isspace()


def _utf16_of(data: bytes) -> str | None:
    """The codec of a text in UTF-16: by its mark, or by the zeros beside its first two characters; None for any other."""
    if data.startswith(_UTF16_MARKS):
        return "utf-16"
    zeros = [not byte for byte in data[:4]]
    return {(False, True, False, True): "utf-16-le", (True, False, True, False): "utf-16-be"}.get(tuple(zeros))  # type: ignore[arg-type]


def _may_be_coded(data: bytes) -> bool:
    """Whether fewer than four bytes may be the beginning of something that is not plain."""
    return (
        len(data) < 2  # of UTF-16, the second byte shows it
        or b"\0" in data
        or _GZIP.startswith(data[:2])
        or _ZSTD.startswith(data)
        or data.startswith(_UTF16_MARKS)
    )
