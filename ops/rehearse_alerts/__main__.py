"""`python -m ops.rehearse_alerts`: each alert fired by a real fault against a real Prometheus, and cleared as its runbook says.

Real PostgreSQL, Valkey, workers, a gateway and Prometheus (Debian's package `prometheus`), which scrapes workers and gateway as
the chart's monitors do; the provider is the simulator. The rules
are the chart's, with time run faster: windows and `for` of minutes divided by ten, of hours by sixty, and the
thresholds in `AGES` lowered. Nothing else in a rule is changed, so what is proved is that the fault reaches the rule's
own expression, and that the runbook's remedy takes it away. Exit code 1 if an alert did not fire or did not clear.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ops.rehearse_alerts.faults import FAULTS, Fault
from ops.rehearse_alerts.prometheus import Prometheus
from ops.rehearse_alerts.scene import Scene
from tests.rig import procs
from tests.rig.environment import scrub
from tests.rig.gateway import gateway_process
from tests.rig.ports import free_port, fresh_directory
from tests.rig.postgres import PostgresServer
from tests.rig.stage import Stage
from tests.rig.waiting import eventually
from worker.db.schema import upgrade

#: How long an alert may take to fire, and to clear, on a busy machine.
PATIENCE_SECONDS = 420.0


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


def rehearse(faults: Sequence[Fault]) -> tuple[list[str], bool]:
    """Do each; the report's lines, and whether every alert fired and cleared."""
    logs = fresh_directory("alerts")
    with PostgresServer() as server:
        url = server.create_database()
        upgrade(url)
        on = Stage(url, logs=logs, settings={"concurrency": 4, "lease_seconds": 3}, simulator={"token_delay": 1})
        try:
            scene = Scene(on, server, [free_port() for _ in range(3)], logs)
            scene.workers()
            gateway_process(on, logs, gateway := free_port())
            prometheus = Prometheus([*scene.ports, gateway], logs)
            # What is counted before the first scrape has not risen for Prometheus.
            seen = len(on.workers) + 1
            eventually(lambda: prometheus.scraped() >= seen and not prometheus.firing(), 60, "all is seen, and quiet")
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
    cleared = _when(lambda name: name not in prometheus.firing(), fault.alerts, undone, lambda: fault.after(scene))
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
    yield "`python -m ops.rehearse_alerts`: real PostgreSQL, Valkey, workers, a gateway and Prometheus; the provider is simulated. Time"
    yield "runs faster in the rules: minutes by ten, hours by sixty, ages as in `AGES`; the expressions are the chart's otherwise."
    yield ""
    yield "| alert | fault | fired after | remedy | cleared after |"
    yield "|---|---|---|---|---|"
    for name, what, fired, remedy, cleared, _ in rows:
        yield f"| {name} | {what} | {fired} | {remedy} | {cleared} |"


if __name__ == "__main__":
    sys.exit(main())
