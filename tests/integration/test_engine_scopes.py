"""Limits of the key and of each tenant, with real workers: whatever the route would allow, they hold over all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.factories import rows
from tests.fakes import Provider, Workplace, workplace
from tests.rig.waiting import eventually
from worker.limits import limiter
from worker.simulator.journal import calls, read_journal


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Redis that answers late on a busy machine is not away: each worker would keep the limits by itself."""
    monkeypatch.setattr(limiter, "ANSWER_SECONDS", 60.0)


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[Provider]:
    with Provider(tmp_path, first_token_delay=100) as provider:
        yield provider


def most_at_once(place: Workplace, group: dict[str, str]) -> Counter[str]:
    """The most calls that each group of jobs had in flight at one time, as the provider saw them."""
    moments: list[tuple[float, int, str]] = []
    for call in calls(read_journal(place.provider.journal)):
        assert call.done is not None
        name = group[call.received.job]
        moments += [(call.received.at, 1, name), (call.done.at, -1, name)]
    running: Counter[str] = Counter()
    most: Counter[str] = Counter()
    for _, change, name in sorted(moments):
        running[name] += change
        most[name] = max(most[name], running[name])
    return most


def test_a_tenants_and_the_keys_calls_in_flight_are_bounded(
    provider: Provider, sqlite_url: str, redis_url: str
) -> None:
    """Two workers, two tenants, two models: two calls at once for each tenant, three for the key."""
    limits = {"tenant_max_in_flight": 2, "key_max_in_flight": 3}
    with workplace(provider, sqlite_url, redis_url, concurrency=8, **limits) as place:
        jobs = {
            place.submit(script, tenant=tenant): tenant
            for _ in range(8)
            for tenant in ("acme", "beta")
            for script in ("ok", "slow=2")
        }
        place.start()
        place.start()
        assert {place.ended(job).status for job in jobs} == {"completed"}
        most = most_at_once(place, jobs)
        assert max(most.values()) == 2, most
        assert most_at_once(place, dict.fromkeys(jobs, "all")) == {"all": 3}


def test_one_tenants_minute_is_not_anothers(provider: Provider, sqlite_url: str, redis_url: str) -> None:
    """Sixty requests a minute each: of twelve of one tenant the last ones wait and say for what; the other's goes at once."""
    with workplace(provider, sqlite_url, redis_url, concurrency=8, tenant_rpm=60) as place:
        place.start()
        acme = [place.submit(tenant="acme") for _ in range(12)]
        eventually(lambda: rows(place.database, "SELECT 1 FROM jobs WHERE waiting_on = 'rpm'"), 60, "one waits")
        beta = place.submit(tenant="beta")
        assert place.ended(beta).status == "completed"
        waiting = [place.get(job) for job in acme if place.get(job).finished_at is None]
        assert waiting, "the other tenant waited for a minute that was not its own"
        assert {place.ended(job).status for job in acme} == {"completed"}
        assert {place.get(job).attempts for job in acme} == {1}
