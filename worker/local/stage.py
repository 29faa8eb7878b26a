"""The demo's stage: embedded Valkey, SQLite, an upstream, a webhook receiver and one worker, for as long as a block runs.

Everything is started as a user would start it, in processes of its own, and is gone when the block ends, however it
ends. The home is a temporary directory unless `STOCKPOT_HOME` names one, which is then kept.
"""

from __future__ import annotations

import contextlib
import queue
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from anyio.from_thread import start_blocking_portal

from api_schemas import jsontext
from worker import embedded
from worker.base.errors import Unreachable
from worker.base.settings import Settings, load
from worker.db.ready import ensure_schema
from worker.local.running import SIMULATED_KEY
from worker.local.supervise import Child, Supervisor, stopping
from worker.webhooks.admin import url_secret
from worker.webhooks.listen import Received, listen
from worker.webhooks.secrets import Vault

#: When a demo is over nothing of it is worth waiting for: its jobs are done, or it was interrupted.
DRAIN = timedelta(seconds=1)
#: A demo shows within seconds what becomes of a killed worker's job; a fleet takes half a minute (docs/reliability.md).
_QUICK = {"lease_seconds": 4, "sweep_seconds": 0.5}
#: Lines of a program's output that are shown when it does not start.
LAST_LINES = 15


@dataclass(frozen=True, slots=True)
class Stage:
    """What is up. `webhook_url` is a receiver of ours; `received` has what it verified, or refused."""

    settings: Settings
    simulated: bool
    temporary: bool
    webhook_url: str
    received: queue.SimpleQueue[Received]
    variables: dict[str, str]  # the environment in which a command meets this stage
    gateway_url: str | None  # what an OpenAI SDK takes as its base URL; None without the extra `gateway`
    kill_worker: Callable[[], int]  # kill -9 the worker and start another; the pid of the dead one


@contextlib.contextmanager
def stage() -> Iterator[Stage]:
    """Start everything; stop everything.

    Raises:
        SettingsError: the configuration is wrong.
        Unreachable: something did not start; the message has its last words.
    """
    given = load()
    simulated = given.key is None
    with contextlib.ExitStack() as stack:
        temporary = "home" not in given.model_fields_set
        home = stack.enter_context(_temporary_home()) if temporary else given.home
        url = stack.enter_context(embedded.lease(home))
        programs = stack.enter_context(_Programs().running())
        changes = {
            "home": home,
            "database_url": f"sqlite:///{home / 'stockpot.db'}",
            "redis_url": url,
            "drain_seconds": DRAIN.total_seconds(),
            "webhook_allow_private": "127.0.0.0/8",
            **_QUICK,
        }
        if simulated:
            changes |= {"upstream_url": f"{programs.start_simulator()}/v1", "api_key": SIMULATED_KEY}
        settings = load(**changes)
        ensure_schema(settings)
        received: queue.SimpleQueue[Received] = queue.SimpleQueue()
        webhook_url = stack.enter_context(_receiver(settings, received))
        variables = _variables(changes)
        programs.start_worker(variables)
        gateway_url = programs.start_gateway(variables)

        def kill_worker() -> int:
            return programs.replace_worker(variables)

        yield Stage(settings, simulated, temporary, webhook_url, received, variables, gateway_url, kill_worker)


@contextlib.contextmanager
def _temporary_home() -> Iterator[Path]:
    """A directory that is gone afterwards. Its name is short, since a unix socket's path may be."""
    home = Path(tempfile.mkdtemp(prefix="stockpot-"))
    try:
        yield home
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _variables(changes: dict[str, object]) -> dict[str, str]:
    """Settings as a child's environment."""
    env = {f"STOCKPOT_{name.upper()}": str(value) for name, value in changes.items() if name != "api_key"}
    if "api_key" in changes:
        env["AIMLAPI_API_KEY"] = str(changes["api_key"])
    return env


class _Programs:
    """The simulator and the worker, in sessions of their own: Ctrl-C in the terminal is ours to pass on."""

    def __init__(self) -> None:
        self._supervisor = Supervisor(self._keep, drain=DRAIN)
        self._children: list[Child] = []
        self._lines: dict[str, list[str]] = {}

    @contextlib.contextmanager
    def running(self) -> Iterator[_Programs]:
        """Stop what was started when the block ends, the worker first."""
        try:
            yield self
        finally:
            for child in reversed(self._children):
                with stopping(self._supervisor, [child]):
                    pass

    def start_simulator(self) -> str:
        """Start the upstream simulator; its base URL."""
        command = ["worker.simulator", "--no-fsync"]
        line = self._start(Child("simulator", command, awaited='{"url":'))
        return str(jsontext.loads(line)["url"])

    def start_worker(self, env: dict[str, str]) -> None:
        """Start one production worker and wait until it claims jobs."""
        command = ["worker.celery", "worker"]
        self._start(Child("worker", command, env, awaited=" ready."))

    def replace_worker(self, env: dict[str, str]) -> int:
        """Kill the worker with SIGKILL, which it cannot catch, and start another; the pid of the dead one."""
        dead = next(child for child in reversed(self._children) if child.name == "worker")
        dead.send(signal.SIGKILL)
        pid = dead.process.pid if dead.process is not None else 0
        self.start_worker(env)
        return pid

    def start_gateway(self, env: dict[str, str]) -> str | None:
        """Start the HTTP gateway on a free port; its base URL."""
        try:
            from worker.gateway import serving
        except ModuleNotFoundError:
            return None
        sock = serving.listen("127.0.0.1", 0)
        port = sock.getsockname()[1]
        sock.close()
        line = self._start(Child("gateway", serving.command("127.0.0.1", port), env, awaited=serving.READY))
        return line.partition(serving.READY)[2].strip()

    def _start(self, child: Child) -> str:
        self._children.append(child)
        self._supervisor.start(child)
        try:
            return self._supervisor.await_line(child) or ""
        except Unreachable:
            words = "\n".join(self._lines.get(child.name, [])[-LAST_LINES:])
            raise Unreachable(f"the {child.name}", f"it did not start. Its last words:\n{words}") from None

    def _keep(self, name: str, line: str) -> None:
        self._lines.setdefault(name, []).append(line)


@contextlib.contextmanager
def _receiver(settings: Settings, received: queue.SimpleQueue[Received]) -> Iterator[str]:
    """A webhook receiver on loopback; its URL."""
    addresses: queue.SimpleQueue[str] = queue.SimpleQueue()
    secret = url_secret(Vault.of(settings))
    with start_blocking_portal() as portal:
        task = portal.start_task_soon(lambda: listen("127.0.0.1", 0, secret, received.put, on_ready=addresses.put))
        try:
            yield addresses.get(timeout=10)
        finally:
            task.cancel()
