"""`stockpot batch` as a user runs it: real commands, a real worker, the simulator; killed at any moment, run again."""

from __future__ import annotations

import contextlib
import json
import math
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from openai.types.chat import ChatCompletion
from openai.types.responses import Response

from tests.factories import opened, rows
from tests.rig import procs
from tests.rig.procs import Process
from tests.rig.waiting import eventually

STOCKPOT = Path(sys.executable).with_name("stockpot")
CHAT = "openai/gpt-4o-mini"
PATIENCE = 240.0

Environment = Callable[..., dict[str, str]]
Launch = Callable[..., Process]


@pytest.fixture
def upstream(launch: Launch, tmp_path: Path) -> str:
    """The simulator, answering at once; its base URL."""
    command = [
        sys.executable,
        "-m",
        "worker.simulator",
        "--instant",
        "--no-fsync",
        "--journal",
        tmp_path / "journal",
    ]
    simulator = launch(command, name="simulator")
    line = eventually(lambda: next((one for one in simulator.stdout.read_text().splitlines() if '"url"' in one), None))
    return f"{json.loads(str(line))['url']}/v1"


@pytest.fixture
def env(stockpot_env: Environment, database_url: str, redis_url: str, upstream: str) -> dict[str, str]:
    """A user's environment, on either database."""
    return stockpot_env(database_url=database_url, redis_url=redis_url, upstream_url=upstream, concurrency=50)


