"""The embedded Valkey of a home: one server per `STOCKPOT_HOME`, started by the first command that needs it.

Everything lives in `home/valkey` (mode 0700): the append-only file, `valkey.log`, `valkey.pid`, and

- `server.lock`, locked for as long as the server lives. The server inherits the locked descriptor, so the lock
  ends with the process, however it ends; two servers on one append-only file corrupt it without a word.
- `start.lock`, held while a process starts or stops the server, so that twenty commands start exactly one.
- `users.lock`, shared by the long-lived commands (`lease`); the last one to leave stops the server.
- `url`, written before each start, mode 0600, since it may carry the password.

A server killed with SIGKILL leaves a socket, a pid and a URL behind that mean nothing: the locks and a PING
decide. The append-only file is synced each second, so a power cut costs at most about one second of Redis data,
and nothing durable rests on it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from urllib.parse import quote

from worker.base import private
from worker.base.errors import Unreachable
from worker.embedded.binary import DEPENDENCY, server_binary

#: `sun_path` holds 104 bytes on macOS and 108 on Linux, with the closing NUL; a longer path gets a TCP port.
MAX_SOCKET_PATH = 100
#: A start takes about 50 ms; the rest is room for a loaded machine.
START_LIMIT = timedelta(seconds=15)
#: Reading the append-only file back is slow for gigabytes: as long as the server answers LOADING it is alive.
LOADING_LIMIT = timedelta(minutes=5)
#: SHUTDOWN syncs the append-only file; a server that has not gone by then is frozen and is killed.
STOP_LIMIT = timedelta(seconds=10)
POLL = timedelta(milliseconds=10)
PING_LIMIT = timedelta(seconds=1)
#: A free port can be taken between our look and the server's bind.
PORT_TRIES = 5


def find(home: Path) -> str | None:
    """The URL of the home's server if it runs and answers, else None. Starts nothing."""
    url = _read_url(_directory(home))
    return url if url is not None and _answers(url) else None


def ensure(home: Path, *, server: Path | None = None) -> str:
    """Return the URL of the home's server, starting it if it does not run.

    Raises:
        Unreachable: no binary, the start failed (the message ends with the log's last lines), or a server
            holds the home and does not answer.
    """
    directory = _directory(home)
    url = find(home)
    if url is not None:
        return url
    _make_directory(directory)
    deadline = time.monotonic() + START_LIMIT.total_seconds()
    while True:
        with _locked(directory / "start.lock"):
            if _gone(directory):
                return _start(directory, server_binary(server))
        # Another process's server holds the lock: it is about to answer, or is on its way out.
        url = find(home)
        if url is not None:
            return url
        if time.monotonic() > deadline:
            raise Unreachable(
                DEPENDENCY,
                f"a server (pid {_read_pid(directory) or 'unknown'}) holds {directory} and does not answer",
                "Stop that process, or set STOCKPOT_HOME to another directory.",
            )
        time.sleep(POLL.total_seconds())


def stop(home: Path) -> bool:
    """Shut the home's server down, cleanly, and wait until its process is gone.

    Returns:
        Whether there was one to stop.

    Raises:
        Unreachable: the server neither shuts down nor can be killed.
    """
    directory = _directory(home)
    if not directory.is_dir():
        return False
    with _locked(directory / "start.lock"):
        if _gone(directory):
            return False
        _ask_to_shut_down(directory)
        if not _wait_gone(directory):
            pid = _read_pid(directory)
            if pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if not _wait_gone(directory):
                raise Unreachable(DEPENDENCY, f"process {pid or 'unknown'} does not stop", "Kill it by hand.")
        (directory / "url").unlink(missing_ok=True)
        return True


@contextlib.contextmanager
def lease(home: Path, *, server: Path | None = None) -> Iterator[str]:
    """Use the home's server for as long as the block runs; the last user to leave stops it.

    A user killed with SIGKILL loses its share with its process; the server then goes on until the next user leaves.

    Yields:
        The server's URL.

    Raises:
        Unreachable: as `ensure`.
    """
    directory = _directory(home)
    _make_directory(directory)
    descriptor = _open(directory / "users.lock")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        try:
            yield ensure(home, server=server)
        finally:
            # The upgrade succeeds only while no other process shares the lock; a new one waits, then starts afresh.
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                stop(home)
    finally:
        os.close(descriptor)


def _directory(home: Path) -> Path:
    return home.absolute() / "valkey"


