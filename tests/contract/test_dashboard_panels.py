"""Grafana's dashboard asks for metrics that exist, in queries that Prometheus understands."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.contract.test_alerts import RECORDS, exported

ROOT = Path(__file__).parents[2]
DASHBOARD = json.loads((ROOT / "ops/helm/stockpot/files/dashboard.json").read_text(encoding="utf-8"))


def queries() -> Iterator[tuple[str, str]]:
    """Each panel's title and query."""
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]


def test_a_panel_asks_for_metrics_that_exist() -> None:
    asked = {name for _, expr in queries() for name in re.findall(r"\bstockpot[_:][a-z0-9_:]+", expr)}
    assert len(asked) > 20
    assert asked <= exported() | RECORDS


def test_labels_of_panels_are_labels_of_their_metrics() -> None:
    """A legend that names a label which the query has dropped shows nothing."""
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
                kept = re.search(rf"by \([^)]*\b{label}\b", target["expr"])
                assert kept or label == "instance", f"{panel['title']}: {label}"


def test_prometheus_understands_each_query(tmp_path: Path) -> None:
    """Wrapped into recording rules, which Prometheus's own tool checks."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    rules: list[dict[str, Any]] = [{"record": f"panel:{n}", "expr": expr} for n, (_, expr) in enumerate(queries())]
    file = tmp_path / "panels.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    done = subprocess.run([promtool, "check", "rules", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"{len(rules)} rules found" in done.stdout


def test_panels_do_not_lie_on_each_other() -> None:
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    cells = [
        (x, y) for at in places for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(cells) == len(set(cells))
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(places)
