"""`stockpot demo`, as a newcomer runs it: real processes, answers and costs from the database, nothing left behind."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import pytest
from rich.cells import cell_len

from tests.rig.procs import Process
from tests.rig.terminal import Terminal
from worker.base.payloads import Payloads

STOCKPOT = Path(sys.executable).with_name("stockpot")
JOBS = 69  # one streamed, five in parallel, one over HTTP, one called back, one whose worker is killed, sixty in bulk
#: The demo takes about ten seconds on an idle machine.
PATIENCE = 240.0

Environment = Callable[..., dict[str, str]]
Launch = Callable[..., Process]


@pytest.fixture
def newcomer(stockpot_env: Environment) -> dict[str, str]:
    """An environment without a key, whose patience is not that of tests."""
    return stockpot_env(api_key=None, lease_seconds=None, sweep_seconds=None, concurrency=None)


def rows(home: Path, query: str) -> list[tuple[object, ...]]:
    """What the demo's database says."""
    with closing(sqlite3.connect(home / "stockpot.db")) as connection:
        return connection.execute(query).fetchall()


@pytest.mark.slow
def test_the_demo_shows_the_main_job_and_prints_what_the_database_says(
    newcomer: dict[str, str], launch: Launch, home: Path, tmp_path: Path
) -> None:
    """It ends 0, and its totals are those of the database. The leftovers guard sees to its processes.

    Payloads are encrypted with a key of the shell's, which each of its programs and commands has.
    """
    newcomer |= {"STOCKPOT_PAYLOAD_KEY": "a payload key of the shell's that is long enough"}
    demo = launch([STOCKPOT, "demo"], name="demo", env=newcomer, cwd=tmp_path)
    assert demo.wait(PATIENCE) == 0, demo.tail()
    out = demo.stdout.read_text()
    assert "the bundled simulator" in out
    assert "signature verified" in out
    assert re.search(r"^job_\w+: chatcmpl-", out, re.MULTILINE)
    assert rows(home, "SELECT status, count(*) FROM jobs_v GROUP BY status") == [("completed", JOBS)]
    calls, pico, tokens_in, tokens_out = rows(
        home, "SELECT count(*), sum(cost_picousd), sum(input_tokens), sum(output_tokens) FROM attempts"
    )[0]
    total = Decimal(str(pico)) / 10**12
    sums = rf"^in all +{JOBS} +{calls} +{tokens_in:,} +{tokens_out:,} +\${total:.6f}"
    assert re.search(sums, out, re.MULTILINE), demo.tail(20)
    payloads = Payloads([newcomer["STOCKPOT_PAYLOAD_KEY"]])
    [killed] = rows(home, "SELECT job_id FROM attempts_v WHERE outcome = 'lost'")
    assert re.search(rf"^{killed[0]}: completed in attempt 2", out, re.MULTILINE), demo.tail(20)
    assert "stockpot up --simulate" in out
    assert str(home) not in out.partition("ready after")[2], "a file of a home that is removed is named"
    job, stored = rows(home, "SELECT id, text FROM jobs_v ORDER BY id LIMIT 1")[0]
    assert stored is not None
    assert str(payloads.open(str(stored), f"results.text:{job}")) in out
    assert rows(home, "SELECT status FROM webhook_events_v") == [("delivered",)]
    assert "\x1b" not in out, "colours and cursor movements in a pipe"


@pytest.mark.slow
def test_ctrl_c_stops_everything_the_demo_started_and_removes_its_home(
    newcomer: dict[str, str], launch: Launch, home: Path, tmp_path: Path
) -> None:
    """In the middle of its jobs, with a temporary home."""
    env = {name: value for name, value in newcomer.items() if name != "STOCKPOT_HOME"} | {"TMPDIR": str(home)}
    demo = launch([STOCKPOT, "demo"], name="demo", env=env, cwd=tmp_path)
    demo.wait_for_line(r"jobs in parallel", PATIENCE)
    assert list(home.iterdir()), "the temporary home was made here"
    demo.send(signal.SIGINT)
    assert demo.wait(PATIENCE) == 130, demo.tail()
    assert list(home.iterdir()) == []
    assert "Traceback" not in demo.output


@pytest.mark.slow
def test_the_demo_with_a_key_calls_the_upstream_that_is_set_and_fails_when_its_jobs_do(
    newcomer: dict[str, str], launch: Launch, home: Path, tmp_path: Path
) -> None:
    """Answers above a kilobyte are refused here, so the streamed ones fail, with their reason, and the exit code is 1; all in 80 columns."""
    command = [sys.executable, "-m", "worker.simulator", "--no-fsync"]
    simulator = launch(command, name="upstream", env={"PATH": os.environ["PATH"]})
    url = simulator.wait_for_line(r'"url": "(http[^"]+)"')[1]
    settings = {"STOCKPOT_UPSTREAM_URL": f"{url}/v1", "STOCKPOT_MAX_RESPONSE_BYTES": "1024"}
    with Terminal([STOCKPOT, "demo"], env=newcomer | settings | {"AIMLAPI_API_KEY": "sk-demo"}, cwd=tmp_path) as demo:
        assert demo.wait(PATIENCE) == 1, demo.text()
        text = demo.text()
        wide = [line for line in demo.lines() if cell_len(line) > 80]
    assert wide == [], "wider than its terminal"
    assert f"{url}/v1 with your key" in " ".join(text.split())
    failed = rows(home, "SELECT DISTINCT error_class FROM jobs_v WHERE status = 'failed'")
    assert failed == [("too_large",)]
    assert "failed: " in text.partition("The bill")[2]
