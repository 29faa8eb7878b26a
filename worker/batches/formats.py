"""What a file is, by its first bytes: compressed in a way that is read, or something else, and how to convert that.

Read as they are: JSON lines in UTF-8 (with or without a byte order mark), plain or in gzip, bzip2 or xz. All else is
refused whole, in one sentence with the command that converts it, and not line by line.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import shlex
import zlib
from typing import BinaryIO, cast

from worker.batches.shapes import foreign_encoding, other_json, other_text

UTF8_MARK = b"\xef\xbb\xbf"

#: How many lines at most show in what a file is written.
_LOOKED_AT = 100
#: How many of a file's first bytes show what it is compressed with.
MAGIC_BYTES = 8
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz"}
#: What a damaged file of these raises.
DAMAGED = (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error)

_SUBMIT = "stockpot batch submit -"
_FOREIGN: tuple[tuple[bytes, str, str], ...] = (
    (b"\x28\xb5\x2f\xfd", "is compressed with zstd", f"zstd -dc {{file}} | {_SUBMIT}"),
    (b"\x04\x22\x4d\x18", "is compressed with lz4", f"lz4 -dc {{file}} | {_SUBMIT}"),
    (b"7z\xbc\xaf\x27\x1c", "is a 7z archive", f"7z e -so {{file}} | {_SUBMIT}"),
    (b"PK\x03\x04", "is a zip archive", f"unzip -p {{file}} | {_SUBMIT}"),
    (
        b"PAR1",
        "is a Parquet file",
        """duckdb -c "COPY (SELECT * FROM {file}) TO 'prompts.jsonl' (FORMAT json)", of columns custom_id, method, url, body""",
    ),
    (b"\x1f\x8b", "is compressed twice with gzip", f"gunzip -c {{file}} | gunzip | {_SUBMIT}"),
    (b"\x5d\x00\x00", "is compressed with lzma", f"xz --format=lzma -dc {{file}} | {_SUBMIT}"),
    (b"\xff\xfe\x00\x00", "is UTF-32", f"iconv -f UTF-32 -t UTF-8 {{file}} | {_SUBMIT}"),
    (b"\x00\x00\xfe\xff", "is UTF-32", f"iconv -f UTF-32 -t UTF-8 {{file}} | {_SUBMIT}"),
    (b"\xff\xfe", "is UTF-16", f"iconv -f UTF-16 -t UTF-8 {{file}} | {_SUBMIT}"),
    (b"\xfe\xff", "is UTF-16", f"iconv -f UTF-16 -t UTF-8 {{file}} | {_SUBMIT}"),
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


def foreign(name: str, path: str, head: bytes, *, cut: bool = False, shapes: bool = True) -> str | None:
    """Why a file with this beginning (decompressed) is not read, and how to convert it; None: it may be JSON lines.

    Args:
        cut: the file goes on behind `head`.
        shapes: look at what the lines have, too.
    """
    file = shlex.quote(path)
    for magic, what, command in _FOREIGN:
        if head.startswith(magic):
            return f"{name} {what}: {command.format(file=file)}"
    if head[257:262] == b"ustar":
        return f"{name} is a tar archive: tar -xOf {file} | {_SUBMIT}"
    if head[:4].count(0) and head[:200].count(0) * 3 > len(head[:200]):
        wide = "UTF-32" if head[:8].count(0) > 4 else "UTF-16LE" if head[1:2] == b"\x00" else "UTF-16BE"
        return f"{name} is {wide}: iconv -f {wide} -t UTF-8 {file} | {_SUBMIT}"
    text = head.removeprefix(UTF8_MARK)
    if (why := _other_text(name, file, text)) is not None or not shapes:
        return why
    lines = [line.strip() for line in text.split(b"\n")[: -1 if cut else None]]
    return _other_lines(name, file, [line for line in lines if line][:_LOOKED_AT])


def _other_lines(name: str, file: str, lines: list[bytes]) -> str | None:
    if not lines:
        return None
    if not lines[0].startswith(b"{"):
        return other_text(name, file, lines)
    return other_json(name, file, lines[0]) or foreign_encoding(name, file, lines)


def _other_text(name: str, file: str, head: bytes) -> str | None:
    text = head.lstrip()
    first = text.partition(b"\n")[0].strip()
    if text.startswith(b"["):
        return f"{name} is one JSON array, not a request per line: jq -c '.[]' {file} | {_SUBMIT}"
    if first == b"{":
        return f"{name} has JSON objects over several lines, not a request per line: jq -c . {file} | {_SUBMIT}"
    if b"\n" not in head and b"}\r{" in head:
        return f"{name} has line ends of old Macs (CR): tr '\\r' '\\n' < {file} | {_SUBMIT}"
    if first.startswith(b"{") or not first:
        return None
    return _table(name, file, head.splitlines()[:2])


def _table(name: str, file: str, lines: list[bytes]) -> str | None:
    """A file of rows: as many commas, semicolons or tabs in its second line as in its first, or at least one in its only."""
    delimiter = next(
        (one for one in (b"\t", b";", b",") if lines[0].count(one) and all(line.count(one) for line in lines)), None
    )
    if delimiter is None or any(line.lstrip().startswith(b"{") for line in lines):
        return None
    names = [part.strip().strip('"') for part in lines[0].decode("utf-8", "replace").split(delimiter.decode())]
    prompt = "prompt" if "prompt" in names or not names[0].isidentifier() else names[0]
    reader = "csv.DictReader(sys.stdin" + ("" if delimiter == b"," else f",delimiter={_spelled(delimiter)}") + ")"
    program = (
        f'import csv,json,sys;[print(json.dumps({{"custom_id":str(n),"method":"POST","url":"/v1/chat/completions",'
        f'"body":{{"model":"MODEL","messages":[{{"role":"user","content":r["{prompt}"]}}]}}}})) for n,r in enumerate({reader},1)]'
    )
    return f"{name} looks like CSV; with your MODEL: python3 -c '{program}' < {file} | {_SUBMIT}"


def _spelled(delimiter: bytes) -> str:
    return '"\\t"' if delimiter == b"\t" else f'"{delimiter.decode()}"'
