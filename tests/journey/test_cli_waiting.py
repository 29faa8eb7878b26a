"""Who waits is told why: the real command beside no worker, a worker whose key is refused, and one that goes on."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

from tests.batch_factories import write_file
from tests.rig.environment import TEST_API_KEY
from tests.rig.procs import Process
from tests.rig.simulated import Knobs
from tests.rig.waiting import eventually

STOCKPOT = Path(sys.executable).with_name("stockpot")


def test_a_waiting_submit_says_that_no_worker_runs_and_then_that_the_key_is_refused_and_then_answers(
    launch: Callable[..., Process],
    stockpot_env: Callable[..., dict[str, str]],
    start_worker: Callable[..., Process],
    redis_url: str,
    tmp_path: Path,
) -> None:
    """Each change is a sentence; `list`, `show` and `routes` say the same; the answer comes when the key is good again."""
    simulator = launch([sys.executable, "-P", "-m", "worker.simulator", "--instant"], name="simulator")
    knobs = Knobs(simulator)
    knobs.key(TEST_API_KEY, status="revoked")
    env = stockpot_env(upstream_url=f"{knobs.url}/v1", redis_url=redis_url)
    model = "openai/gpt-4o-mini"
    waits = launch([STOCKPOT, "submit", "-m", model, "--wait", "Hello"], name="waits", env=env)
    waits.wait_for_line("no worker is running: `stockpot up`, or `stockpot worker`, starts one")
    start_worker(env)
    waits.wait_for_line(r"the provider refuses the key \(.*\); looks again in")
    shown = _read(launch, env, "show", waits.stderr.read_text().split()[0])
    assert "the provider refuses the key" in shown
    assert "authentication: " in shown, "the refusal's words are lost"
    assert "the provider refuses the key" in _read(launch, env, "routes")
    batch = _read(launch, env, "batch", "submit", str(write_file(tmp_path / "in.jsonl", 3, model=model))).strip()
    why = r"^in flight +0\b.*\nwaits on +the provider refuses the key .*; looks again in "
    eventually(lambda: re.search(why, _read(launch, env, "batch", "status", batch), re.MULTILINE), timeout=60)
    assert _read(launch, env, "batch", "cancel", batch).startswith("cancel")
    knobs.key(TEST_API_KEY)
    assert waits.wait(150) == 0, waits.tail()
    assert "completed" in waits.stderr.read_text()


def test_a_key_file_that_is_missing_for_a_moment_ends_no_wait_and_makes_no_call(
    launch: Callable[..., Process],
    stockpot_env: Callable[..., dict[str, str]],
    start_worker: Callable[..., Process],
    redis_url: str,
    tmp_path: Path,
) -> None:
    """The file is replaced under a worker and under who waits: the job waits for it, is called once and answered."""
    simulator = launch([sys.executable, "-P", "-m", "worker.simulator", "--instant"], name="simulator")
    key = tmp_path / "key"
    key.write_text(TEST_API_KEY)
    env = stockpot_env(
        upstream_url=f"{Knobs(simulator).url}/v1",
        redis_url=redis_url,
        STOCKPOT_API_KEY=None,
        STOCKPOT_API_KEY_FILE=str(key),
    )
    worker = start_worker(env)
    key.unlink()
    waits = launch([STOCKPOT, "submit", "-m", "openai/gpt-4o-mini", "--wait", "Hello"], name="waits", env=env)
    worker.wait_for_line("key_unreadable")
    eventually(lambda: waits.stderr.read_text().split(), what="the job has its id")
    job = waits.stderr.read_text().split()[0]
    _read(launch, env, "show", job)
    assert waits.running, waits.tail()
    key.write_text(TEST_API_KEY)
    assert waits.wait(150) == 0, waits.tail()
    shown = json.loads(_read(launch, env, "show", job, "--json"))
    assert shown["status"] == "completed"
    assert [one["outcome"] for one in shown["attempt_log"] if one["outcome"] == "ambiguous"] == []
    assert shown["attempts"] == 1


def _read(launch: Callable[..., Process], env: dict[str, str], *words: str) -> str:
    """What a command prints."""
    done = launch([STOCKPOT, *words], name="-".join(Path(one).name for one in words), env=env)
    assert done.wait(60) == 0, done.tail()
    return eventually(done.stdout.read_text)
