"""A stage for fault tests: a whole Stockpot of real processes, a load, and the checks that follow.

    def test_a_worker_dies(stage: SetStage) -> None:
        on = stage("postgres", workers=2)
        ids = on.load(60)
        with Witness("a worker died of SIGKILL") as witness:
            witness.inject(on.workers[0].kill9)
            witness.saw(on.workers[0].returncode == -9)
        on.quiesce()
        on.check()

What stands on it: a database of its own (`postgres` or `sqlite`), a Valkey of its own, the provider simulator as a process
with its journal on disk, a webhook receiver, a producer in this process, and as many workers as wanted, started as a
user would. `proxies=("redis", "database", "upstream")` puts a fault proxy before any of them; the workers and the
producer then go through it, while the checks go straight. `fixture `stage`` in `tests/faults/conftest.py` makes one.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import redis
import sqlalchemy as sa
from sqlalchemy.engine import make_url

from tests.rig import canary, stage_checks
from tests.rig.environment import environment
from tests.rig.evidence import UpstreamCall, opened, upstream_calls
from tests.rig.faultproxy import FaultProxy
from tests.rig.hookd import HookReceiver
from tests.rig.invariants import TERMINAL
from tests.rig.ports import free_port, fresh_directory
from tests.rig.procs import Process
from tests.rig.supervisor import Supervisor
from tests.rig.valkey import ValkeyServer
from tests.rig.waiting import NeverHappened, eventually
from worker.base.payloads import Payloads
from worker.base.settings import Settings, load
from worker.producer.stockpot import Stockpot
from worker.simulator.journal import Call, calls, read_journal
from worker.webhooks.signing import new_secret

Proxied = Literal["redis", "database", "upstream"]

#: How long a load may take to end on a busy machine, faults and all, in seconds.
QUIESCE_SECONDS = 180.0
#: The simulator of a stage: an answer of 40 tokens takes about a quarter of a second.
SIMULATOR: dict[str, Any] = {"first_token_delay": 20, "token_delay": 5}


class SetStage(Protocol):
    """Sets a stage; see `Stage` for the arguments. Everything on it ends with the test."""

    def __call__(
        self,
        database: Literal["postgres", "sqlite"] = "postgres",
        *,
        workers: int = 2,
        proxies: Sequence[Proxied] = (),
        valkey: ValkeyServer | None = None,
        redis_url: str | None = None,
        database_url: str | None = None,
        simulator: Mapping[str, Any] | None = None,
        **settings: object,
    ) -> Stage:
        """Set it, with `workers` workers that claim."""


class Stage:
    """One running Stockpot.

    Args:
        database_url: a migrated database, reached directly.
        logs: where the processes write.
        valkey: the server; None starts one, with every write on disk before its answer.
        redis_url: what workers and producer are told instead of the server's own URL.
        proxies: what stands behind a fault proxy.
        simulator: settings of the simulator, over `SIMULATOR`.
        settings: of workers and producer, e.g. `lease_seconds=2`; over the rig's `QUICK` ones.
    """

    def __init__(
        self,
        database_url: str,
        *,
        logs: Path,
        valkey: ValkeyServer | None = None,
        redis_url: str | None = None,
        proxies: Sequence[Proxied] = (),
        simulator: Mapping[str, Any] | None = None,
        settings: Mapping[str, object] | None = None,
    ) -> None:
        self._open = contextlib.ExitStack()
        self._logs = logs
        self.database_url = database_url
        self.home = fresh_directory("home")
        self._open.callback(shutil.rmtree, self.home, ignore_errors=True)
        self.valkey = valkey or self._open.enter_context(ValkeyServer(appendonly=True))
        self.secret = new_secret()
        self.hooks = self._open.enter_context(HookReceiver([self.secret], journal=logs / "hooks.jsonl"))
        self.journal = logs / "calls.jsonl"
        self._upstream_port = free_port()
        self.simulator = self._start_simulator(SIMULATOR | dict(simulator or {}))
        self.proxies: dict[str, FaultProxy] = {name: self._proxy(name) for name in proxies}
        self.redis_url = redis_url or self._behind("redis", self.valkey.url_at)
        self._env = environment(
            self.home,
            database_url=self._behind("database", self._database_at),
            redis_url=self.redis_url,
            upstream_url=self._behind("upstream", lambda port: f"http://127.0.0.1:{port}/v1"),
            **{"webhook_secret": self.secret, "secret_key": secrets.token_hex(16), **(settings or {})},
        )
        self.canaries = canary.Canaries.hatch()
        self.workers: list[Process] = []
        self.supervisors: list[Supervisor] = []
        self.submitted: list[str] = []
        self._engine = sa.create_engine(database_url, poolclass=sa.NullPool)
        self._payloads = Payloads.of(self.settings())
        self.pot = self._open.enter_context(Stockpot(self.settings()))

    def close(self) -> None:
        """End everything."""
        for supervisor in self.supervisors:
            supervisor.close()
        for process in self.workers:
            process.close()
        self._open.close()
        self._engine.dispose()

    # ── what stands on it ────────────────────────────────────────────────────────────────────────────────────────

    def _start_simulator(self, config: Mapping[str, Any]) -> Process:
        module: list[str | Path] = [sys.executable, "-m", "worker.simulator", "--journal", self.journal]
        module += ["--port", str(self._upstream_port)]
        env = environment(self.home) | {"PYTHONPATH": str(Path(__file__).parents[2])}
        return self._open.enter_context(
            Process([*module, "--config", json.dumps(dict(config))], logs=self._logs, name="simulator", env=env)
        )

    def _proxy(self, name: str) -> FaultProxy:
        ports = {
            "redis": self.valkey.port,
            "database": make_url(self.database_url).port,
            "upstream": self._upstream_port,
        }
        return self._open.enter_context(FaultProxy("127.0.0.1", ports[name]))

    def _behind(self, name: str, url_at: Callable[[int], str]) -> str:
        """The URL that workers and producer use: the proxy's if there is one."""
        if name in self.proxies:
            return url_at(self.proxies[name].port)
        if name == "redis":
            return url_at(self.valkey.port)
        return self.database_url if name == "database" else url_at(self._upstream_port)

    def _database_at(self, port: int) -> str:
        return make_url(self.database_url).set(port=port).render_as_string(hide_password=False)

    def env(self, **changes: object) -> dict[str, str]:
        """The environment of a worker or another program of the stage; `lease_seconds=2` changes a setting."""
        named = {key if key.isupper() else f"STOCKPOT_{key.upper()}": value for key, value in changes.items()}
        env = self._env | {key: str(value) for key, value in named.items() if value is not None}
        return {key: value for key, value in env.items() if named.get(key, "") is not None}

    def settings(self, **changes: object) -> Settings:
        """The settings of a producer in this process."""
        prefix = "STOCKPOT_"
        given = {key.removeprefix(prefix).lower(): value for key, value in self._env.items() if key.startswith(prefix)}
        return load(**{key: value for key, value in given.items() if key != "home"} | {"home": self.home} | changes)

    def worker(
        self,
        name: str | None = None,
        *,
        crash_at: str | None = None,
        prefix: Sequence[str] = (),
        ready: bool = True,
        env: Mapping[str, str] | None = None,
        **settings: object,
    ) -> Process:
        """Start one more worker, as a user would.

        Args:
            crash_at: `worker.base.crashpoints` point to arm, `name[:n][:job_id]`.
            prefix: a command that runs it, e.g. `("prlimit", "--nofile=64")`.
            ready: wait until it claims.
            env: variables on top.
        """
        process = self._start_worker(name or f"worker-{len(self.workers)}", crash_at, prefix, env or {}, settings)
        self.workers.append(process)
        if ready:
            process.wait_for_line("engine_started")
        return process

    def _start_worker(
        self,
        name: str,
        crash_at: str | None,
        prefix: Sequence[str],
        env: Mapping[str, str],
        settings: Mapping[str, object],
    ) -> Process:
        # Workers read its prices once they start.
        self.simulator.wait_for_line(r'^\{"url"')
        whole = self.env(**settings) | dict(env)
        if crash_at is not None:
            whole["STOCKPOT_CRASH_AT"] = crash_at
        logs = self._logs / "workers"
        logs.mkdir(parents=True, exist_ok=True)
        # Not `python -m celery`: on SIGHUP Celery runs its own command again, and cannot run that one.
        program = Path(sys.executable).with_name("celery")
        command: list[str | Path] = [*prefix, sys.executable, program, "-A", "worker", "worker"]
        return Process(command, logs=logs, name=name, env=whole, cwd=logs)

    def start(self, count: int, **settings: object) -> list[Process]:
        """Start so many workers at once and wait until they claim."""
        started = [self.worker(ready=False, **settings) for _ in range(count)]  # type: ignore[arg-type]
        for process in started:
            process.wait_for_line("engine_started")
        return started

    def supervised(
        self, name: str, *, crash_at: str | None = None, env: Mapping[str, str] | None = None, **settings: object
    ) -> Supervisor:
        """A worker that is started again whenever it dies, as systemd or Kubernetes would."""
        supervisor = Supervisor(
            lambda life: self._start_worker(f"{name}-{life}", crash_at, (), env or {}, settings),
            pause=0.05,
        )
        self.supervisors.append(supervisor)
        return supervisor

    # ── the load ─────────────────────────────────────────────────────────────────────────────────────────────────

    def body(self, script: str = "ok", *, stream: bool = False) -> dict[str, Any]:
        """A request whose upstream behaves as `script` says (docs/simulator.md)."""
        content = f"{self.canaries.prompt} {secrets.token_hex(4)}"
        body: dict[str, Any] = {
            "model": f"openai/gpt-5-1-chat-latest@sim:{script}",
            "messages": [{"role": "user", "content": content}],
        }
        return body | ({"stream": True} if stream else {})

    def submit(
        self,
        script: str = "ok",
        *,
        stream: bool = False,
        hook: bool = False,
        pot: Stockpot | None = None,
        **options: Any,
    ) -> str:
        """Submit one job, and remember the promise."""
        if hook:
            options["webhook"] = self.hooks.url("/ok")
        job_id = (pot or self.pot).submit(self.body(script, stream=stream), **options).id
        self.submitted.append(job_id)
        return job_id

    def load(self, count: int, script: str = "ok", *, hooks: bool = True, **options: Any) -> list[str]:
        """Submit a mix at once: every other job a stream, three in ten with a webhook. Returns the ids, in order."""
        requests = [
            {"body": self.body(script, stream=number % 2 == 0)}
            | ({"webhook": self.hooks.url("/ok")} if hooks and number % 10 in {1, 4, 8} else {})
            for number in range(count)
        ]
        ids = self.pot.submit_many(requests, **{"lane": "interactive", **options})
        self.submitted += ids
        return ids

    # ── looking ──────────────────────────────────────────────────────────────────────────────────────────────────

    def rows(self, statement: str, **values: object) -> list[Mapping[str, Any]]:
        """Rows of a SELECT, straight from the database; texts in clear beside what names their row."""
        with self._engine.connect() as connection:
            return [
                opened(dict(row), self._payloads) for row in connection.execute(sa.text(statement), values).mappings()
            ]

    def count(self, where: str = "true", table: str = "jobs_v", **values: object) -> int:
        """How many rows of a view there are."""
        return int(self.rows(f"SELECT count(*) AS n FROM {table} WHERE {where}", **values)[0]["n"])

    def done(self, ids: Sequence[str] | None = None) -> int:
        """How many jobs (of these) are over."""
        over = {row["id"] for row in self.rows("SELECT id, status FROM jobs_v") if row["status"] in TERMINAL}
        return len(over if ids is None else over & set(ids))

    def job(self, job_id: str) -> Mapping[str, Any]:
        """One job, as the view shows it."""
        return self.rows("SELECT * FROM jobs_v WHERE id = :id", id=job_id)[0]

    def attempts(self, job_id: str) -> list[Mapping[str, Any]]:
        """Its attempts, by ordinal."""
        return self.rows("SELECT * FROM attempts_v WHERE job_id = :id ORDER BY attempt", id=job_id)

    def calls(self) -> list[UpstreamCall]:
        """The upstream calls so far."""
        return upstream_calls(self.journal) if self.journal.exists() else []

    def running_calls(self) -> list[Call]:
        """The calls that the upstream has received and not ended."""
        made = calls(read_journal(self.journal)) if self.journal.exists() else []
        return [call for call in made if call.done is None]

    def extra_calls(self) -> int:
        """Upstream calls beyond one for each job."""
        made = self.calls()
        return len(made) - len({call.job_id for call in made})

    def unexplained_calls(self) -> int:
        """Upstream calls beyond one for each job and one for each attempt that was lost with its worker or its lease.

        On a machine that stands still for longer than a lease, a worker loses what it holds without a fault of the test's.
        """
        lost = self.count("outcome = 'lost'", "attempts_v")
        return max(0, self.extra_calls() - lost)

    def lost_and_done(self, job_id: str) -> bool:
        """Whether a job was lost with its worker, and then completed; a machine that stands still may cost more leases."""
        outcomes = [row["outcome"] for row in self.attempts(job_id)]
        return len(outcomes) >= 2 and set(outcomes[:-1]) == {"lost"} and outcomes[-1] == "completed"

    def lost_by(self, worker: Process) -> int:
        """How many attempts were lost with this worker: at most what it could have in flight."""
        rows = self.rows("SELECT worker FROM attempts_v WHERE outcome = 'lost'")
        return sum(_pid_of(row["worker"]) == worker.pid for row in rows)

    def hears_doorbells(self) -> None:
        """Wait until the workers take messages from the queue: after a fault none may stay deaf for good.

        The look into the database hides deafness, so it is the queue that is looked at.
        """

        def heard() -> bool:
            self.submit()
            with redis.Redis.from_url(self.valkey.url, decode_responses=True) as client:
                pushes = client.info("commandstats").get("cmdstat_lpush", {}).get("calls", 0)
                return bool(pushes > before and client.llen("stockpot.interactive") == 0)

        with redis.Redis.from_url(self.valkey.url, decode_responses=True) as client:
            before = client.info("commandstats").get("cmdstat_lpush", {}).get("calls", 0)
        eventually(heard, 120, "doorbells are rung and heard")

    def held_by(self, worker: Process) -> list[str]:
        """The jobs that a worker holds now."""
        running = self.rows("SELECT job_id, worker FROM attempts_v WHERE outcome = 'running' ORDER BY job_id")
        return [row["job_id"] for row in running if _pid_of(row["worker"]) == worker.pid]

    def sweeper(self) -> Process | None:
        """The worker that is elected to sweep, if one is."""
        rows = self.rows("SELECT owner FROM leases WHERE name = 'sweeper'")
        pids = [_pid_of(row["owner"]) for row in rows]
        return next((worker for worker in self.workers if worker.pid in pids), None)

    def events(self, job_id: str) -> list[dict[str, Any]]:
        """A job's replay log."""
        with redis.Redis.from_url(self.valkey.url) as client:
            return [json.loads(fields[b"e"]) for _, fields in client.xrange(f"stockpot:job:{job_id}")]

    def logged(self, event: str) -> int:
        """How often the workers, all of their lives, logged an event of this name."""
        return sum(path.read_text(errors="replace").count(f'"event": "{event}"') for path in self.worker_logs())

    def worker_logs(self) -> list[Path]:
        """What the workers wrote, the dead ones too."""
        return sorted((self._logs / "workers").glob("*.err"))

    # ── the end ──────────────────────────────────────────────────────────────────────────────────────────────────

    def quiesce(self, timeout: float = QUIESCE_SECONDS) -> None:
        """Wait until everything submitted is over, every webhook too, and no call runs upstream."""

        def left() -> list[object]:
            open_jobs = "SELECT id, status, waiting_on, fence FROM jobs WHERE status IN ('queued', 'in_progress')"
            hooks = "SELECT id, status FROM webhook_events WHERE status IN ('pending', 'delivering')"
            # The journal is long; it is read only when the database has nothing left to do.
            return [*self.rows(open_jobs)] or [*self.rows(hooks)] or [*self.running_calls()]

        try:
            eventually(lambda: not left(), timeout, "everything has ended")
        except NeverHappened:
            tails = "\n".join(f"--- {worker.name} ({worker.returncode})\n{worker.tail(15)}" for worker in self.workers)
            raise AssertionError(f"not over within {timeout:g} s: {left()[:10]}\n{tails}") from None

    check = stage_checks.check


def _pid_of(owner: str) -> int:
    """The pid in an engine's name: host, pid, random."""
    return int(owner.split(":")[1])
