"""The rules with time run faster, and a Prometheus that reads them."""

from __future__ import annotations

import json
import re
import shutil
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.rig.ports import free_port, fresh_directory
from tests.rig.procs import Process

RULES = Path(__file__).parents[2] / "ops/helm/stockpot/files/alerts.yaml"
#: Thresholds in seconds, and what they are here. The gauges are read every 15 s.
AGES = {"> 60": "> 20", "> 3600": "> 20", "> 120": "> 40", "> 900": "> 20", "> 0.05": "> 0.02", "> 10": "> 2"}
#: The parts of a span of time that Prometheus understands.
_SPAN = re.compile(r"(?<=\[)(\d+)([mh])(?=\])|(?<=offset )(\d+)([mh])")


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
        alerts = self._get("alerts")["alerts"]
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}

    def scraped(self) -> int:
        """How many of the ports answer it."""
        return sum(target["health"] == "up" for target in self._get("targets")["activeTargets"])

    def _get(self, what: str) -> Any:
        with urllib.request.urlopen(f"{self.url}/api/v1/{what}", timeout=10) as answer:
            return json.load(answer)["data"]
