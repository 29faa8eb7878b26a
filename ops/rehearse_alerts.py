"""`python -m ops.rehearse_alerts`: each alert fired by a real fault against a real Prometheus, and cleared as its runbook says.

Real PostgreSQL, Valkey, workers and Prometheus (Debian's package `prometheus`); the provider is the simulator. The rules
are the chart's, with time run faster: windows and `for` of minutes divided by ten, of hours by sixty, and the
thresholds in `AGES` lowered. Nothing else in a rule is changed, so what is proved is that the fault reaches the rule's
own expression, and that the runbook's remedy takes it away. Exit code 1 if an alert did not fire or did not clear.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import shutil
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import yaml

from tests.rig import procs
from tests.rig.environment import TEST_API_KEY, scrub
from tests.rig.ports import free_port, fresh_directory
from tests.rig.postgres import PostgresServer
from tests.rig.procs import Process
from tests.rig.simulated import Knobs
from tests.rig.stage import Stage
from tests.rig.waiting import NeverHappened, eventually
from worker.db.schema import upgrade

ROOT = Path(__file__).parents[1]
RULES = ROOT / "ops/helm/stockpot/files/alerts.yaml"
#: Thresholds in seconds, and what they are here. The gauges are read every 15 s.
AGES = {"> 60": "> 20", "> 3600": "> 20", "> 120": "> 40", "> 900": "> 20", "> 0.05": "> 0.02"}
#: How long an alert may take to fire, and to clear, on a busy machine.
PATIENCE_SECONDS = 240.0
#: The parts of a span of time that Prometheus understands.
_SPAN = re.compile(r"(?<=\[)(\d+)([mh])(?=\])|(?<=offset )(\d+)([mh])")
MODEL = "openai/gpt-4o-mini"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 0 if each alert fired and cleared."""
    parser = argparse.ArgumentParser(prog="python -m ops.rehearse_alerts", description=__doc__)
    parser.add_argument("--only", nargs="*", default=[], metavar="ALERT", help="only the faults of these alerts")
    parser.add_argument("--report", type=Path, help="write a Markdown report here")
    given = parser.parse_args(arguments)
    scrub()
    rehearsed = [fault for fault in FAULTS if not given.only or set(given.only) & set(fault.alerts)]
    try:
        lines, good = rehearse(rehearsed)
    finally:
        procs.close_all()
    text = "\n".join(lines) + "\n"
    sys.stdout.write(text)
    if given.report is not None:
        given.report.write_text(text)
    return 0 if good else 1


def faster(rules: dict[str, Any]) -> dict[str, Any]:
    """The rules with time run faster."""
    for rule in (rule for group in rules["groups"] for rule in group["rules"]):
        rule["expr"] = _SPAN.sub(_shorter, rule["expr"])
        for slow, quick in AGES.items():
            rule["expr"] = re.sub(rf"{re.escape(slow)}(?![\d.])", quick, rule["expr"])
        if "for" in rule:
            rule["for"] = f"{int(rule['for'].rstrip('m')) * 6}s"
    for group in rules["groups"]:
        group["interval"] = "1s"
    return rules


def _shorter(match: re.Match[str]) -> str:
    number, unit = (match[1], match[2]) if match[1] else (match[3], match[4])
    return f"{int(number) * (6 if unit == 'm' else 60)}s"


class Prometheus:
    """A server of its own, scraping these ports every second."""

    def __init__(self, ports: Sequence[int], logs: Path) -> None:
        place = fresh_directory("prometheus")
        (place / "rules.yml").write_text(yaml.safe_dump(faster(yaml.safe_load(RULES.read_text()))))
        jobs = [{"job_name": "stockpot", "static_configs": [{"targets": [f"127.0.0.1:{port}" for port in ports]}]}]
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(place / "rules.yml")],
            "scrape_configs": jobs,
        }
        (place / "prometheus.yml").write_text(yaml.safe_dump(config))
        self.url = f"http://127.0.0.1:{(port := free_port())}"
        program = shutil.which("prometheus") or "prometheus"
        command: list[str | Path] = [program, f"--config.file={place / 'prometheus.yml'}"]
        command += [f"--storage.tsdb.path={place / 'data'}", f"--web.listen-address=127.0.0.1:{port}"]
        self.process = Process(command, logs=logs, name="prometheus")
        self.process.wait_for_line("Server is ready to receive")

    def firing(self) -> set[str]:
        """The names of the alerts that fire now."""
        with urllib.request.urlopen(f"{self.url}/api/v1/alerts", timeout=10) as answer:
            alerts = json.load(answer)["data"]["alerts"]
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}