def stockpot(
    env: dict[str, str], *arguments: object, check: int | None = 0, **how: Any
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    done = procs.run([STOCKPOT, *map(str, arguments)], env=env, timeout=PATIENCE, **how)
    assert check is None or done.returncode == check, done.stderr
    return done


def write_file(path: Path, lines: int, **body: Any) -> Path:
    with path.open("w") as file:
        for number in range(1, lines + 1):
            asked = {
                "model": CHAT,
                "messages": [{"role": "user", "content": f"prompt {number}"}],
                "max_tokens": 8,
                **body,
            }
            line = {"custom_id": f"r-{number}", "method": "POST", "url": "/v1/chat/completions", "body": asked}
            file.write(json.dumps(line) + "\n")
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


#: As OpenAI's batch guide shows it (line breaks removed), with models that the simulator has, and a responses line.
GUIDE = """\
{"custom_id": "request-1", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "openai/gpt-4o-mini", "messages": [{"role": "system", "content": "You are a helpful assistant."},{"role": "user", "content": "Hello world!"}],"max_tokens": 100}}
{"custom_id": "request-2", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "openai/gpt-4o-mini", "messages": [{"role": "system", "content": "You are an unhelpful assistant."},{"role": "user", "content": "Hello world!"}],"max_tokens": 100}}
{"custom_id": "request-3", "method": "POST", "url": "/v1/responses", "body": {"model": "openai/gpt-4o-mini", "input": "Hello world!", "max_output_tokens": 100}}
{"custom_id": "request-4", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "sim:404", "messages": [{"role": "user", "content": "Hello world!"}]}}
"""


@pytest.mark.slow
def test_a_file_of_the_openai_guide_goes_in_and_a_program_written_for_openai_reads_what_comes_out(
    env: dict[str, str], start_worker: Callable[..., Process], tmp_path: Path
) -> None:
    """The output's bodies are the SDK's own types; what the upstream refused is in the error file with its status."""
    source, out = tmp_path / "batchinput.jsonl", tmp_path / "batch_output.jsonl"
    source.write_text(GUIDE)
    start_worker(env)
    done = stockpot(env, "batch", "submit", source, "--wait", "--output", out, "--json", check=1)
    batch = json.loads(done.stdout.splitlines()[-1])
    assert (batch["object"], batch["status"]) == ("batch", "completed")
    assert batch["request_counts"] == {"total": 4, "completed": 3, "failed": 1}
    assert batch["usage"]["total_tokens"] > 0
    found = {line["custom_id"]: line for line in read(out)}
    assert set(found) == {"request-1", "request-2", "request-3"}
    assert all((line["response"]["status_code"], line["error"]) == (200, None) for line in found.values())
    for name in ("request-1", "request-2"):  # as the SDK reads answers: without validation
        assert ChatCompletion.construct(**found[name]["response"]["body"]).choices[0].message.content
    assert Response.construct(**found["request-3"]["response"]["body"]).output_text
    [refused] = read(tmp_path / "batch_output.errors.jsonl")
    assert refused["custom_id"] == "request-4"
    assert refused["response"]["status_code"] in {400, 404}
    report = json.loads((tmp_path / "batch_output.report.json").read_text())
    assert (report["calls"], report["batch"]["id"]) == (4, batch["id"])
    page = (tmp_path / "batch_output.report.html").read_text()
    assert "<svg" in page
    assert "request-4" in page


@pytest.mark.slow
def test_two_thousand_lines_are_each_called_once_and_answered_once(
    env: dict[str, str], start_worker: Callable[..., Process], tmp_path: Path
) -> None:
    """From the file to the results, through a worker, in the order of the file."""
    out = tmp_path / "out.jsonl"
    start_worker(env)
    made = stockpot(env, "batch", "submit", write_file(tmp_path / "in.jsonl", 2_000))
    batch = made.stdout.strip()
    watched = stockpot(env, "batch", "status", batch, "--watch")
    assert "2,000 completed" in watched.stderr
    stockpot(env, "batch", "results", batch, "-o", out)
    assert [line["custom_id"] for line in read(out)] == [f"r-{number}" for number in range(1, 2_001)]
    with opened(env["STOCKPOT_DATABASE_URL"]) as database:
        [counts] = rows(database, "SELECT count(*) AS n, count(DISTINCT job_id) AS jobs FROM attempts")
        assert (counts["n"], counts["jobs"]) == (2_000, 2_000)
        [sums] = rows(database, "SELECT SUM(cost_picousd) AS cost, SUM(total_tokens) AS tokens FROM attempts")
        [own] = rows(database, "SELECT cost_picousd, total_tokens FROM batches")
        assert (own["cost_picousd"], own["total_tokens"]) == (sums["cost"], sums["tokens"])
    listed = stockpot(env, "batch", "list", "--json").stdout.splitlines()
    assert [json.loads(line)["id"] for line in listed] == [batch]
    capped, some = write_file(tmp_path / "capped.jsonl", 40, max_tokens=9), tmp_path / "some.jsonl"
    stands = stockpot(
        env, "batch", "submit", capped, "--max-cost", "0.00006", "--wait", "--output", some, check=1
    ).stderr
    answered = len(read(some))
    assert 0 < answered < 40
    assert f"has reached its --max-cost of $0.000060: {40 - answered} lines are not called. Go on: " in stands
    assert f"{answered} lines are written. Go on from there: stockpot batch results batch_" in stands


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_submit_killed_at_ten_random_moments_and_run_again_makes_one_batch_with_each_line_once(
    env: dict[str, str], launch: Launch, tmp_path: Path
) -> None:
    """Half of the kills fall anywhere, the others between two slices of the import."""
    lines = 40_000
    source = write_file(tmp_path / "in.jsonl", lines)
    command = [STOCKPOT, "batch", "submit", source]
    rng = random.Random(72)
    began = time.monotonic()
    stockpot(env, "batch", "quote", source)
    whole = time.monotonic() - began
    killed = 0
    with opened(env["STOCKPOT_DATABASE_URL"]) as database:

        def imported() -> int:
            return sum(row["imported"] for row in rows(database, "SELECT imported FROM batches"))

        for turn in range(10):
            before = imported()
            process = launch(command, name=f"submit-{turn}", env=env)
            # A random moment, or the first slices if they come before it: so none of the ten runs reaches its end.
            moment = time.monotonic() + (math.inf if turn % 2 else rng.uniform(0.1, 1.2) * whole)
            eventually(
                lambda: time.monotonic() >= moment or imported() > before or not process.running, timeout=PATIENCE
            )
            with contextlib.suppress(ProcessLookupError):
                process.kill9()
                killed += 1
    assert killed >= 5
    stockpot(env, *command[1:])
    with opened(env["STOCKPOT_DATABASE_URL"]) as database:
        [batch] = rows(database, "SELECT id, total, imported FROM batches")
        assert (batch["total"], batch["imported"]) == (lines, lines)
        [counts] = rows(
            database,
            "SELECT count(*) AS n, count(DISTINCT custom_id) AS ids, min(line) AS first, max(line) AS last FROM jobs",
        )
        assert dict(counts) == {"n": lines, "ids": lines, "first": 1, "last": lines}
        assert rows(database, "SELECT count(*) AS n FROM requests")[0]["n"] == lines


@pytest.mark.slow
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)  # a matter of the command alone
def test_ctrl_c_detaches_and_the_batch_goes_on(
    env: dict[str, str], start_worker: Callable[..., Process], launch: Launch, tmp_path: Path
) -> None:
    """It says how to attach again. One whose first lines all fail alike holds itself, and who waits is told."""
    source = write_file(tmp_path / "in.jsonl", 5)
    never = write_file(tmp_path / "never.jsonl", 60, model="sim:404")
    waiting = launch([STOCKPOT, "batch", "submit", source, "--wait"], name="waiting", env=env)
    batch = eventually(lambda: next((w for w in waiting.stderr.read_text().split() if w.startswith("batch_")), None))
    waiting.send(signal.SIGINT)
    assert waiting.wait(PATIENCE) == 130
    assert f"stockpot batch status {batch} --watch" in waiting.stderr.read_text()
    start_worker(env)
    assert stockpot(env, "batch", "status", batch, "--watch").returncode == 0
    unknown = never.read_text().replace("sim:404", "none/such")
    quoted = stockpot(env, "batch", "quote", "-", stdin=unknown).stdout
    assert "the upstream's list of models lacks none/such: every call to it may fail" in quoted
    stands = stockpot(env, "batch", "submit", never, "--wait", check=1)
    assert "holds itself: its first 20 lines all failed alike (" in stands.stderr
    assert "stockpot batch resume batch_" in stands.stderr and "stockpot batch cancel batch_" in stands.stderr


