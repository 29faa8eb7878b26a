"""What a file is, by its first bytes: compressed in a way that is read, or something else, and how to convert that.

Read as they are: JSON lines in UTF-8 (with or without a byte order mark), plain or in gzip, bzip2 or xz. All else is
refused whole, in one sentence with the command that converts it, and not line by line.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from typing import BinaryIO, cast

from worker.batches.converting import Given
from worker.batches.shapes import PROMPTS, foreign_encoding, other_json, other_text

UTF8_MARK = b"\xef\xbb\xbf"

#: How many lines at most show in what a file is written.
_LOOKED_AT = 100
#: How many of a file's first bytes show what it is compressed with.
MAGIC_BYTES = 8
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz"}
#: What a damaged file of these raises.
DAMAGED = (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error)

#: What begins so: what it is, and the command that reads it from stdin.
_FOREIGN: tuple[tuple[bytes, str, str], ...] = (
    (b"\x28\xb5\x2f\xfd", "is compressed with zstd", "zstd -dc"),
    (b"\x04\x22\x4d\x18", "is compressed with lz4", "lz4 -dc"),
    (b"\x1f\x8b", "is compressed twice, inside with gzip", "gzip -dc"),
    (b"BZh", "is compressed twice, inside with bzip2", "bzip2 -dc"),
    (b"\xfd7zXZ\x00", "is compressed twice, inside with xz", "xz -dc"),
    (b"\x5d\x00\x00", "is compressed with lzma", "xz --format=lzma -dc"),
    (b"\xff\xfe\x00\x00", "is UTF-32", "iconv -f UTF-32 -t UTF-8"),
    (b"\x00\x00\xfe\xff", "is UTF-32", "iconv -f UTF-32 -t UTF-8"),
    (b"\xff\xfe", "is UTF-16", "iconv -f UTF-16 -t UTF-8"),
    (b"\xfe\xff", "is UTF-16", "iconv -f UTF-16 -t UTF-8"),
)
#: The same of what is read from a path alone, since it has its index at its end.
_SOUGHT_IN: tuple[tuple[bytes, str, str], ...] = (
    (b"7z\xbc\xaf\x27\x1c", "is a 7z archive", "7z e -so {file}"),
    (b"PK\x03\x04", "is a zip archive", "unzip -p {file} -x '__MACOSX/*'"),
    (
        b"PAR1",
        "is a Parquet file; of columns custom_id, method, url, body",
        """duckdb -c "COPY (FROM read_parquet('/dev/stdin')) TO '/dev/stdout' (FORMAT json)" < {file}""",
    ),
)


def compression(head: bytes) -> str | None:
    """What a file that begins so is compressed with, of what is read as it is; None: with nothing."""
    return next((name for magic, name in _COMPRESSED.items() if head.startswith(magic)), None)


def decompressed(raw: BinaryIO, kind: str | None) -> BinaryIO:
    """A reader of what is in a file."""
    if kind == "gzip":
        return cast("BinaryIO", gzip.GzipFile(fileobj=raw))
    if kind == "bzip2":
        return cast("BinaryIO", bz2.BZ2File(raw))
    if kind == "xz":
        return cast("BinaryIO", lzma.LZMAFile(raw))
    return raw


def foreign(given: Given, head: bytes, *, cut: bool = False, shapes: bool = True) -> str | None:
    """Why a file with this beginning (decompressed) is not read, and how to convert it; None: it may be JSON lines.

    Args:
        cut: the file goes on behind `head`.
        shapes: look at what the lines have, too.
    """
    for magic, what, command in _FOREIGN:
        if head.startswith(magic):
            return f"{given.name} {what}: {given.through(command)}"
    for magic, what, command in _SOUGHT_IN:
        if head.startswith(magic):
            return f"{given.name} {what}: {given.by(command)}"
    if head[257:262] == b"ustar":
        return f"{given.name} is a tar archive: {given.through('tar -xOf -')}"
    if head[:4].count(0) and head[:200].count(0) * 3 > len(head[:200]):
        wide = "UTF-32" if head[:8].count(0) > 4 else "UTF-16LE" if head[1:2] == b"\x00" else "UTF-16BE"
        return f"{given.name} is {wide}: {given.through(f'iconv -f {wide} -t UTF-8')}"
    text = head.removeprefix(UTF8_MARK)
    if (why := _other_text(given, text)) is not None or not shapes:
        return why
    lines = [line.strip() for line in text.split(b"\n")[: -1 if cut else None]]
    return _other_lines(given, [line for line in lines if line][:_LOOKED_AT])


def _other_lines(given: Given, lines: list[bytes]) -> str | None:
    if not lines:
        return None
    if not lines[0].startswith(b"{"):
        return other_text(given, lines)
    return other_json(given, lines[0]) or foreign_encoding(given, lines)


def _other_text(given: Given, head: bytes) -> str | None:
    text = head.lstrip()
    first = text.partition(b"\n")[0].strip()
    if text.startswith(b"["):
        return f"{given.name} is one JSON array, not a request per line: {given.through(_OF_AN_ARRAY)}"
    if first == b"{":
        return f"{given.name} has JSON objects over several lines, not a request per line: {given.through('jq -c .')}"
    if b"\n" not in head and b"}\r{" in head:
        return f"{given.name} has line ends of old Macs (CR): {given.through(_OLD_MAC)}"
    if first.startswith(b"{") or not first:
        return None
    return _table(given, head.splitlines()[:2])


_OF_AN_ARRAY = "jq -c '.[]'"
_OLD_MAC = r"tr '\r' '\n'"


def _table(given: Given, lines: list[bytes]) -> str | None:
    """A file of rows: as many commas, semicolons or tabs in its second line as in its first, or at least one in its only."""
    delimiter = next(
        (one for one in (b"\t", b";", b",") if lines[0].count(one) and all(line.count(one) for line in lines)), None
    )
    if delimiter is None or any(line.lstrip().startswith(b"{") for line in lines):
        return None
    names = [part.strip().strip('"') for part in lines[0].decode("utf-8", "replace").split(delimiter.decode())]
    column = next((name for name in PROMPTS if name in names), names[0] if names[0].isidentifier() else None)
    rows, cell, of = "DictReader", f'"{column}"', f"of the column {column}"
    if column is None:
        rows, cell, of = "reader", "0", "of the first column"
    reader = f'csv.{rows}(open(0,encoding="utf-8-sig",newline="")'
    reader += ")" if delimiter == b"," else f",delimiter={_spelled(delimiter)})"
    program = (
        f'import csv,json;[print(json.dumps({{"custom_id":str(n),"method":"POST","url":"/v1/chat/completions",'
        f'"body":{{"model":"MODEL","messages":[{{"role":"user","content":r[{cell}]}}]}}}})) for n,r in enumerate({reader},1)]'
    )
    command = given.through(f"python3 -c '{program}'")
    return f"{given.name} looks like CSV; with your MODEL, {of}: {command}"


def _spelled(delimiter: bytes) -> str:
    return '"\\t"' if delimiter == b"\t" else f'"{delimiter.decode()}"'