@dataclass
class Scene:
    """What faults are done to."""

    on: Stage
    server: PostgresServer
    ports: Sequence[int]
    logs: Path
    held: list[Any] = field(default_factory=list)

    def ask(self, script: str, count: int = 1, *, tenant: str = "default", **options: Any) -> list[str]:
        """Submit jobs to one model whose upstream behaves as the script says."""
        pot = self.on.pot if tenant == "default" else self.on.pot.for_tenant(tenant)
        body = {"model": MODEL, "messages": [{"role": "user", "content": f"[[sim: {script}]] hello"}], "stream": True}
        return [pot.submit(body, **options).id for _ in range(count)]

    def stockpot(self, *words: str) -> str:
        """Run a command as an engineer would."""
        program = Path(sys.executable).with_name("stockpot")
        with Process([program, *words], logs=self.logs, name="command", env=self.on.env(), cwd=self.logs) as process:
            process.wait(120)
        return " ".join(words)

    def workers(self, count: int = 2) -> None:
        """Start workers with a status port each."""
        alive = {worker.name.rpartition("-")[0] for worker in self.on.workers if worker.running}
        for number, port in enumerate(self.ports[:count]):
            if f"port{number}" not in alive:
                self.on.worker(f"port{number}-{len(self.on.workers)}", http_port=port)

    def kill(self) -> None:
        """Kill every worker."""
        for worker in self.on.workers:
            if worker.running:
                worker.kill9()


@dataclass(frozen=True)
class Fault:
    """A fault with the alerts that it must fire, and the remedy of their runbook."""

    alerts: tuple[str, ...]
    what: str
    remedy: str
    do: Callable[[Scene], None]
    undo: Callable[[Scene], None]
    during: Callable[[Scene], None] = lambda scene: None  # again and again while the alert is waited for


def _refuse(scene: Scene) -> None:
    scene.ask("400", 40)


def _good(scene: Scene) -> None:
    scene.ask("ok", 400)


def _budget(scene: Scene) -> None:
    scene.stockpot("budget", "set", "0.0001", "--tenant", "acme")
    scene.ask("tokens=400", 6, tenant="acme")


