"""The rig's servers are real: they answer, lose or keep data as told, freeze, thaw, and end with the test run."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import psycopg
import pytest
import redis

from tests.rig.ports import fresh_directory
from tests.rig.servers import PostgresServer, ValkeyServer
from tests.rig.waiting import eventually


def _libpq(url: str) -> str:
    return url.replace("postgresql+psycopg://", "postgresql://")


def test_a_killed_valkey_with_append_only_file_comes_back_with_its_data(own_valkey: ValkeyServer) -> None:
    """`kill -9` after an answered write loses nothing."""
    before = own_valkey.pid
    with own_valkey.client() as client:
        client.set("k", "v")
    own_valkey.kill9()
    assert own_valkey.process.returncode == -9
    own_valkey.start()
    assert own_valkey.pid != before
    with own_valkey.client() as client:
        assert client.get("k") == "v"


def test_a_valkey_restarted_empty_has_forgotten_everything(own_valkey: ValkeyServer) -> None:
    """An empty disk is a fault of its own."""
    with own_valkey.client() as client:
        client.set("k", "v")
    own_valkey.restart(empty=True)
    with own_valkey.client() as client:
        assert client.dbsize() == 0


def test_valkey_without_its_password_answers_nobody() -> None:
    """The password is asked for, works in the URL, and is in no command line."""
    with ValkeyServer(password="rig-secret") as server:
        with pytest.raises(redis.AuthenticationError), server.stranger() as stranger:
            stranger.ping()
        with server.client() as client:
            assert client.ping()
        assert "rig-secret" not in " ".join(psutil.Process(server.pid).cmdline())


def test_a_frozen_valkey_accepts_and_does_not_answer_until_thawed(own_valkey: ValkeyServer) -> None:
    """Half a server is worse than none: that is what the fault is for."""
    own_valkey.freeze()
    with socket.create_connection(("127.0.0.1", own_valkey.port), timeout=5) as raw:
        raw.sendall(b"PING\r\n")
        raw.settimeout(0.2)
        with pytest.raises(TimeoutError):
            raw.recv(16)
        own_valkey.thaw()
        raw.settimeout(10)
        assert raw.recv(16) == b"+PONG\r\n"


def test_the_shared_valkey_is_empty_at_the_start_of_a_test(valkey: ValkeyServer) -> None:
    """What one test wrote, the next does not see."""
    with valkey.client() as client:
        assert client.dbsize() == 0
        client.set("stray", "1")
    valkey.flush()
    with valkey.client() as client:
        assert client.dbsize() == 0


def test_a_database_can_be_cloned_from_a_template(postgres_server: PostgresServer) -> None:
    """A clone has the template's tables and rows, and its writes stay its own."""
    template = postgres_server.create_database()
    with psycopg.connect(_libpq(template), autocommit=True) as connection:
        connection.execute("CREATE TABLE t (n int)")
        connection.execute("INSERT INTO t VALUES (7)")
        # Still connected: cloning disconnects it.
        clone = postgres_server.create_database(template.rsplit("/", 1)[1])
    with psycopg.connect(_libpq(clone), autocommit=True) as connection:
        assert connection.execute("SELECT n FROM t").fetchall() == [(7,)]
        connection.execute("DELETE FROM t")
    with psycopg.connect(_libpq(template)) as connection:
        assert connection.execute("SELECT n FROM t").fetchall() == [(7,)]
    postgres_server.drop_database(clone)
    postgres_server.drop_database(template)


def test_a_killed_postgres_recovers_every_committed_row_and_no_other(own_postgres: PostgresServer) -> None:
    """The server of the fault tests is durable: `kill -9`, restart, recovery in its log."""
    before = own_postgres.pid
    assert own_postgres.execute("SHOW fsync") == [("on",)]
    own_postgres.execute("CREATE TABLE t (n int)")
    own_postgres.execute("INSERT INTO t VALUES (1)")
    with psycopg.connect(_libpq(own_postgres.url())) as connection:
        connection.execute("INSERT INTO t VALUES (2)")
        own_postgres.kill9()
        with pytest.raises(psycopg.OperationalError):
            connection.commit()
    assert own_postgres.process.returncode == -9
    own_postgres.start()
    assert own_postgres.pid != before
    assert own_postgres.execute("SELECT n FROM t") == [(1,)]
    assert "automatic recovery in progress" in own_postgres.log


def test_a_stopped_postgres_starts_again_on_its_port(own_postgres: PostgresServer) -> None:
    """URLs stay good over a restart."""
    url = own_postgres.create_database()
    own_postgres.stop("immediate")
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(_libpq(url))
    own_postgres.start()
    with psycopg.connect(_libpq(url)) as connection:
        assert connection.execute("SELECT 1").fetchall() == [(1,)]


def test_a_frozen_postgres_freezes_its_backends_too(own_postgres: PostgresServer) -> None:
    """An open connection gets no answer while frozen, and its answer once thawed."""
    with psycopg.connect(_libpq(own_postgres.url()), autocommit=True) as connection:
        own_postgres.freeze()
        connection.pgconn.send_query(b"SELECT 1")
        connection.pgconn.flush()
        with socket.fromfd(connection.pgconn.socket, socket.AF_INET, socket.SOCK_STREAM) as raw:
            raw.settimeout(0.2)
            with pytest.raises(TimeoutError):
                raw.recv(1, socket.MSG_PEEK)
            own_postgres.thaw()
            raw.settimeout(10)
            assert raw.recv(1, socket.MSG_PEEK)
            raw.setblocking(False)
        while connection.pgconn.get_result() is not None:
            pass
    eventually(lambda: own_postgres.execute("SELECT 1") == [(1,)], what="the thawed server answers")


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux")
@pytest.mark.leaves_processes
def test_a_frozen_postgres_does_not_outlive_a_test_run_that_is_killed() -> None:
    """Its backends cannot see their postmaster's end while they are stopped; somebody has to thaw them."""
    code = """
        import sys
        from tests.rig.servers import PostgresServer
        server = PostgresServer()
        server.freeze()
        print(*[member.pid for member in server._family()], flush=True)
        sys.stdin.read()
    """
    env = os.environ | {"TMPDIR": str(fresh_directory("tmp"))}
    command = [sys.executable, "-c", textwrap.dedent(code)]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env, cwd=root) as parent:
        assert parent.stdout is not None
        family = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
        assert len(family) > 1
        eventually(
            lambda: {member.status() for member in family} - {psutil.STATUS_ZOMBIE} == {psutil.STATUS_STOPPED},
            what="all of it is stopped",
        )
        parent.kill()
    eventually(lambda: not [member for member in family if _alive(member)], what="the whole family ends")


def _alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False
