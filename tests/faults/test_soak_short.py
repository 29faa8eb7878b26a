"""F78 in small: half a minute of seeded random faults. The long run is `make soak`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.rig.procs import Process
from tests.rig.witness import Witness

pytestmark = [pytest.mark.fault, pytest.mark.slow]

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(600)
def test_half_a_minute_of_random_faults(tmp_path: Path) -> None:
    """Workers, Redis, PostgreSQL, connections and callers fail at random; every promise is kept."""
    logs, report = tmp_path / "soak", tmp_path / "report.md"
    command: list[str | Path] = [sys.executable, "-m", "tests.soak", "--seed", "78", "--logs", logs]
    with Witness("at least three kinds of faults were done, a kill of a worker among them") as witness:
        minutes = "0.4" if witness.faults_on else "0"
        with Process([*command, "--minutes", minutes, "--report", report], logs=tmp_path, name="run", cwd=ROOT) as soak:
            code = soak.wait(500)
            told = soak.output
        events = [json.loads(line) for line in (logs / "history.jsonl").read_text().splitlines()]
        kinds = {event["name"] for event in events}
        witness.saw(len(kinds) >= 3 and sum(event["kills"] for event in events) >= 1)
    assert code == 0, told
    assert "good: every promise was kept" in told
    assert report.read_text().startswith("# Soak of ")
