"""The doorbell's thread, without a broker."""

from __future__ import annotations

import threading

import pytest

from tests.rig.waiting import eventually
from worker.base.settings import Settings
from worker.broker.doorbell import Doorbell


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_doorbell_whose_thread_died_rings_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of whatever it dies, e.g. of a lack of memory: jobs that come later would wait for a worker's own look, for ever."""
    rung: list[str] = []
    threads: list[threading.Thread] = []

    def send(_self: Doorbell, _lane: str, ids: list[str]) -> bool:
        threads.append(threading.current_thread())
        if len(threads) == 1:
            raise MemoryError
        rung.extend(ids)
        return True

    monkeypatch.setattr(Doorbell, "_send", send)
    bell = Doorbell(Settings())
    bell.ring(["job_lost"], "interactive")
    eventually(lambda: threads and not threads[0].is_alive(), what="the thread is dead")
    bell.ring(["job_rung"], "interactive")
    eventually(lambda: rung == ["job_rung"], what="the next job's bell is rung")
    bell.close()
    assert threads[0] is not threads[1]
