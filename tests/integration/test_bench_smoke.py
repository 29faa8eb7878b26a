"""The benchmark is in order: it starts its servers, runs a contender, and writes its report."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import orjson
import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.long
def test_a_tiny_session_measures_the_bare_loop_and_writes_results_report_and_plots(tmp_path: Path) -> None:
    """`python -m ops.bench --tiny` of one contender ends well, loses no chunk and leaves all three outputs."""
    subprocess.run(
        [sys.executable, "-m", "ops.bench", "--tiny", "--only", "streaming,bulk", "--contenders", "bare"]
        + ["--home", str(tmp_path)],
        cwd=ROOT,
        check=True,
        timeout=300,
    )
    records = orjson.loads((tmp_path / "results.json").read_bytes())["records"]
    streamed = next(record for record in records if record["scenario"] == "streaming")
    assert "failed" not in streamed
    assert streamed["chunks"] == streamed["streams"] * 20
    assert {record["delay_ms"] for record in records if record["scenario"] == "bulk"} == {0, 200, 2_000}
    assert "bare loop" in (tmp_path / "RESULTS.md").read_text()
    assert (tmp_path / "plots" / "cpu-per-chunk.svg").exists()