def _make_directory(directory: Path) -> None:
    try:
        private.make_directory(directory.parent)
        private.make_directory(directory)
    except OSError as error:
        raise Unreachable(
            DEPENDENCY, f"cannot use {directory}: {error.strerror}", "Set STOCKPOT_HOME to a directory you may write."
        ) from error


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = _open(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _try_lock(path: Path) -> Iterator[int | None]:
    """Yield the locked descriptor, or None when another holds the lock. Closing ours leaves an heir's lock alone."""
    descriptor = _open(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _gone(directory: Path) -> bool:
    """Whether no server lives. Asked under `start.lock` only, so that looking never gets in a starter's way."""
    with _try_lock(directory / "server.lock") as lock:
        return lock is not None


def _wait_gone(directory: Path) -> bool:
    deadline = time.monotonic() + STOP_LIMIT.total_seconds()
    while not _gone(directory):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL.total_seconds())
    return True


def _start(directory: Path, binary: Path) -> str:
    """Start the server under `start.lock`, with no other server alive, and wait until it answers."""
    tail = ""
    for _ in range(PORT_TRIES):
        url, listen = _address(directory)
        _write_url(directory, url)
        (directory / "valkey.pid").unlink(missing_ok=True)
        log = directory / "valkey.log"
        start_of_log = log.stat().st_size if log.exists() else 0
        with _try_lock(directory / "server.lock") as lock:
            refused = _launch(binary, listen + _config(directory), lock) if lock is not None else "its lock is taken"
        if refused is None and _becomes_ready(directory, url):
            return url
        tail = refused or _tail(log, start_of_log)
        if "Address already in use" not in tail:
            break
    (directory / "url").unlink(missing_ok=True)
    raise Unreachable(
        DEPENDENCY,
        f"{binary} did not start. Its last words:\n{tail}",
        f"The whole log is {log}; or set STOCKPOT_REDIS_URL to a running Redis or Valkey.",
    )


def _launch(binary: Path, config: list[str], lock: int) -> str | None:
    """Start the server in a session of its own (Ctrl-C in a terminal is not meant for it).

    The configuration goes through stdin: an argument would show the password in the process list. The environment
    stays here, since it may hold the API key. With `daemonize` the process we start forks the server and ends, so
    no zombie waits for us.

    Returns:
        The binary's output when it refused to start, None when it forked.
    """
    try:
        done = subprocess.run(
            [str(binary), "-"],
            input="\n".join(config).encode() + b"\n",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={},
            pass_fds=[lock],
            start_new_session=True,
            umask=0o077,
            timeout=START_LIMIT.total_seconds(),
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return None if done.returncode == 0 else _last_lines(done.stdout.decode(errors="replace"))


def _config(directory: Path) -> list[str]:
    return [
        "daemonize yes",
        f"dir {_quoted(directory)}",
        f"logfile {_quoted(directory / 'valkey.log')}",
        f"pidfile {_quoted(directory / 'valkey.pid')}",
        "databases 16",
        "appendonly yes",
        "appendfsync everysec",
        'save ""',
        "maxmemory-policy noeviction",
    ]


def _address(directory: Path) -> tuple[str, list[str]]:
    """The URL for redis-py, and the lines of configuration that make the server listen there."""
    path = directory / "valkey.sock"
    if len(os.fsencode(path)) <= MAX_SOCKET_PATH:
        listen = ["port 0", f"unixsocket {_quoted(path)}", "unixsocketperm 700"]
        return f"unix://{quote(str(path))}?db=0", listen
    password = secrets.token_urlsafe(24)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return f"redis://:{password}@127.0.0.1:{port}/0", [f"port {port}", "bind 127.0.0.1", f"requirepass {password}"]


def _quoted(path: Path) -> str:
    """A path as the server's configuration parser reads it; every unusual byte is spelled in hexadecimal."""
    plain = b"/._-+ abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
    return '"' + "".join(chr(byte) if byte in plain else f"\\x{byte:02x}" for byte in os.fsencode(path)) + '"'


def _becomes_ready(directory: Path, url: str) -> bool:
    """Wait until the server answers; False once its process is gone or the time is up."""
    started = time.monotonic()
    while True:
        state = _ping(url)
        if state == "ready":
            return True
        limit = LOADING_LIMIT if state == "loading" else START_LIMIT
        if time.monotonic() - started > limit.total_seconds() or _gone(directory):
            return False
        time.sleep(POLL.total_seconds())


def _ping(url: str) -> str:
    """`ready`, `loading` (alive, reading its append-only file), or `silent`."""
    from redis.exceptions import BusyLoadingError, RedisError

    from worker.base.redis import blocking

    client = blocking(url, seconds=PING_LIMIT.total_seconds())
    try:
        client.ping()
    except BusyLoadingError:
        return "loading"
    except RedisError:
        return "silent"
    else:
        return "ready"
    finally:
        client.close()


def _answers(url: str) -> bool:
    return _ping(url) == "ready"


def _ask_to_shut_down(directory: Path) -> None:
    """SIGTERM is the server's own clean shutdown, needs no password and works while it loads."""
    pid = _read_pid(directory)
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)


def _read_pid(directory: Path) -> int | None:
    try:
        text = (directory / "valkey.pid").read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return None
    return int(text) if text.isdigit() and int(text) > 1 else None


def _read_url(directory: Path) -> str | None:
    try:
        return (directory / "url").read_text(encoding="utf-8").strip() or None
    except FileNotFoundError:
        return None


def _write_url(directory: Path, url: str) -> None:
    fresh = directory / "url.new"
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(url + "\n")
    fresh.replace(directory / "url")


def _tail(log: Path, start: int) -> str:
    try:
        with log.open("rb") as file:
            file.seek(start)
            return _last_lines(file.read().decode(errors="replace"))
    except OSError:
        return "(it wrote no log)"


def _last_lines(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip() and "overcommit" not in line]
    return "\n".join(lines[-10:]) or "(no output)"
