"""A producer in somebody's program writes nothing to its stdout, and logs through `logging`, at the level that is set."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.rig.environment import environment
from worker.base import telemetry
from worker.base.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
#: What has a reason to log: an upstream that is away is asked for its prices.
PROGRAM = """
import json, logging, pathlib, sys
if sys.argv[1:]:
    logging.basicConfig(level=sys.argv[1])
from worker import Stockpot
from worker.db.schema import upgrade
line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions",
        "body": {"model": "m", "messages": [{"role": "user", "content": "x"}]}}
pathlib.Path("in.jsonl").write_text(json.dumps(line))
with Stockpot() as pot:
    upgrade(pot.settings)
    pot.batches.submit("in.jsonl")
"""


@pytest.mark.long
@pytest.mark.parametrize(
    ("level", "set_to", "heard"), [("INFO", "info", True), ("INFO", "error", False), ("", "info", False)]
)
def test_a_producers_logs_go_through_logging_and_spoil_no_stdout(
    tmp_path: Path, level: str, set_to: str, *, heard: bool
) -> None:
    """Whether the program has configured `logging` or not, and whichever modules are imported when."""
    env = environment(tmp_path / "home", redis_url="redis://127.0.0.1:1/0", upstream_url="http://127.0.0.1:1/v1")
    env |= {"PYTHONPATH": str(ROOT), "STOCKPOT_LOG_LEVEL": set_to, "STOCKPOT_PRICES": "*=1/1"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *([level] if level else [])],
        env=env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout == ""
    assert ("prices_not_read" in done.stderr) == heard


def test_every_module_logs_by_way_of_the_one_that_knows_how() -> None:
    """structlog's own logger prints to stdout until somebody has configured it."""
    own = {ROOT / "worker" / "base" / name for name in ("log.py", "telemetry.py")}
    files = [path for folder in ("worker", "stockpot") for path in (ROOT / folder).rglob("*.py") if path not in own]
    assert [str(path) for path in files if re.search(r"structlog\.(stdlib\.)?get_logger", path.read_text())] == []


def test_a_process_whose_stderr_is_closed_logs_into_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `2>&-` of a shell leaves it; it ended at its start, without a word."""
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)
    monkeypatch.setattr(sys, "stderr", None)
    monkeypatch.setattr(logging, "raiseExceptions", True)
    telemetry.configure(Settings())
    [handler] = root.handlers
    assert isinstance(handler, logging.StreamHandler)
    root.error("nowhere")
    assert handler.stream is sys.stderr is not None
    sys.stderr.close()
