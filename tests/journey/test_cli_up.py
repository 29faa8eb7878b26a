"""`stockpot up --simulate` as a newcomer runs it: work from another terminal, a crash, Ctrl-C, and nobody left behind."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from tests.rig.postgres import PostgresServer
from tests.rig.procs import Process
from tests.rig.waiting import eventually
from worker import embedded
from worker.db.schema import upgrade

STOCKPOT = Path(sys.executable).with_name("stockpot")
MODEL = "openai/gpt-4o-mini"


@pytest.fixture
def run(
    launch: Callable[..., Process], stockpot_env: Callable[..., dict[str, str]], tmp_path: Path
) -> Callable[..., Process]:
    """Starts `stockpot …` in the test's home, without any setting that names an upstream or a key."""
    count = iter(range(1_000))

    def start(*args: str) -> Process:
        env = stockpot_env(STOCKPOT_API_KEY=None)
        return launch([STOCKPOT, *args], name=f"{args[0]}-{next(count)}", env=env, cwd=tmp_path)

    return start


def worker_pid(up: Process) -> int | None:
    """The pid of the one worker that lives under `up`."""
    found = [child.pid for child in psutil.Process(up.pid).children() if "celery" in " ".join(child.cmdline())]
    return found[0] if len(found) == 1 else None


def test_everything_runs_recovers_from_a_crash_and_stops_with_ctrl_c(run: Callable[..., Process], home: Path) -> None:
    """Other terminals need no setting; a killed worker is replaced; Ctrl-C leaves no process and no Valkey."""
    up = run("up", "--simulate")
    up.wait_for_line(r"^Ready\.", timeout=120)

    second_up = run("up", "--simulate")
    assert second_up.wait() == 2, "jobs would go to the one's upstream or to the other's"
    assert f"`stockpot up` runs in {home} already" in second_up.output

    whole = run("submit", "-m", MODEL, "hello", "--wait", "--json")
    assert whole.wait() == 0, whole.tail()
    job = json.loads(whole.stdout.read_text())
    assert job["status"] == "completed" and job["response"]["choices"] and job["cost_usd"] > 0
    assert job["usage"]["total_tokens"] > 0 and [one["outcome"] for one in job["attempt_log"]] == ["completed"]

    streamed = run("submit", "-m", MODEL, "hello", "--stream")
    assert streamed.wait() == 0, streamed.tail()
    assert streamed.stdout.read_text() == job["text"] + "\n"  # the same request has the same answer

    watched = run("watch", job["id"], "--json")
    assert watched.wait() == 0
    events = [json.loads(line) for line in watched.stdout.read_text().splitlines()]
    assert events[-1]["type"] == "job.completed" and {event["job"] for event in events} == {job["id"]}

    refused = run("submit", "-m", f"{MODEL}@sim:400", "hello", "--wait", "--json")
    assert refused.wait() == 1
    assert json.loads(refused.stdout.read_text())["error"]["class"] == "invalid_request"

    used = run("usage", "--by", "model,lane", "--json")
    assert used.wait() == 0
    assert sum(json.loads(line)["cost_usd"] for line in used.stdout.read_text().splitlines()) >= 2 * job["cost_usd"]

    first = eventually(lambda: worker_pid(up))
    assert first is not None
    os.kill(first, signal.SIGKILL)
    up.wait_for_line("SIGKILL; starting it again")
    second = eventually(lambda: (pid := worker_pid(up)) and pid != first and pid, what="another worker")
    assert second
    after = run("submit", "-m", MODEL, "after the crash", "--wait")
    assert after.wait() == 0, after.tail()

    family = psutil.Process(up.pid).children(recursive=True)
    up.send(signal.SIGINT)
    assert up.wait() == 0, up.tail()
    assert "Stopped." in up.output and "Traceback" not in up.output
    eventually(lambda: not any(child.is_running() for child in family), what="the children are gone")
    assert embedded.find(home) is None


def test_sigterm_stops_it_as_ctrl_c_does(run: Callable[..., Process], home: Path) -> None:
    """Two workers, both gone, exit code 0."""
    up = run("up", "--simulate", "--workers", "2")
    up.wait_for_line(r"^Ready\.", timeout=120)
    family = psutil.Process(up.pid).children(recursive=True)
    assert len([child for child in family if "celery" in " ".join(child.cmdline())]) == 2
    up.term()
    assert up.wait() == 0, up.tail()
    eventually(lambda: not any(child.is_running() for child in family), what="the children are gone")
    assert embedded.find(home) is None


@pytest.mark.parametrize("in_the_end", ["it comes", "Ctrl-C"])
def test_it_waits_for_a_database_that_does_not_answer_yet(
    launch: Callable[..., Process],
    stockpot_env: Callable[..., dict[str, str]],
    own_postgres: PostgresServer,
    home: Path,
    tmp_path: Path,
    in_the_end: str,
) -> None:
    """It says what it waits for; Ctrl-C gives up, and otherwise it starts when the database is there."""
    url = own_postgres.create_database()
    upgrade(url)
    own_postgres.stop()
    env = stockpot_env(STOCKPOT_API_KEY=None, database_url=url)
    up = launch([STOCKPOT, "up", "--simulate"], name="up", env=env, cwd=tmp_path)
    up.wait_for_line(r"the database is unreachable.*\n.*Ctrl-C gives up", 120)
    if in_the_end == "it comes":
        own_postgres.start()
        up.wait_for_line(r"^Ready\.", 120)
    up.send(signal.SIGINT)
    assert up.wait(120) == (0 if in_the_end == "it comes" else 130), up.tail()
    assert "Traceback" not in up.output
    assert embedded.find(home) is None
