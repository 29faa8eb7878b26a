"""What is asked to stop has the time that it takes: the drain of its settings and 15 seconds, however it is run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import chart
from worker.base.settings import Settings

ROOT = Path(__file__).parents[2]
DRAIN = int(Settings.model_fields["drain_seconds"].default)
MARGIN = 15


@pytest.mark.skipif(not chart.available(), reason="no wheel of Helm for this platform")
@pytest.mark.parametrize(("name", "values"), list(chart.renderings()))
def test_a_pods_grace_period_is_longer_than_its_drain(name: str, values: dict[str, Any]) -> None:
    deployments = [one for one in chart.documents(values) if one["kind"] == "Deployment"]
    assert deployments
    for deployment in deployments:
        pod = deployment["spec"]["template"]["spec"]
        [container] = pod["containers"]
        [drain] = [one["value"] for one in container["env"] if one["name"] == "STOCKPOT_DRAIN_SECONDS"]
        [pause] = container.get("lifecycle", {"preStop": {"exec": {"command": ["sleep", "0"]}}})["preStop"]["exec"][
            "command"
        ][1:]
        assert pod["terminationGracePeriodSeconds"] >= int(drain) + int(pause) + MARGIN, (name, deployment["metadata"])
        # A Service sends new calls for a moment after its pod was asked to end.
        assert (int(pause) > 0) == (container["name"] == "gateway")


def test_composes_and_systemds_periods_are_longer_than_the_drain() -> None:
    services = yaml.safe_load((ROOT / "ops/compose.yaml").read_text(encoding="utf-8"))["services"]
    periods = {name: services[name]["stop_grace_period"] for name in ("worker", "gateway")}
    for unit in ("stockpot-worker@", "stockpot-gateway"):
        text = (ROOT / f"ops/systemd/{unit}.service").read_text(encoding="utf-8")
        periods[unit] = re.search(r"^TimeoutStopSec=(\d+)", text, re.MULTILINE)[1]  # type: ignore[index]
    assert {name for name, period in periods.items() if int(period.removesuffix("s")) < DRAIN + MARGIN} == set()
