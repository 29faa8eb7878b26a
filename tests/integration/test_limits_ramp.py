"""A route that nobody knows: how its first calls go out."""

from __future__ import annotations

import asyncio

import pytest

from worker.limits.admission import Admission
from worker.limits.permit import Permit
from worker.limits.route import Route

pytestmark = pytest.mark.anyio

ROUTE = Route("http://upstream/v1", "k", "m")


async def admitted(admission: Admission, count: int, seconds: float) -> list[Permit]:
    """Ask for many calls at once, none of which ends; those that may go out."""
    given = await asyncio.gather(*(admission.admit(ROUTE, 0, seconds) for _ in range(count)))
    return [one for one in given if isinstance(one, Permit)]


async def test_a_thousand_long_calls_go_out_although_none_has_ended(redis_url: str) -> None:
    """Silence is consent: a refusal would have come back at once, an answer takes a minute."""
    admission = Admission(redis_url)
    await admission.start()
    began = asyncio.get_running_loop().time()
    permits = await admitted(admission, 1_000, 20.0)
    print("ramp seconds", asyncio.get_running_loop().time() - began)
    assert len(permits) == 1_000
    for permit in permits:
        permit.done("answer")
    await admission.aclose()


async def test_the_first_refusal_ends_the_ramp(redis_url: str) -> None:
    """From then on the limit is felt for in small steps: what was refused once is not doubled again."""
    admission = Admission(redis_url)
    await admission.start()
    first = await admitted(admission, 16, 5.0)
    assert len(first) == 16
    for permit in first:
        permit.done("busy", status=429)
    more = await admitted(admission, 200, 2.0)
    assert len(more) < 32
    for permit in more:
        permit.done("answer")
    await admission.aclose()
