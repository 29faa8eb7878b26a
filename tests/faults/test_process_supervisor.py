"""A worker that cannot start: `stockpot up` tries again ever more slowly, and goes on by itself when it can (F75)."""

from __future__ import annotations

import contextlib
import signal
import socket
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.rig.ports import free_port
from tests.rig.procs import Process
from tests.rig.waiting import eventually
from tests.rig.witness import Witness

pytestmark = pytest.mark.fault

STOCKPOT = Path(sys.executable).with_name("stockpot")


def _ready(port: int) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2) as page:
        return bool(page.status == 200)
    return False


def test_a_worker_that_ends_at_each_start_is_started_ever_more_slowly(
    launch: Callable[..., Process], stockpot_env: Callable[..., dict[str, str]], tmp_path: Path
) -> None:
    """F75: the port of its health pages is somebody else's. Nobody says `Ready`, and readiness stays red."""
    port = free_port()
    env = stockpot_env(STOCKPOT_API_KEY=None, http_port=port)
    with Witness("a worker ended at its start, again and again") as witness:
        stranger = socket.socket()
        with contextlib.closing(stranger):
            witness.inject(lambda: stranger.bind(("0.0.0.0", port)))
            witness.inject(stranger.listen)
            up = launch([STOCKPOT, "up", "--simulate"], name="up", env=env, cwd=tmp_path)
            if witness.faults_on:
                again = r"exit code \d+; starting it again in (\d+) s"
                waits = [int(up.wait_for_line(again, 120, count=number)[1]) for number in (1, 2, 3)]
                assert waits == [1, 2, 4]
                witness.saw(str(port) in up.output)
                assert "Ready." not in up.output
                assert not _ready(port)
        up.wait_for_line(r"^Ready\.", 120)
        eventually(lambda: _ready(port), what="it is ready")
    up.send(signal.SIGINT)
    assert up.wait(120) == 0, up.tail()
