"""What must stay secret stays so over a whole run, and logs that nobody reads stop nobody (F76, F77)."""

from __future__ import annotations

import signal
import sys
import urllib.request
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest

from tests.rig import canary
from tests.rig.canary import Canaries, Leak
from tests.rig.environment import TEST_API_KEY
from tests.rig.monitor import Monitor
from tests.rig.ports import free_port
from tests.rig.stage import SetStage, Stage
from tests.rig.waiting import eventually
from tests.rig.witness import Witness

pytestmark = [pytest.mark.fault, pytest.mark.usefixtures("from_nothing")]  # secrets may stand in a command line

#: Starts a program whose output goes through a pipe to a reader of its own, as under `… | logger`.
PIPED = """
import os, sys
end, pipe = os.pipe()
if os.fork() == 0:
    os.dup2(end, 0)
    os.close(pipe)
    os.execvp("cat", ["cat"])
os.close(end)
os.dup2(pipe, 1)
os.dup2(pipe, 2)
os.close(pipe)
os.execvp(sys.argv[1], sys.argv[1:])
"""


def test_whoever_read_the_logs_is_gone(stage: SetStage) -> None:
    """F76: every line now ends in EPIPE; the worker works on, and drains when it is asked to."""
    on = stage("postgres", workers=0, log_level="debug")
    worker = on.worker(prefix=[sys.executable, "-c", PIPED])
    with Witness("the worker's output went to a pipe that nobody reads") as witness:
        witness.inject(lambda: _reader(worker.pid).kill())
        eventually(
            lambda: not witness.faults_on or _reader(worker.pid).status() == psutil.STATUS_ZOMBIE, what="it is dead"
        )
        before = worker.output
        on.load(40, "503,ok")
        on.quiesce()
        witness.saw(witness.faults_on and worker.output == before)
    on.check()
    worker.term()
    eventually(lambda: not worker.running, what="it has drained")
    assert worker.returncode != -signal.SIGPIPE
    assert on.count("status = 'in_progress'") == 0


def _reader(pid: int) -> psutil.Process:
    return next(child for child in psutil.Process(pid).children() if child.name() == "cat")


#: Where a secret may be, by kind. Answers and requests are kept to be read; so is what they came with.
HOMES = {
    "prompt": {"requests.body"},
    "metadata": {"jobs.metadata", "webhook_events.body"},
    "url_token": {"jobs.webhook", "webhook_events.url"},
    "api_key": set[str](),
    "webhook_secret": set[str](),
}


@pytest.mark.clear  # where it may be is looked into, too
@pytest.mark.parametrize("database", ["postgres", "sqlite"])
def test_no_secret_leaves_its_place(stage: SetStage, database: str, tmp_path: Path) -> None:
    """F77: over answers, refusals, broken streams, cancellations, failing hooks and a kill, at the loudest log level."""
    port = free_port()
    on = stage(database, workers=1, log_level="debug", concurrency=20, webhook_retry_scale=0.00002)  # type: ignore[arg-type]
    with Monitor(on.valkey, tmp_path / "monitor.log") as monitor:
        watched = on.worker(http_port=port)
        with Witness("the secrets were in use, and where they may be they are found") as witness:
            planted = on.canaries
            witness.inject(lambda: _use_them_all(on, planted))
            metrics = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30).read()
            pids = [worker.pid for worker in on.workers if worker.running]
            lines = canary.command_lines([*pids, on.valkey.pid])
            watched.kill9()
            on.quiesce()
            tokens = planted.tokens() | {"api_key": TEST_API_KEY, "webhook_secret": on.secret}
            del tokens["completion"]
            kept = canary.scan(canary.database_columns(on.database_url), tokens)
            witness.saw({leak.kind for leak in kept} >= {"prompt", "metadata", "url_token"})
    leaks = [leak for leak in kept if leak.where not in HOMES[leak.kind]]
    leaks += canary.scan([*on.worker_logs(), monitor.path, ("metrics page", metrics), *lines], tokens)
    leaks += canary.scan([on.valkey.data], tokens)
    assert _strangers(leaks) == []


def _use_them_all(on: Stage, planted: Canaries) -> None:
    options: dict[str, Any] = {"metadata": {"who": planted.metadata}}
    for number, script in enumerate(
        ("ok", "503,ok", "400", "cut@3,ok", "html", "badutf8@2,ok", "429,ok", "finisherror,ok")
    ):
        for stream in (True, False):
            path = ("/ok", "/500", "/404")[number % 3]
            on.submit(script, stream=stream, webhook=on.hooks.url(f"{path}?token={planted.url_token}"), **options)
    job = on.submit("slow=500", stream=True, webhook=on.hooks.url(f"/ok?token={planted.url_token}"), **options)
    eventually(lambda: on.job(job)["status"] == "in_progress", what="it runs")
    on.pot.cancel(job)


def _strangers(leaks: list[Leak]) -> list[Leak]:
    return sorted(leaks, key=lambda leak: leak.where)
