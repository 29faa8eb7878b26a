"""What a batch file may be: read as it is, or refused in one sentence that says how to convert it."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import re
import shlex
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from api_schemas.batch import BatchProblem
from tests.factories import chat
from worker.base.errors import InvalidRequest
from worker.batches.reading import BatchFile
from worker.batches.survey import Survey, survey

LONGEST = 4_096
LINES = "".join(
    json.dumps({"custom_id": f"r-{n}", "method": "POST", "url": "/v1/chat/completions", "body": chat(f"ü {n}")}) + "\n"
    for n in range(1, 41)
)


def surveyed(path: Path) -> tuple[Survey, list[BatchProblem]]:
    problems: list[BatchProblem] = []
    with BatchFile(str(path), home=path.parent) as file:
        return survey(file, max_line_bytes=LONGEST, on_problem=problems.append), problems


@pytest.mark.parametrize(
    "packed",
    [
        gzip.compress,
        bz2.compress,
        lzma.compress,
        lambda raw: b"\xef\xbb\xbf" + raw,
        lambda raw: gzip.compress(b"\xef\xbb\xbf" + raw),
        lambda raw: raw.replace(b"\n", b"\r\n"),
        lambda raw: gzip.compress(raw[:1_000]) + gzip.compress(raw[1_000:]),
    ],
)
def test_what_is_read_as_it_is(tmp_path: Path, packed: Callable[[bytes], bytes]) -> None:
    """Compressed, with a byte order mark, with DOS line ends, of several members."""
    path = tmp_path / "in.any"
    path.write_bytes(packed(LINES.encode()))
    found, problems = surveyed(path)
    assert (found.lines, problems) == (40, [])


CSV = "id,prompt\n1,hello\n2,world\n"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\x28\xb5\x2f\xfd rest", "zstd -dc"),
        (b"PK\x03\x04 rest", "unzip -p"),
        (b"7z\xbc\xaf\x27\x1c rest", "7z e -so"),
        (b"\x04\x22\x4d\x18 rest", "lz4 -dc"),
        (b"PAR1 rest", "Parquet"),
        (LINES.encode("utf-16"), "iconv -f UTF-16 "),
        (LINES.encode("utf-16-le"), "iconv -f UTF-16LE"),
        (LINES.encode("utf-16-be"), "iconv -f UTF-16BE"),
        (json.dumps([{"custom_id": "a"}]).encode(), "jq -c '.[]'"),
        (b'\n [\n  {"custom_id": "a"}\n]', "jq -c '.[]'"),
        (gzip.compress(b"[1, 2]", mtime=0), "jq -c '.[]'"),
        (b'{\n  "custom_id": "a"\n}\n', "jq -c ."),
        (LINES.replace("\n", "\r").encode(), "tr '\\r' '\\n'"),
        (LINES.encode("utf-32"), "iconv -f UTF-32 "),
        (gzip.compress(gzip.compress(LINES.encode(), mtime=0), mtime=0), "/in.any | gzip -dc |"),
        (lzma.compress(LINES.encode(), format=lzma.FORMAT_ALONE), "xz --format=lzma -dc"),
        (LINES.replace('{"custom_id"', '{"é": 1, "custom_id"').encode("latin-1"), "iconv -f WINDOWS-1252"),
        (b"SQLite format 3\x00 rest", "no text in UTF-8"),
        (b"<!doctype html>\n<title>Log in</title>", "HTML or XML"),
        (b'{"custom_id": "a", "response": {"status_code": 200}, "error": null}\n', "holds answers"),
        (b"{'custom_id': 'a', 'method': 'POST'}\n", "Python"),
        (CSV.encode(), "looks like CSV"),
        (CSV.replace(",", ";").encode(), "looks like CSV"),
        (CSV.replace(",", "\t").encode(), "looks like CSV"),
    ],
)
def test_all_else_is_refused_in_one_sentence(tmp_path: Path, content: bytes, says: str) -> None:
    """It names the file and the command that converts it, however many lines the file has."""
    path = tmp_path / "in.any"
    path.write_bytes(content)
    with pytest.raises(InvalidRequest) as caught:
        surveyed(path)
    [problem] = caught.value.problems
    assert problem.message.startswith("in.any ")
    assert says in problem.message
    assert "\n" not in problem.message


ASKED = [{"role": "user", "content": "hello"}]
OTHERS = [
    "hello\nworld\n",
    *(
        json.dumps(line) + "\n"
        for line in (
            {"custom_id": "a", "params": {"model": "m", "max_tokens": 5, "system": "be kind", "messages": ASKED}},
            {"key": "a", "request": {"contents": [{"role": "user", "parts": [{"text": "hello"}]}]}},
            {"model": "m", "messages": ASKED},
            {"messages": ASKED},
            {"id": 1, "prompt": "hello"},
            {"requests": [json.loads(LINES.partition("\n")[0].replace("r-1", "hello"))]},
        )
    ),
    LINES.partition("\n")[0].replace("r-1", "hello") + ",\n",
    LINES.partition("\n")[0] + LINES.partition("\n")[0].replace("r-1", "hello") + "\n",
]


def zipped(raw: bytes) -> bytes:
    kept = io.BytesIO()
    with zipfile.ZipFile(kept, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("in.jsonl", raw)
        archive.writestr("__MACOSX/._in.jsonl", b"what a Mac adds")
    return kept.getvalue()


def tarred(raw: bytes) -> bytes:
    kept = io.BytesIO()
    with tarfile.open(fileobj=kept, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        named = tarfile.TarInfo("in.jsonl")
        named.size = len(raw)
        archive.addfile(named, io.BytesIO(raw))
    return kept.getvalue()


def by_tool(*command: str) -> Callable[[bytes], bytes] | None:
    if shutil.which(command[0]) is None:
        return None
    return lambda raw: subprocess.run(command, input=raw, capture_output=True, check=True).stdout


MARK = "\ufeff"
HELLO = LINES.replace(json.dumps("ü 1")[1:], 'hello"').encode()
#: How each kind is made that is refused with a command.
CONVERTED: dict[str, bytes] = {
    "utf-16": HELLO.decode().encode("utf-16"),
    "utf-16-le": HELLO.decode().encode("utf-16-le"),
    "utf-16-be": HELLO.decode().encode("utf-16-be"),
    "utf-32": HELLO.decode().encode("utf-32"),
    "utf-32-le": HELLO.decode().encode("utf-32-le"),
    "latin-1": HELLO.replace(b"\\u00fc", "ü".encode("latin-1")),
    "old Macs": HELLO.replace(b"\n", b"\r"),
    "array": b"[" + HELLO.strip().replace(b"\n", b",\n") + b"]",
    "array with a mark": MARK.encode() + b"[" + HELLO.strip().replace(b"\n", b",") + b"]",
    "indented": b"\n".join(json.dumps(json.loads(line), indent=2).encode() for line in HELLO.splitlines()),
    "gzip": gzip.compress(HELLO),
    "bzip2": bz2.compress(HELLO),
    "xz": lzma.compress(HELLO),
    "lzma": lzma.compress(HELLO, format=lzma.FORMAT_ALONE),
    "zip": zipped(HELLO),
    "tar": tarred(HELLO),
    "python": b"\n".join(str(json.loads(line)).encode() for line in HELLO.splitlines()),
    "csv": CSV.encode(),
    "csv with a mark": (MARK + CSV).encode(),
    "csv with ;": CSV.replace(",", ";").encode(),
    "csv with tabs": CSV.replace(",", "\t").encode(),
    "csv whose cells have line ends": b'id,question\r\n1,"hello\r\nthere"\r\n',
    "csv without names": b"hello you,1 a\nworld,2 a\n",
    "prompts without an end": b'{"prompt":"hello"}\n{"prompt":"b"}\n{"prompt":"c"}',
    "text with a mark": (MARK + "hello\n\nworld").encode(),
    **{f"making {number}": content.encode() for number, content in enumerate(OTHERS)},
    **{
        tool: pack(HELLO)
        for tool, pack in {"zstd": by_tool("zstd", "-c"), "lz4": by_tool("lz4", "-c")}.items()
        if pack is not None
    },
}
#: Their tools; all others are everywhere.
TOOLS = {"jq", "unzip", "zstd", "lz4", "xz"}


@pytest.mark.parametrize(
    ("kind", "through"),
    [
        *((kind, through) for kind in CONVERTED for through in ("a file", "gzip")),
        *((kind, through) for kind in ("array", "zip", "csv") for through in ("xz", "a pipe", "a pipe of bzip2")),
    ],
)
def test_the_command_that_converts_a_file_makes_a_batch_file(tmp_path: Path, kind: str, through: str) -> None:
    """As it is pasted: whatever the file is compressed with, in a folder with a space; of a pipe behind what writes it."""
    packs: dict[str, Callable[[bytes], bytes]] = {
        "gzip": gzip.compress,
        "xz": lzma.compress,
        "a pipe of bzip2": bz2.compress,
    }
    pack = packs.get(through)
    if kind in {"gzip", "bzip2", "xz"} and pack is None:
        pytest.skip("that is read as it is")
    folder = tmp_path / "my prompts"
    folder.mkdir()
    path = folder / "in.any"
    path.write_bytes(CONVERTED[kind] if pack is None else pack(CONVERTED[kind]))
    with pytest.raises(InvalidRequest) as caught:
        if "pipe" in through:
            with path.open("rb") as stdin, BatchFile("-", home=tmp_path, stdin=stdin) as file:
                survey(file, max_line_bytes=LONGEST, on_problem=lambda _: None)
        else:
            surveyed(path)
    command = caught.value.problems[0].message.partition(": ")[2].removesuffix(" | stockpot batch submit -")
    if any(re.search(rf"\b{tool}\b", command) and shutil.which(tool) is None for tool in TOOLS):
        pytest.skip("its tool is not installed")
    assert ("…" in command) == ("pipe" in through)
    command = command.replace("…", f"cat {shlex.quote(str(path))}")
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=True)
    made = tmp_path / "in.jsonl"
    made.write_text(done.stdout)
    found, problems = surveyed(made)
    assert (found.lines > 0, problems) == (True, [])
    assert "hello" in done.stdout


def test_a_bad_line_among_good_ones_is_a_problem_of_its_own(tmp_path: Path) -> None:
    """A comment at the top, a line of another encoding, a line of nothing that is JSON: the others may still run."""
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"// mine\n" + LINES.encode() + b'{"custom_id": "\xe9"}\nnonsense\n')
    found, problems = surveyed(path)
    assert (found.lines, found.bad_lines, len(problems)) == (43, 3, 3)


@pytest.mark.parametrize("packed", [gzip.compress, bz2.compress, lzma.compress])
def test_what_is_damaged_is_said_with_its_line(tmp_path: Path, packed: Callable[[bytes], bytes]) -> None:
    """Not with a traceback of a library."""
    path = tmp_path / "in.any"
    path.write_bytes(packed(LINES.encode() * 20)[:-30])
    with pytest.raises(InvalidRequest, match=r"data is damaged after line [\d,]+ "):
        surveyed(path)


def test_a_line_that_is_too_long_is_told_with_its_size_and_the_setting(tmp_path: Path) -> None:
    """Wherever its end is, with or without a line end; the next line keeps its number."""
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"x" * 5_000_000 + b"\n" + LINES.encode() + b"y" * 700_000)
    found, problems = surveyed(path)
    assert (found.lines, found.bad_lines) == (42, 2)
    assert [(one.line, one.message) for one in problems] == [
        (1, "has 5,000,000 bytes; STOCKPOT_MAX_REQUEST_BYTES allows 4,096"),
        (42, "has 700,000 bytes; STOCKPOT_MAX_REQUEST_BYTES allows 4,096"),
    ]


def test_a_device_without_an_end_is_refused_and_an_empty_one_is_empty(tmp_path: Path) -> None:
    """It would be read for ever."""
    with pytest.raises(OSError, match="without an end"):
        BatchFile("/dev/zero", home=tmp_path)
    with BatchFile("/dev/null", home=tmp_path) as file:
        assert list(file.lines(longest=LONGEST)) == []
