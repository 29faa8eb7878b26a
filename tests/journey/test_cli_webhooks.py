"""`stockpot webhooks` as a developer uses it: a receiver on this machine, a job through a real worker, a forged call, Ctrl-C."""

from __future__ import annotations

import json
import re
import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.rig.procs import Process
from worker.webhooks.envelope import Settled, event_body
from worker.webhooks.signing import key_of, new_secret, signed_headers

STOCKPOT = Path(sys.executable).with_name("stockpot")
MODEL = "openai/gpt-4o-mini"
FORGED = event_body("evt_forged", Settled(kind="job", id="job_1", tenant="default", status="completed", settled_at=1))


@pytest.fixture
def run(
    launch: Callable[..., Process], stockpot_env: Callable[..., dict[str, str]], tmp_path: Path
) -> Callable[..., Process]:
    """Starts `stockpot …` in the test's home; its workers may reach this machine."""
    count = iter(range(1_000))
    env = stockpot_env(STOCKPOT_API_KEY=None, webhook_allow_private="127.0.0.0/8")

    def start(*args: str) -> Process:
        return launch([STOCKPOT, *args], name=f"{args[0]}-{next(count)}", env=env, cwd=tmp_path)

    return start


def listening(run: Callable[..., Process], *options: str) -> tuple[Process, str]:
    """A receiver for development, and its URL."""
    receiver = run("webhooks", "listen", *options)
    return receiver, receiver.wait_for_line(r"^Listening: .*(http://127\.0\.0\.1:\d+/)$", timeout=60)[1]


def forge(url: str) -> int:
    """Send an event that a stranger signed; returns the answer's status."""
    headers = signed_headers("evt_forged", int(time.time()), FORGED, [key_of(new_secret())])
    try:
        with urllib.request.urlopen(urllib.request.Request(url, FORGED.encode(), headers)) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_listen_verifies_a_jobs_webhook_and_an_endpoints_and_refuses_a_forged_one(run: Callable[..., Process]) -> None:
    """One line for each, for people and as JSON; Ctrl-C ends it without a traceback."""
    up = run("up", "--simulate")
    up.wait_for_line(r"^Ready\.", timeout=120)
    receiver, url = listening(run)
    job = run("submit", "-m", MODEL, "hello", "--wait", "--json", "--webhook", url)
    assert job.wait(120) == 0, job.tail()
    done = json.loads(job.stdout.read_text())
    line = receiver.wait_for_line(rf"^✓ evt_\w+  job\.completed  {done['id']}.*$", timeout=120)[0]
    assert f"{done['usage']['total_tokens']} tokens" in line
    assert re.search(r"\$0\.\d+", line)

    assert forge(url) == 401
    refused = receiver.wait_for_line(r"^.*evt_forged.*$", timeout=60)[0]
    assert refused == "✗ evt_forged: none of the webhook's signatures is made with a secret of ours"

    receiver.send(signal.SIGINT)
    assert receiver.wait(60) == 130, receiver.tail()
    assert "Traceback" not in receiver.output
    assert "Interrupted." in receiver.output

    added = run("webhooks", "add", "http://127.0.0.1:1/moved", "--event", "job.failed", "--json")
    assert added.wait(60) == 0, added.tail()
    endpoint = json.loads(added.stdout.read_text())
    receiver, url = listening(run, "--json", "--secret", endpoint["secret"])
    assert run("webhooks", "update", endpoint["id"], "--url", url).wait(60) == 0
    tested = run("webhooks", "test", endpoint["id"], "--timeout", "120", "--json")
    assert tested.wait(150) == 0, tested.tail()
    event = json.loads(tested.stdout.read_text())
    assert (event["status"], event["attempt_log"][0]["status_code"]) == ("delivered", 204)
    received = json.loads(receiver.wait_for_line(rf"^.*{event['id']}.*$", timeout=60)[0])
    assert (received["event"]["type"], received["event"]["data"]["id"]) == ("endpoint.test", endpoint["id"])
    # Rotated twice within its day: the receiver still has the first secret, and is not left out.
    for _ in range(2):
        assert run("webhooks", "rotate", endpoint["id"]).wait(60) == 0
    again = run("webhooks", "test", endpoint["id"], "--timeout", "120", "--json")
    assert again.wait(150) == 0, again.tail()
    event = json.loads(again.stdout.read_text())
    assert (event["status"], event["attempt_log"][0]["status_code"]) == ("delivered", 204)
    receiver.send(signal.SIGINT)
    assert receiver.wait(60) == 130
    assert "Traceback" not in receiver.output

    up.send(signal.SIGINT)
    assert up.wait(120) == 0, up.tail()