def test_a_quote_tells_every_bad_line_and_stores_nothing(stockpot_env: Environment, tmp_path: Path) -> None:
    """Exit code 1; a valid file costs nothing to ask about. The upstream need not answer."""
    env = stockpot_env(upstream_url="http://127.0.0.1:9/v1", database_url=f"sqlite:///{tmp_path}/none.db")
    source = write_file(tmp_path / "in.jsonl", 3)
    quoted = json.loads(stockpot(env, "batch", "quote", source, "--json").stdout)
    assert (quoted["lines"], quoted["bad_lines"], quoted["cost_usd"]) == (3, 0, None)
    source.write_text(source.read_text() + "{}\nnonsense\n")
    done = stockpot(env, "batch", "quote", "-", "--json", check=1, stdin=source.read_text())
    *problems, quoted = map(json.loads, done.stdout.splitlines())
    assert [problem["line"] for problem in problems] == [4, 4, 4, 4, 5]
    assert (quoted["lines"], quoted["bad_lines"]) == (5, 2)
    assert not (tmp_path / "none.db").exists()
    refused = stockpot(env, "batch", "submit", source, check=1)
    assert "line 5" in refused.stderr
    assert "nothing was submitted" in refused.stderr
    assert stockpot(env, "batch", "list", "--json").stdout == ""


