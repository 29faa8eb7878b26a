"""In a process that others have changed: what cannot work there is refused in words, and does not hang."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from worker.base.errors import NotAllowed, SettingsError
from worker.base.settings import Settings
from worker.producer.stockpot import Stockpot


@pytest.mark.parametrize(
    ("module", "asked"), [("gevent.monkey", "is_module_patched"), ("eventlet.patcher", "is_monkey_patched")]
)
def test_reading_where_threads_are_greenlets_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, asked: str
) -> None:
    """An event loop in a greenlet stopped the process for good; where threads are left alone, it is a thread."""
    with Stockpot(Settings(home=tmp_path)) as pot:
        monkeypatch.setitem(sys.modules, module, SimpleNamespace(**{asked: lambda what: what.startswith("thread")}))
        with pytest.raises(NotAllowed, match=f"{module.partition('.')[0]} has replaced this process's threads"):
            list(pot.events("job_1"))
        monkeypatch.setitem(sys.modules, module, SimpleNamespace(**{asked: lambda _: False}))
        assert pot._shared.loop().call(_four) == 4


async def _four() -> int:
    return 4


def test_a_uwsgi_that_runs_no_threads_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream would wait for ever for a thread that never runs."""
    monkeypatch.setitem(sys.modules, "uwsgi", SimpleNamespace(has_threads=0))
    with pytest.raises(SettingsError, match="--enable-threads"):
        Stockpot(Settings(home=tmp_path))
