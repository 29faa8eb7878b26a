"""Reading a batch file whole: every bad line is named, whatever is wrong with it, in bounded memory."""

from __future__ import annotations

import gzip
import io
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api_schemas.batch import BatchProblem
from tests.factories import chat
from worker.base.errors import InvalidRequest
from worker.batches.reading import BatchFile, FileChanged
from worker.batches.repeats import Repeats
from worker.batches.survey import Survey, survey

LONGEST = 64 * 1024


def line(number: int, **changes: Any) -> dict[str, Any]:
    """A valid line with changes; a value of `...` removes a field."""
    made = {"custom_id": f"r-{number}", "method": "POST", "url": "/v1/chat/completions", "body": chat()} | changes
    return {name: value for name, value in made.items() if value is not ...}


def surveyed(content: bytes, tmp_path: Path) -> tuple[Survey, list[BatchProblem]]:
    path = tmp_path / "in.jsonl"
    path.write_bytes(content)
    problems: list[BatchProblem] = []
    with BatchFile(str(path), home=tmp_path) as file:
        return survey(file, max_line_bytes=LONGEST, on_problem=problems.append), problems


def text(*documents: Any) -> bytes:
    return b"".join(json.dumps(one).encode() + b"\n" for one in documents)


#: Twenty ways to be wrong: what the line is, and which field is named.
KINDS: list[tuple[str | None, Callable[[int], bytes]]] = [
    (None, lambda n: b"{not json\n"),
    (None, lambda n: b"[1, 2]\n"),
    (None, lambda n: b'"text"\n'),
    (None, lambda n: b'{"custom_id": "\xff"}\n'),
    (None, lambda n: b'{"a": ' + b"[" * 100 + b"]" * 100 + b"}\n"),
    (None, lambda n: json.dumps(line(n, body=chat("x" * LONGEST))).encode() + b"\n"),
    ("custom_id", lambda n: text(line(n, custom_id=...))),
    ("custom_id", lambda n: text(line(n, custom_id=7))),
    ("custom_id", lambda n: text(line(n, custom_id=""))),
    ("custom_id", lambda n: text(line(n, custom_id="x" * 513))),
    ("method", lambda n: text(line(n, method="GET"))),
    ("method", lambda n: text(line(n, method=...))),
    ("url", lambda n: text(line(n, url=...))),
    ("url", lambda n: text(line(n, url="/v1/embeddings"))),
    ("body", lambda n: text(line(n, body=...))),
    ("body", lambda n: text(line(n, body="prompt"))),
    ("body.model", lambda n: text(line(n, body={"messages": [{"role": "user", "content": "x"}]}))),
    ("body.messages", lambda n: text(line(n, body={"model": "m", "messages": "x"}))),
    ("body.messages[0].role", lambda n: text(line(n, body={"model": "m", "messages": [{"content": "x"}]}))),
    ("body.input", lambda n: text(line(n, url="/v1/responses", body={"model": "m"}))),
]


def test_a_thousand_bad_lines_of_twenty_kinds_are_each_found_with_their_line_and_field(tmp_path: Path) -> None:
    """Between as many good ones, in one pass, all of them."""
    content, expected = [], {}
    for number in range(1, 2_001):
        if number % 2:
            content.append(text(line(number)))
            continue
        field, bad = KINDS[number // 2 % len(KINDS)]
        content.append(bad(number))
        expected[number] = field
    found, problems = surveyed(b"".join(content), tmp_path)
    assert (found.lines, found.bad_lines, found.valid) == (2_000, 1_000, False)
    assert {problem.line for problem in problems} == set(expected)
    named: dict[int, set[str | None]] = {}
    for problem in problems:
        named.setdefault(problem.line or 0, set()).add(problem.param)
    assert all(field in named[number] for number, field in expected.items())
    assert all(problem.message for problem in problems)
    assert found.models["m/one"].lines == 1_000


def test_a_repeated_custom_id_is_told_with_both_lines(tmp_path: Path) -> None:
    """The second and the third line name the first."""
    documents = [line(1), line(2, custom_id="same"), line(3), line(4, custom_id="same"), line(5, custom_id="same")]
    found, problems = surveyed(text(*documents), tmp_path)
    assert [(problem.line, problem.param) for problem in problems] == [(4, "custom_id"), (5, "custom_id")]
    assert all("line 2 " in problem.message for problem in problems)
    assert found.bad_lines == 2


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(min_size=1, max_size=3), max_size=60))
def test_custom_ids_are_compared_exactly(ids: list[str]) -> None:
    """The digests find what a dictionary finds."""
    kept = Repeats()
    first: dict[str, int] = {}
    for number, one in enumerate(ids, 1):
        kept.add(one.encode("utf-8", "surrogatepass"), number)
        first.setdefault(one, number)
    expected = [0] + [first[one] if first[one] != number else 0 for number, one in enumerate(ids, 1)]
    assert list(kept.firsts()) == expected


def test_gzip_stdin_and_a_plain_file_read_the_same(tmp_path: Path) -> None:
    """Numbers count lines of the file; blank ones are skipped and counted."""
    plain = text(line(1)) + b"\n  \n" + text(line(4))[:-1]
    zipped = tmp_path / "in.gz"
    zipped.write_bytes(gzip.compress(plain))
    (tmp_path / "in.jsonl").write_bytes(plain)
    for source, stdin in ((str(zipped), None), (str(tmp_path / "in.jsonl"), None), ("-", io.BytesIO(plain))):
        with BatchFile(source, home=tmp_path / "home", stdin=stdin) as file:
            for _ in range(2):
                assert [number for number, _, _ in file.lines(longest=LONGEST)] == [1, 4]
    assert list((tmp_path / "home").iterdir()) == [], "the spooled stdin is gone"


def test_damaged_gzip_is_refused_in_words(tmp_path: Path) -> None:
    """Not with a traceback of zlib."""
    path = tmp_path / "in.gz"
    path.write_bytes(gzip.compress(text(*(line(n) for n in range(1, 500))))[:-20])
    with BatchFile(str(path), home=tmp_path) as file, pytest.raises(InvalidRequest, match="gzip data is damaged"):
        list(file.lines(longest=LONGEST))


def test_a_file_that_is_written_to_meanwhile_is_noticed(tmp_path: Path) -> None:
    """What was validated must be what is imported."""
    path = tmp_path / "in.jsonl"
    path.write_bytes(text(line(1)))
    with BatchFile(str(path), home=tmp_path) as file:
        file.check_unchanged()
        with path.open("ab") as more:
            more.write(text(line(2)))
        with pytest.raises(FileChanged):
            file.check_unchanged()


def test_a_line_without_an_end_is_not_read_into_memory(tmp_path: Path) -> None:
    """Only its beginning, and the next line keeps its number."""
    found, problems = surveyed(b"x" * (LONGEST * 40) + b"\n" + text(line(2)), tmp_path)
    assert (found.lines, found.bad_lines) == (2, 1)
    assert Counter(problem.line for problem in problems) == {1: 1}
    path = tmp_path / "in.jsonl"
    with BatchFile(str(path), home=tmp_path) as file:
        assert max(len(raw) for _, raw, _ in file.lines(longest=LONGEST)) <= LONGEST + 2
