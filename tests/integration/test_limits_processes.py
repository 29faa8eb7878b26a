"""Four worker processes against one limit per minute: all of it used, none of it broken."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.rig.procs import Process

#: One worker: as many jobs as the gate lets out for some seconds, each one's moment written down.
WORKER = """
import asyncio, sys, time
from worker.limits.admission import Admission
from worker.limits.permit import Permit
from worker.limits.route import Limits, Route

async def main(url, rpm, tpm, ends):
    admission = Admission(url, Limits(rpm=rpm or None, tpm=tpm or None))
    await admission.start()
    route, moments = Route("http://upstream/v1", "k", "m"), []

    async def job():
        while time.time() < ends:
            permit = await admission.admit(route, 50, 1.0)
            if isinstance(permit, Permit):
                moments.append(time.time())
                await asyncio.sleep(0.02)
                permit.done("answer", 50)
            else:
                await asyncio.sleep(min(permit.seconds, 0.2))

    await asyncio.gather(*(job() for _ in range(20)))
    await admission.aclose()
    print("\\n".join(map(str, moments)))

asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])))
"""
_SECONDS = 12.0
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("rpm", "tpm"), [(600, 0), (0, 30_000)], ids=["requests", "tokens"])
def test_four_processes_use_the_limit_and_do_not_exceed_it(
    redis_url: str, launch: Callable[..., Process], rpm: int, tpm: int
) -> None:
    """600 calls a minute, counted as requests or as 50 tokens each: over the time it ran, ≥ 97 % and never above."""
    import time

    ends = time.time() + _SECONDS + 2
    command: list[str | Path] = [sys.executable, "-c", WORKER, redis_url, str(rpm), str(tpm), str(ends)]
    workers = [launch(command, name=f"worker-{n}", cwd=ROOT) for n in range(4)]
    for worker in workers:
        assert worker.wait() == 0
    each = [[float(line) for line in worker.stdout.read_text().split()] for worker in workers]
    moments = sorted(moment for one in each for moment in one)
    ran = moments[-1] - moments[0]
    assert ran > _SECONDS / 2
    assert len(moments) >= 0.97 * 10 * ran
    # A second's worth may go ahead of the even pace; the minute as a whole is held by the window.
    assert len(moments) <= 10 * ran + 12
    for moment in moments:
        assert sum(moment <= other < moment + 1 for other in moments) <= 10 + 12
    assert all(len(one) > 0 for one in each)
