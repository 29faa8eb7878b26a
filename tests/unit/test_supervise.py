"""`stockpot up` restarts what crashes, and gives up what never becomes ready."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from worker.base import ports
from worker.base.errors import SettingsError, Unreachable
from worker.local import supervise
from worker.local.supervise import MOST_STARTS, Child, Supervisor, stopping


def test_a_child_that_ends_at_each_start_ends_all_with_its_last_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A setting that is wrong mends nobody else; the child that was ready once and crashes is not counted."""
    monkeypatch.setattr(supervise, "FIRST_WAIT", timedelta(milliseconds=1))
    (tmp_path / "ends.py").write_text("import sys; print('ready', flush=True); sys.exit('the port is taken')\n")
    (tmp_path / "crashes.py").write_text("import sys; print('up', flush=True); sys.exit(1)\n")
    lines: list[str] = []
    env = {"PYTHONPATH": str(tmp_path)}
    dies = Child("dies", ["ends"], env, awaited="never printed")
    crashes = Child("crashes", ["crashes"], env, awaited="up")
    supervisor = Supervisor(lambda name, line: lines.append(f"{name} {line}"), drain=timedelta())
    with supervisor, stopping(supervisor, [dies, crashes]), pytest.raises(Unreachable) as caught:
        supervisor.start(crashes)
        supervisor.start(dies)
        supervisor.run(lambda: None)
    assert str(caught.value) == (
        f"the dies is unreachable: it has ended {MOST_STARTS} times before it was ready\nIts last line: the port is taken"
    )
    assert lines.count("dies the port is taken") == MOST_STARTS
    assert lines.count("crashes up") >= 1


def test_a_port_beyond_the_last_one_is_refused_by_its_setting() -> None:
    """The workers of `up` count up from the first one's."""
    with pytest.raises(SettingsError, match="STOCKPOT_HTTP_PORT: 65536 is no port"):
        ports.check("STOCKPOT_HTTP_PORT", "127.0.0.1", 65_536)
