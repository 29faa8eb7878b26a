"""A worker that cannot start: `stockpot up` tries again ever more slowly, and goes on by itself when it can (F75)."""

from __future__ import annotations

import contextlib
import signal
import socket
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]
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
    """F75: the port of its health pages becomes another program's while it is restarted. Readiness stays red until it is free.

    One that is taken from the beginning is refused before anything is started, by the setting that names it.
    """
    port = free_port()
    env = stockpot_env(STOCKPOT_API_KEY=None, http_port=port)
    with _stranger(port):
        refused = launch([STOCKPOT, "up", "--simulate"], name="refused", env=env, cwd=tmp_path)
        assert refused.wait() == 2
        assert f"STOCKPOT_HTTP_PORT: 127.0.0.1:{port} cannot be listened on" in refused.output
        assert "worker-1" not in refused.output
    up = launch([STOCKPOT, "up", "--simulate"], name="up", env=env, cwd=tmp_path)
    up.wait_for_line(r"^Ready\.", 120)
    [worker] = [one for one in psutil.Process(up.pid).children() if "worker.celery" in " ".join(one.cmdline())]
    with Witness("a worker ended at its start, again and again") as witness:
        witness.inject(worker.kill)
        if witness.faults_on:
            with _stranger(port):
                again = r"exit code \d+; starting it again in (\d+) s"
                waits = [int(up.wait_for_line(again, 120, count=number)[1]) for number in (1, 2)]
                assert waits == [2, 4]
                witness.saw(f"STOCKPOT_HTTP_PORT: 127.0.0.1:{port} cannot be listened on" in up.output)
                assert not _ready(port)
    eventually(lambda: _ready(port), what="it is ready")
    up.send(signal.SIGINT)
    assert up.wait(120) == 0, up.tail()


@contextlib.contextmanager
def _stranger(port: int) -> Iterator[None]:
    """Another program that listens on a port as soon as that is free."""

    def listening() -> socket.socket | None:
        with contextlib.suppress(OSError):
            return socket.create_server(("127.0.0.1", port))
        return None

    stranger = eventually(listening, what="the port is taken")
    assert stranger is not None
    with contextlib.closing(stranger):
        yield
