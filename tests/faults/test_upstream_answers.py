"""Answers that are odd, hostile, or none: read rightly, refused, and never at the price of memory (F56–F59)."""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.rig.cases import Case, Playbill, differences, play_rows
from tests.rig.procs import Process
from tests.rig.simulated import Knobs
from tests.rig.stage import SetStage
from tests.rig.witness import Witness

pytestmark = pytest.mark.fault

GOOD = ["completed"]

#: F56. One answer, written in every way that the format admits.
WRITTEN = [
    Case("crlf", GOOD),
    Case("cr", GOOD),
    Case("multiline", GOOD),
    Case("bom", GOOD),
    Case("bom", GOOD, stream=False),
    Case("u2028", GOOD),
    Case("u2028", GOOD, stream=False),
    Case("comments", GOOD),
    Case("tokens=8+onebyte", GOOD),
    Case("tokens=8+onebyte", GOOD, stream=False),
    Case("tokens=8+onebyte+crlf+comments+u2028+bom", GOOD),
    Case("tokens=8+onebyte+cr+multiline+u2028", GOOD),
    Case("badutf8@3,ok", ["partial", "completed"], code="invalid_event"),
    Case("badutf8@3,ok", ["retryable", "completed"], stream=False, code="wrong_content"),
]
#: F58. Not what was asked for. An answer is read for what it is; what is none and worth one more try gets exactly one.
WRONG = [
    Case("html,ok", ["retryable", "completed"], code="wrong_content"),
    Case("html,ok", ["retryable", "completed"], stream=False, code="wrong_content"),
    Case("html", ["retryable"] * 2, stream=False, status="failed", error="upstream", code="wrong_content"),
    Case("empty,ok", ["retryable", "completed"], code="wrong_content"),
    Case("empty,ok", ["retryable", "completed"], stream=False, code="wrong_content"),
    Case("jsonforstream", GOOD),
    Case("streamforjson", GOOD, stream=False),
    Case("wrongtype", GOOD),
    Case("wrongtype", GOOD, stream=False),
    Case("status201", GOOD),
    Case("nocost", GOOD),
]
#: F57. JSON that hurts is kept all the same.
TORTURE = [
    Case(f"{step}{after}", outcomes, stream=stream)
    for stream in (True, False)
    for step, after, outcomes in (
        ("nan", "", GOOD),
        ("nul", "", GOOD),
        ("surrogate", "", GOOD),
        ("bigint=5000", "", GOOD),
        ("tokens=4+deep=500", "", GOOD),
    )
]
#: F57. What has no bounds is bounded: 100 MB in one line, without end, or out of a small bomb.
HUGE = [
    Case("bigline=100000000", ["terminal"], status="failed", error="too_large"),
    Case("bigline=100000000", ["terminal"], stream=False, status="failed", error="too_large"),
    Case("endless", ["terminal"], stream=False, status="failed", error="too_large"),
    Case("gzip=100", ["terminal"], status="failed", error="too_large"),
    Case("gzip=100", ["terminal"], stream=False, status="failed", error="too_large"),
]
#: How much a worker may grow while it refuses these, in bytes (the matrix' own number).
MOST_GROWTH = 64 * 1024 * 1024


@pytest.mark.parametrize("database", ["postgres", "sqlite"])
def test_answers_that_are_oddly_written_say_the_same(stage: SetStage, database: str) -> None:
    """F56, F57, F58: the text is the oracle's to the byte, the row is stored, and wrong content is asked for once more."""
    on = stage(database, workers=1, concurrency=60, lease_seconds=60)  # type: ignore[arg-type]
    rows = {
        "the upstream wrote in every way": WRITTEN,
        "the upstream sent what is no answer": WRONG,
        "the upstream sent JSON that hurts": TORTURE,
    }
    bills = play_rows(on, rows, max_attempts=3)
    assert differences(bills) == []
    on.check(all_completed=False)


def test_answers_without_bounds_cost_bounded_memory(stage: SetStage) -> None:
    """F57: what is too large ends its job, and the neighbours of that job do not notice."""
    on = stage("postgres", workers=1, concurrency=20, lease_seconds=60)
    on.load(10)
    on.quiesce()
    worker, neighbours = on.workers[0], []
    bill = Playbill(on)
    with Witness("the upstream sent hundreds of megabytes") as witness:
        base = worker.rss_bytes()
        _forget_peak(worker)
        for case in HUGE:
            witness.inject(partial(bill.play, [case]))
            neighbours += on.load(4)
            on.quiesce()
        peak = _peak_bytes(worker)
        witness.saw(bill.seen())
    on.check(all_completed=False)
    assert bill.differences() == []
    assert {on.job(job)["status"] for job in neighbours} == {"completed"}
    assert peak - base < MOST_GROWTH, f"{(peak - base) / 2**20:.0f} MiB"


def _forget_peak(worker: Process) -> None:
    """Let the kernel measure the peak anew (proc(5), clear_refs)."""
    Path("/proc", str(worker.pid), "clear_refs").write_text("5")


def _peak_bytes(worker: Process) -> int:
    """The most memory that the worker has had since then."""
    peak = re.search(r"^VmHWM:\s+(\d+) kB$", Path("/proc", str(worker.pid), "status").read_text(), re.MULTILINE)
    assert peak is not None
    return int(peak[1]) * 1024


@contextlib.contextmanager
def _strangers_port() -> Iterator[socket.socket]:
    """A host that nobody may call."""
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        stranger.setblocking(False)
        yield stranger


def test_redirects_are_not_followed(stage: SetStage) -> None:
    """F59: the key is for one host; where that host points to is nobody we know."""
    on = stage("postgres", workers=1, lease_seconds=60)
    bill = Playbill(on)
    with _strangers_port() as stranger, Witness("the upstream redirected") as witness:
        url = quote(f"http://127.0.0.1:{stranger.getsockname()[1]}/v1/chat/completions", safe="")
        cases = [
            Case(f"redirect={url}", ["terminal"], stream=stream, status="failed", error="upstream", code="redirect")
            for stream in (True, False)
        ]
        witness.inject(lambda: bill.play(cases))
        on.quiesce()
        witness.saw(Knobs(on.simulator).stats()["statuses"].get("307") == 2)
        with pytest.raises(BlockingIOError):
            stranger.accept()
    on.check(all_completed=False)
    assert bill.differences() == []