@pytest.mark.slow
def test_a_paused_batch_waits_and_a_cancelled_one_keeps_what_is_done(
    env: dict[str, str], start_worker: Callable[..., Process], tmp_path: Path
) -> None:
    """Every custom_id ends once, in the output or in the errors."""
    source, out = write_file(tmp_path / "in.jsonl", 400, model="sim:delay=300"), tmp_path / "out.jsonl"
    batch = stockpot(env, "batch", "submit", source, "--max-in-flight", "2").stdout.strip()
    start_worker(env)

    def counts() -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(stockpot(env, "batch", "status", batch, "--json").stdout)
        return answer

    eventually(lambda: counts()["request_counts"]["completed"] > 0, timeout=PATIENCE)
    stockpot(env, "batch", "pause", batch)
    eventually(lambda: counts()["in_flight"] == 0, timeout=PATIENCE)
    stood = counts()
    assert stood["held"] == "paused"
    stockpot(env, "batch", "cancel", batch)
    eventually(lambda: counts()["status"] == "cancelled", timeout=PATIENCE)
    stockpot(env, "batch", "results", batch, "-o", out)
    found = [line["custom_id"] for line in read(out) + read(tmp_path / "out.errors.jsonl")]
    assert sorted(found) == sorted(f"r-{number}" for number in range(1, 401))
    assert len(read(out)) >= stood["request_counts"]["completed"] > 0


@pytest.mark.slow
def test_equal_requests_are_called_once_and_a_reader_that_is_stopped_goes_on_from_its_offset(
    env: dict[str, str], start_worker: Callable[..., Process], launch: Launch, tmp_path: Path
) -> None:
    """Quote, run and report say what is saved; a worker is killed with calls in flight, and the reader with Ctrl-C."""
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    write_file(source, 240, model="sim:delay=100")
    lines = source.read_text().splitlines()
    equal = [re.sub(r"prompt \d+", f"prompt {at % 80}", line) for at, line in enumerate(lines)]
    source.write_text("\n".join(equal))
    quoted = json.loads(stockpot(env, "batch", "quote", source, "--dedupe", "--json").stdout.splitlines()[-1])
    assert (quoted["lines"], quoted["copies"], quoted["models"][0]["lines"]) == (240, 160, 80)
    assert quoted["saved_tokens"] == pytest.approx(2 * quoted["total_tokens"], rel=0.05)
    batch = stockpot(env, "batch", "submit", source, "--dedupe", "--max-in-flight", "3").stdout.strip()
    first = start_worker(env)
    reader = launch([STOCKPOT, "batch", "results", batch, "-o", out, "--follow"], name="reader", env=env)
    eventually(lambda: len(read(out)) >= 10, timeout=PATIENCE)
    reader.send(signal.SIGINT)
    assert reader.wait(PATIENCE) == 130
    command = reader.stderr.read_text().rpartition("Go on from there: stockpot ")[2].split()
    assert command[-1] == str(len(read(out)))
    first.kill9()
    start_worker(env)
    stockpot(env, *command)
    assert sorted(line["custom_id"] for line in read(out)) == sorted(f"r-{number}" for number in range(1, 241))
    report = json.loads(stockpot(env, "batch", "report", batch, "-o", out, "--json").stdout)
    assert (report["batch"]["status"], report["duplicates"], report["saved_calls"]) == ("completed", 160, 160)
    assert json.loads((tmp_path / "out.report.json").read_text()) == report
    assert "160 lines ask what others ask" in stockpot(env, "batch", "status", batch).stdout
    with opened(env["STOCKPOT_DATABASE_URL"]) as database:
        [done] = rows(
            database,
            "SELECT count(*) AS n, count(DISTINCT job_id) AS jobs, SUM(cost_picousd) AS cost FROM attempts"
            " WHERE outcome = 'completed'",
        )
        assert (done["n"], done["jobs"]) == (80, 80)
        assert report["saved_usd"] == pytest.approx(2 * float(done["cost"]) / 1e12)
        # The calls that the killed worker made were billed as well, and are in the batch's cost.
        every = rows(database, "SELECT SUM(cost_picousd) AS cost FROM attempts")[0]["cost"]
        assert rows(database, "SELECT cost_picousd FROM batches")[0]["cost_picousd"] == every >= done["cost"]