def _batch(scene: Scene) -> None:
    file = scene.logs / "held.jsonl"
    body = {"model": MODEL, "messages": [{"role": "user", "content": "[[sim: tokens=200]] hello"}], "max_tokens": 300}
    lines = [{"custom_id": f"r{n}", "method": "POST", "url": "/v1/chat/completions", "body": body} for n in range(40)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    scene.stockpot("batch", "submit", str(file), "--max-cost", "0.0001")


def _resume_batches(scene: Scene) -> None:
    for row in scene.on.rows("SELECT id FROM batches_v WHERE status = 'in_progress'"):
        scene.stockpot("batch", "resume", row["id"], "--max-cost", "5")


def _hooks(path: str) -> Callable[[Scene], None]:
    def hook(scene: Scene) -> None:
        scene.ask("ok", 3, webhook=scene.on.hooks.url(path))

    return hook


def _end_hooks(scene: Scene) -> None:
    """The receiver works again: what its owner would do, seen from here."""
    with sa.create_engine(scene.on.database_url).begin() as conn:
        conn.execute(
            sa.text("UPDATE webhook_events SET url = :url, due_at = now() WHERE status = 'pending'"),
            {"url": scene.on.hooks.url("/ok")},
        )


def _revoke(scene: Scene) -> None:
    Knobs(scene.on.simulator).key(TEST_API_KEY, status="revoked")
    scene.ask("ok", 3)


def _pay(scene: Scene) -> None:
    Knobs(scene.on.simulator).key(TEST_API_KEY)
    scene.stockpot("routes", "resume", MODEL)


def _hang(scene: Scene) -> None:
    scene.held = scene.ask("hold", 8) + scene.ask("ok", 3)


def _release(scene: Scene) -> None:
    Knobs(scene.on.simulator).release()


def _lock(scene: Scene) -> None:
    connection = sa.create_engine(scene.on.database_url, poolclass=sa.NullPool).connect()
    connection.execute(sa.text("SELECT * FROM leases FOR UPDATE"))
    scene.held = [connection]


def _unlock(scene: Scene) -> None:
    for connection in scene.held:
        connection.close()


def _stutter(scene: Scene) -> None:
    worker = next(worker for worker in scene.on.workers if worker.running)
    worker.stop()
    time.sleep(2.5)
    worker.cont()
    time.sleep(0.5)


def _die(scene: Scene) -> None:
    scene.ask("slow=50", 8)
    with contextlib.suppress(NeverHappened):
        eventually(scene.on.running_calls, 20, "calls run")
    next(worker for worker in reversed(scene.on.workers) if worker.running).kill9()
    scene.workers()


def _few(scene: Scene, script: str) -> None:
    """The fault goes on, a job or two a second."""
    scene.ask(script)


def _break(scene: Scene) -> None:
    scene.ask("500", 12)


def _mend(scene: Scene) -> None:
    scene.stockpot("routes", "resume", MODEL)
    scene.ask("ok", 5)


def _mute(scene: Scene) -> None:
    scene.ask("slow=300", 4)
    with contextlib.suppress(NeverHappened):
        eventually(scene.on.running_calls, 20, "calls run")
    scene.on.valkey.stop()


def _end_all(scene: Scene) -> None:
    scene.ask("ok", 10)
    scene.kill()


def _raise_budget(scene: Scene) -> None:
    scene.stockpot("budget", "set", "5", "--tenant", "acme")


def _replay(scene: Scene) -> None:
    scene.stockpot("webhooks", "replay", "--all-dead")


def _nothing(_scene: Scene) -> None:
    """Time does it, or nothing needs to be done."""


def _stream(scene: Scene) -> None:
    scene.ask("slow=100")


FAULTS = (
    Fault(
        ("StockpotFailuresBurnFast", "StockpotFailuresBurnSlowly"),
        "a producer sends what the provider refuses (400)",
        "the producer is mended: good jobs only",
        _refuse,
        _good,
        lambda scene: _few(scene, "400"),
    ),
    Fault(
        ("StockpotRoutePaused",),
        "the provider answers 500 to one model",
        "it answers again; `stockpot routes resume MODEL`",
        _break,
        _mend,
        lambda scene: _few(scene, "500"),
    ),
    Fault(
        ("StockpotBudgetUsed",),
        "a budget of a hundredth of a cent, and a load that costs more",
        "`stockpot budget set 5 --tenant acme`",
        _budget,
        _raise_budget,
    ),
    Fault(
        ("StockpotBatchHeld",),
        "a batch with a cap below its cost",
        "`stockpot batch resume ID --max-cost 5`",
        _batch,
        _resume_batches,
    ),
    Fault(
        ("StockpotWebhooksLate",),
        "a receiver that answers 500",
        "the receiver answers 200",
        _hooks("/fail?status=500"),
        _end_hooks,
    ),
    Fault(
        ("StockpotWebhooksDead",),
        "a receiver that answers 410",
        "`stockpot webhooks replay --all-dead`, and no new ones",
        _hooks("/410"),
        _replay,
    ),
    Fault(
        ("StockpotAccountPaused",),
        "the provider refuses the key",
        "the key is good again; `stockpot routes resume MODEL`",
        _revoke,
        _pay,
    ),
    Fault(("StockpotInteractiveWaits",), "calls that hang take every place", "the calls end", _hang, _release),
    Fault(
        ("StockpotNobodySweeps",),
        "a transaction holds the row of the election",
        "the transaction is ended (`pg_stat_activity` shows it)",
        _lock,
        _unlock,
    ),
    Fault(
        ("StockpotLoopLags",),
        "SIGSTOP and SIGCONT of a worker, again and again",
        "it is left alone",
        _nothing,
        _nothing,
        _stutter,
    ),
    Fault(
        ("StockpotLiveEventsDropped",),
        "Valkey stopped while jobs stream",
        "Valkey is started",
        _mute,
        lambda scene: scene.on.valkey.start(),
        _stream,
    ),
    Fault(
        ("StockpotFleetNotRead",),
        "PostgreSQL stands still (SIGSTOP)",
        "it goes on (SIGCONT)",
        lambda scene: scene.server.freeze(),
        lambda scene: scene.server.thaw(),
    ),
    Fault(
        ("StockpotJobsReclaimed",),
        "kill -9 of a worker every few seconds",
        "they are left alive",
        _nothing,
        _nothing,
        _die,
    ),
    Fault(
        ("StockpotNoWorkers",),
        "kill -9 of all workers under load",
        "workers are started",
        _end_all,
        lambda scene: scene.workers(),
    ),
)


def rehearse(faults: Sequence[Fault]) -> tuple[list[str], bool]:
    """Do each; the report's lines, and whether every alert fired and cleared."""
    logs = fresh_directory("alerts")
    with PostgresServer() as server:
        url = server.create_database()
        upgrade(url)
        on = Stage(url, logs=logs, settings={"concurrency": 4, "lease_seconds": 3})
        try:
            scene = Scene(on, server, [free_port(), free_port()], logs)
            scene.workers()
            prometheus = Prometheus(scene.ports, logs)
            eventually(lambda: not prometheus.firing(), 60, "all is quiet")
            results = [_rehearsed(fault, scene, prometheus) for fault in faults]
            prometheus.process.close()
        finally:
            on.close()
    rows = [row for part in results for row in part]
    return list(_report(rows)), all(good for *_, good in rows)


Row = tuple[str, str, str, str, str, bool]


def _rehearsed(fault: Fault, scene: Scene, prometheus: Prometheus) -> list[Row]:
    began = time.monotonic()
    fault.do(scene)
    fired = _when(lambda name: name in prometheus.firing(), fault.alerts, began, lambda: fault.during(scene))
    undone = time.monotonic()
    fault.undo(scene)
    cleared = _when(lambda name: name not in prometheus.firing(), fault.alerts, undone, lambda: None)
    rows = [
        (
            name,
            fault.what,
            _after(fired[name]),
            fault.remedy,
            _after(cleared[name]),
            None not in (fired[name], cleared[name]),
        )
        for name in fault.alerts
    ]
    for row in rows:
        sys.stderr.write(f"{row}\n")
    return rows


def _when(
    holds: Callable[[str], bool], names: Sequence[str], began: float, meanwhile: Callable[[], None]
) -> dict[str, float | None]:
    """After how many seconds each holds; None for what never did."""
    when: dict[str, float | None] = dict.fromkeys(names)
    while time.monotonic() < began + PATIENCE_SECONDS and None in when.values():
        meanwhile()
        for name in names:
            if when[name] is None and holds(name):
                when[name] = time.monotonic() - began
        time.sleep(0.5)
    return when


def _after(seconds: float | None) -> str:
    return "**never**" if seconds is None else f"{seconds:.0f} s"


def _report(rows: Sequence[Row]) -> Iterator[str]:
    yield "# Each alert, fired by a fault and cleared by its runbook"
    yield ""
    yield "`python -m ops.rehearse_alerts`: real PostgreSQL, Valkey, workers and Prometheus; the provider is simulated. Time runs"
    yield "faster in the rules: minutes by ten, hours by sixty, ages as in `AGES`; the expressions are the chart's otherwise."
    yield ""
    yield "| alert | fault | fired after | remedy | cleared after |"
    yield "|---|---|---|---|---|"
    for name, what, fired, remedy, cleared, _ in rows:
        yield f"| {name} | {what} | {fired} | {remedy} | {cleared} |"


if __name__ == "__main__":
    sys.exit(main())
