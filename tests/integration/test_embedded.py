"""The embedded Valkey of a home, as real processes."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest
import redis
from kombu import Connection

from tests.rig.ports import fresh_directory
from tests.rig.waiting import eventually
from worker import embedded
from worker.base.errors import Unreachable
from worker.base.settings import Settings
from worker.embedded import server

ENSURE = "import sys; from pathlib import Path; from worker import embedded; print(embedded.ensure(Path(sys.argv[1])))"
LEASE = (
    "import sys; from pathlib import Path; from worker import embedded\n"
    "with embedded.lease(Path(sys.argv[1])) as url: print(url, flush=True); sys.stdin.read()"
)


@pytest.fixture
def home() -> Iterator[Path]:
    """A home short enough for a socket, whose server is stopped afterwards."""
    path = fresh_directory("home")
    yield path
    embedded.stop(path)


def pid_of(home: Path) -> int:
    return int((home / "valkey" / "valkey.pid").read_text())


def run(code: str, home: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, str(home)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_it_starts_is_found_and_stops(home: Path) -> None:
    """A private socket, an append-only file, no eviction, and nothing left after the stop."""
    assert embedded.find(home) is None
    url = embedded.redis_url(Settings(home=home))
    assert embedded.find(home) == url
    assert stat.S_IMODE((home / "valkey").stat().st_mode) == 0o700
    assert stat.S_IMODE((home / "valkey" / "valkey.sock").stat().st_mode) == 0o700
    client = redis.Redis.from_url(url, decode_responses=True)
    wanted = {"appendonly": "yes", "appendfsync": "everysec", "maxmemory-policy": "noeviction", "databases": "16"}
    assert {key: client.config_get(key)[key] for key in wanted} == wanted
    client.close()
    pid = pid_of(home)
    assert os.getsid(pid) != os.getsid(0), "Ctrl-C in a terminal would reach it"
    assert embedded.stop(home) is True
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    assert embedded.stop(home) is False
    assert embedded.find(home) is None


def test_a_given_url_starts_nothing(home: Path) -> None:
    """STOCKPOT_REDIS_URL set means: no server of ours."""
    settings = Settings(home=home, redis_url="redis://elsewhere/3")
    assert embedded.redis_url(settings) == embedded.broker_url(settings) == "redis://elsewhere/3"
    assert not (home / "valkey").exists()


def test_kombu_speaks_to_the_socket_even_with_a_strange_path(home: Path) -> None:
    """kombu has its own spelling of a socket's URL."""
    strange = home / 'a "b" %é'
    url = embedded.broker_url(Settings(home=strange))
    assert url.startswith("redis+socket://")
    with Connection(url, connect_timeout=2) as connection:
        connection.ensure_connection(max_retries=1)
        connection.SimpleQueue("q").put("hello")
    client = redis.Redis.from_url(embedded.ensure(strange))
    assert client.llen("q") == 1
    client.close()
    embedded.stop(strange)


def test_twenty_processes_start_one_server(home: Path) -> None:
    """All get the same URL, and one process answers there."""
    starters = [run(ENSURE, home) for _ in range(20)]
    urls = {starter.communicate(timeout=180)[0].strip() for starter in starters}
    assert urls == {embedded.find(home)}
    log = (home / "valkey" / "valkey.log").read_text()
    assert log.count("Ready to accept connections") == 1


def test_a_path_too_long_for_a_socket_gets_a_port_and_a_password(home: Path) -> None:
    """AF_UNIX holds about 100 bytes; the port answers only to the password, which no other user can read."""
    deep = home / ("d" * 100)
    url = embedded.ensure(deep)
    assert url.startswith("redis://:") and "@127.0.0.1:" in url
    assert stat.S_IMODE((deep / "valkey" / "url").stat().st_mode) == 0o600
    password = url.split(":")[2].split("@")[0]
    assert not any(password in part for part in psutil.Process(pid_of(deep)).cmdline())
    stranger = redis.Redis.from_url("redis://" + url.split("@")[1])
    with pytest.raises(redis.AuthenticationError):
        stranger.ping()
    stranger.close()
    assert embedded.find(deep) == url
    assert embedded.stop(deep)


def test_a_killed_server_is_started_again_with_its_data(home: Path) -> None:
    """After SIGKILL the socket, pid and URL are stale; the append-only file is not."""
    client = redis.Redis.from_url(embedded.ensure(home))
    client.set("kept", "yes")
    assert client.execute_command("WAITAOF", 1, 0, 5000)[0] == 1  # type: ignore[no-untyped-call]
    client.close()
    pid = pid_of(home)
    os.kill(pid, signal.SIGKILL)
    client = redis.Redis.from_url(embedded.ensure(home))
    assert client.get("kept") == b"yes"
    client.close()
    assert pid_of(home) != pid


def test_a_frozen_server_is_never_joined_by_a_second(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds the data: better an error that names it than two servers on one file. Stopping kills it."""
    embedded.ensure(home)
    pid = pid_of(home)
    os.kill(pid, signal.SIGSTOP)
    monkeypatch.setattr(server, "START_LIMIT", server.PING_LIMIT / 10)
    monkeypatch.setattr(server, "STOP_LIMIT", server.PING_LIMIT / 10)
    with pytest.raises(Unreachable, match=str(pid)):
        embedded.ensure(home)
    monkeypatch.undo()
    monkeypatch.setattr(server, "STOP_LIMIT", server.PING_LIMIT)
    assert embedded.stop(home) is True
    embedded.ensure(home)
    assert pid_of(home) != pid


def test_the_last_user_stops_it(home: Path) -> None:
    """Leases are shared; one that ends by SIGKILL counts no more."""
    first, second, third = (run(LEASE, home) for _ in range(3))
    for user in (first, second, third):
        assert user.stdout is not None
        assert user.stdout.readline().startswith("unix://")
    first.communicate()
    assert embedded.find(home) is not None
    second.kill()
    second.communicate()
    third.communicate()
    assert embedded.find(home) is None


def test_the_environment_stays_out_of_the_server(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The API key is in our environment; the server has no use for it."""
    monkeypatch.setenv("AIMLAPI_API_KEY", "sk-canary")
    embedded.ensure(home)
    assert "AIMLAPI_API_KEY" not in psutil.Process(pid_of(home)).environ()


def test_a_failed_start_shows_the_servers_last_words(home: Path) -> None:
    """And a missing binary says what to install or set."""
    (home / "valkey").mkdir()
    (home / "valkey" / "appendonlydir").write_text("not a directory")
    with pytest.raises(Unreachable, match="appendonlydir") as failed:
        embedded.ensure(home)
    assert "STOCKPOT_REDIS_URL" in failed.value.mend
    with pytest.raises(Unreachable, match="no executable"):
        embedded.server_binary(home / "nothing")


def test_it_outlives_the_command_that_started_it(home: Path) -> None:
    """Short commands leave the server to the others, also when they die."""
    starter = run(ENSURE + "; sys.stdout.flush(); import os, signal; os.kill(os.getpid(), signal.SIGKILL)", home)
    starter.communicate(timeout=180)
    assert starter.returncode == -signal.SIGKILL
    assert eventually(lambda: embedded.find(home))
