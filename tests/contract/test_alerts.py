"""Alerts speak of metrics that exist, and each has a runbook, and a fault that has fired it for real; metrics are seen to move."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from ops.rehearse_alerts.faults import FAULTS
from worker.base.metrics import REGISTRY

ROOT = Path(__file__).parents[2]
RULES = yaml.safe_load((ROOT / "ops/helm/stockpot/files/alerts.yaml").read_text(encoding="utf-8"))
ALERTS = [rule for group in RULES["groups"] for rule in group["rules"] if "alert" in rule]
RECORDS = {rule["record"] for group in RULES["groups"] for rule in group["rules"] if "record" in rule}


def exported() -> set[str]:
    """The names that a scrape has, with the suffixes of counters and histograms."""
    found: set[str] = set()
    for metric in REGISTRY.collect():
        suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"]}.get(metric.type, [""])
        found |= {metric.name + suffix for suffix in suffixes}
    return found


def expressions() -> list[Any]:
    rules = [rule for group in RULES["groups"] for rule in group["rules"]]
    return [pytest.param(rule["expr"], id=rule.get("alert", rule.get("record"))) for rule in rules]


@pytest.mark.parametrize("expr", expressions())
def test_a_rule_asks_for_metrics_that_exist(expr: str) -> None:
    names = set(re.findall(r"\bstockpot[_:][a-z0-9_:]+", expr))
    assert names
    assert names <= exported() | RECORDS


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_has_a_severity_a_summary_and_a_runbook(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in {"warning", "critical"}
    assert alert["annotations"]["summary"]
    runbook = (ROOT / alert["annotations"]["runbook"]).read_text(encoding="utf-8")
    for section in ("## What it means", "## What to look at", "## What to do", "## The fault that rehearses it"):
        assert section in runbook


def test_no_runbook_is_left_over() -> None:
    named = {Path(alert["annotations"]["runbook"]).name for alert in ALERTS}
    there = {path.name for path in (ROOT / "ops/runbooks").glob("Stockpot*.md")}
    assert there == named


def test_each_critical_alert_has_a_unit_test_of_its_rule() -> None:
    tests = (ROOT / "ops/prometheus/alerts_test.yaml").read_text(encoding="utf-8")
    critical = {alert["alert"] for alert in ALERTS if alert["labels"]["severity"] == "critical"}
    assert {name for name in critical if name not in tests} <= {"StockpotInteractiveLate"}


def test_counters_that_alerts_watch_are_there_before_they_count() -> None:
    """A series that is born at 1 has not risen for `rate` and `increase`: the first failure of a worker would be silent."""
    fresh = "from worker.base.metrics import REGISTRY; print([s.name for f in REGISTRY.collect() for s in f.samples])"
    there = subprocess.run([sys.executable, "-c", fresh], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    rules = [rule for group in RULES["groups"] for rule in group["rules"]]
    watched = {name for rule in rules for name in re.findall(r"\bstockpot_\w+_total\b", rule["expr"])}
    assert len(watched) > 3
    assert {name for name in watched if f"'{name}'" not in there} == set()


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_was_fired_by_a_fault_and_ended_by_its_runbook(alert: dict[str, Any]) -> None:
    """The runbook names the faults that `python -m ops.rehearse_alerts` does, and the log has the last time."""
    name = alert["alert"]
    faults = [fault for fault in FAULTS if name in fault.alerts]
    runbook = (ROOT / alert["annotations"]["runbook"]).read_text(encoding="utf-8")
    assert faults
    assert [fault.what for fault in faults if fault.what not in runbook] == []
    log = (ROOT / "ops/runbooks/rehearsal.md").read_text(encoding="utf-8")
    rows = re.findall(rf"^\| {name} \| (.*) \| (\d+) s \| (.*) \| (\d+) s \|$", log, re.MULTILINE)
    assert len(rows) == len(faults)


def test_each_metric_is_seen_to_move() -> None:
    """An alert's metric in the rehearsal of its fault; any other one in a test that does what it counts."""
    seen = " ".join(rule["expr"] for group in RULES["groups"] for rule in group["rules"])
    for path in sorted((ROOT / "tests").glob("[ifu]*/test_*.py")):
        seen += path.read_text(encoding="utf-8")
    names = {metric.name for metric in REGISTRY.collect()}
    shared = {name for name in names if re.search(rf"\b{name}(_total|_bucket|_count|_sum)?\b", seen)}
    assert names - shared == set()
