"""A body made plain: compression that was not asked for is undone, within bounds, and labels do not decide.

Only gzip and deflate can be read. `br` and `zstd` are never asked for, and an answer in them is an error that names the encoding.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
#: Bytes that come out at a time, so that a small bomb is noticed before it has grown.
_PIECE = 64 * 1024


class Undecodable(ValueError):
    """The body is compressed in a way that cannot be read, or its compression is broken."""


class Decoder:
    """Decodes one body, piece by piece. `plain` is known once the first bytes are: then nothing is to be decoded."""

    __slots__ = ("_inflate", "_label", "_start", "plain")

    def __init__(self, label: str) -> None:
        """`label` is the `Content-Encoding`, a hint only."""
        self.plain = False
        self._label = label.strip().lower()
        self._start = b""
        self._inflate: zlib._Decompress | None = None

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield what the next bytes decode to, in bounded pieces; the caller may stop in between.

        Raises:
            Undecodable: it cannot be read.
        """
        if self._inflate is None and not self.plain:
            data = self._start = self._start + data
            if len(data) < len(_ZSTD) and _may_be_compressed(data):
                return
            self._begin(data)
            self._start = b""
        if self.plain:
            yield data
            return
        yield from self._inflated(data)

    def close(self) -> Iterator[bytes]:
        """Yield a body that is too short for its encoding to be recognised."""
        if self._start and self._inflate is None and not self.plain:
            yield self._start

    def _begin(self, data: bytes) -> None:
        if data.startswith(_GZIP):
            self._inflate = zlib.decompressobj(wbits=31)
        elif self._label == "deflate" and not _is_text(data):
            zlib_header = data[0] & 15 == 8 and int.from_bytes(data[:2], "big") % 31 == 0
            self._inflate = zlib.decompressobj(wbits=15 if zlib_header else -15)
        elif data.startswith(_ZSTD) or (self._label in ("br", "zstd", "compress") and not _is_text(data)):
            raise Undecodable(f"the upstream compressed its answer ({self._label or 'zstd'}), which was not asked for")
        else:
            self.plain = True

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
    for piece in decoder.close():
        plain += piece
    return bytes(plain[:limit])


def _is_text(data: bytes) -> bool:
    """Whether the bytes begin as an answer does: JSON, an event, a page."""
    return data[:1] in b'{[":<' or data[:4].isalpha() or data[:1].isspace()


def _may_be_compressed(data: bytes) -> bool:
    return _GZIP.startswith(data[:2]) or _ZSTD.startswith(data)
