"""An account that runs dry, a key that is refused, a model under maintenance: the jobs wait, and none of them pays for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from structlog.testing import capture_logs

from api_schemas.jobs import parse_job
from api_schemas.webhooks import WebhookEvent
from tests.counted import Counted
from tests.factories import chat, rows
from tests.fakes import Provider, Workplace, workplace
from tests.rig.waiting import eventually
from worker.db.jobs import submit
from worker.db.webhooks import endpoints
from worker.limits import account
from worker.simulator.journal import calls, read_journal

CONCURRENCY = 20
JOBS = 1_000
#: A pause lasts for as long as the machine takes, and one call goes out about each second.
PROBES = 20


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[Provider]:
    with Provider(tmp_path, first_token_delay=20, token_delay=0) as provider:
        yield provider


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A paused account is looked at again within a second."""
    monkeypatch.setattr(account, "FIRST_LOOK", 0.5)
    monkeypatch.setattr(account, "MOST_LOOK", 1.0)


@pytest.fixture
def place(provider: Provider, database_url: str, redis_url: str) -> Iterator[Workplace]:
    with workplace(provider, database_url, redis_url, concurrency=CONCURRENCY) as place:
        yield place


def key(provider: Provider, **account: object) -> None:
    """Configure the key's account at the provider."""
    url = provider.url.removesuffix("/v1") + "/_sim/keys/sk-test"
    httpx.post(url, json=account).raise_for_status()


def submitted(place: Workplace, count: int, script: str = "ok") -> list[str]:
    """Many jobs, of interactive and bulk lanes."""
    requests = [
        parse_job(chat(f"job {number}", model=f"m@sim:{script}"), lane="bulk" if number % 3 else "interactive")
        for number in range(count)
    ]
    done = place.database.write(lambda conn: submit.insert(conn, requests, place.settings))
    return [one.id for one in done]


def statuses(place: Workplace) -> Counter[str]:
    """How many jobs are in which state."""
    return Counter({one["status"]: one["n"] for one in rows(place.database, _STATUSES)})


_STATUSES = "SELECT status, count(*) AS n FROM jobs GROUP BY status"


def answers(provider: Provider) -> Counter[int]:
    """How many calls were answered with which HTTP status."""
    return Counter(call.done.status for call in calls(read_journal(provider.journal)) if call.done)


def subscribe(place: Workplace, *types: str, tenant: str = "default") -> None:
    """Register an endpoint in the database, as `stockpot webhooks add` would; nobody listens there."""
    number = len(rows(place.database, "SELECT id FROM webhook_endpoints"))
    url = f"https://example.com/{number}"
    place.database.write(
        lambda conn: endpoints.add(
            conn, id=f"we_{number}", tenant=tenant, url=url, description="", events=list(types), secret="none"
        )
    )


def told(place: Workplace) -> list[tuple[str, str]]:
    """The route events in the outbox: endpoint and type, oldest first."""
    found = rows(
        place.database,
        "SELECT endpoint_id, type FROM webhook_events WHERE type LIKE 'route.%' ORDER BY created_at, endpoint_id",
    )
    return [(one["endpoint_id"], one["type"]) for one in found]


def test_credits_that_run_out_amid_1000_jobs_cost_no_job_and_no_attempt(provider: Provider, place: Workplace) -> None:
    """The calls of the pause are those in flight and the probes; then the money is back and everything is answered.

    One alert: one log line, one count, one webhook event.
    """
    key(provider, credits=80_000)  # some 160 credits a call: enough for half of them
    subscribe(place, "route.paused", "route.resumed")
    subscribe(place, tenant="other")  # all types: of jobs and batches
    jobs = submitted(place, JOBS)
    alerts = paused()
    held = Counted("stockpot_held_models")
    with capture_logs() as lines:
        place.start()
        eventually(lambda: answers(provider)[403] > 0, what="the credits run out")
        eventually(lambda: told(place) == [("we_0", "route.paused")], what="one alert")
        eventually(lambda: held.now() == 1, what="nothing of the model is claimed")
        eventually(lambda: statuses(place)["in_progress"] == 0, what="the jobs are given back")
        before = answers(provider)[403]
        waiting = rows(place.database, "SELECT waiting_on FROM jobs WHERE status = 'queued' AND waiting_on IS NOT NULL")
        assert {one["waiting_on"] for one in waiting} == {"paused"}
        assert 0 < statuses(place)["completed"] < JOBS
        fences = "SELECT sum(fence) AS n FROM jobs"
        claims = rows(place.database, fences)[0]["n"]
        eventually(lambda: rows(place.database, fences)[0]["n"] > claims, what="a scout goes out")
        assert rows(place.database, fences)[0]["n"] - claims < CONCURRENCY  # and nobody else
        key(provider, credits=2_000_000_000)
        eventually(lambda: statuses(place)["completed"] == JOBS, 120, "every job completes")
        eventually(lambda: told(place)[-1] == ("we_0", "route.resumed"), what="the end of the alert")
        eventually(lambda: held.now() == 0, what="it is claimed again")
    refused = answers(provider)[403]
    assert before <= refused <= CONCURRENCY + PROBES
    assert rows(place.database, "SELECT id FROM jobs WHERE attempts <> 1") == []
    assert statuses(place) == {"completed": len(jobs)}
    assert told(place) == [("we_0", "route.paused"), ("we_0", "route.resumed")]
    assert [line["event"] for line in lines if line["event"] == "route_paused"] == ["route_paused"]
    assert paused() == alerts + 1
    [kept] = rows(place.database, "SELECT id, body FROM webhook_events WHERE type = 'route.paused'")
    event = place.database.payloads.open(kept["body"], f"webhook_events.body:{kept['id']}")
    assert WebhookEvent.model_validate_json(event).data.status == "paused"


def paused() -> float:
    """How many pauses of an account without credits this process has counted."""
    return Counted("stockpot_route_changes_total", what="paused", of="account", reason="credits").now()


def test_a_key_that_is_refused_and_works_again_costs_no_job(provider: Provider, place: Workplace) -> None:
    """401 is about the key: all models of it wait."""
    key(provider, status="revoked")
    submitted(place, 20)
    submitted(place, 20, "tokens=3")
    place.start()
    eventually(lambda: answers(provider)[401] > 0, what="the key is refused")
    eventually(lambda: statuses(place)["in_progress"] == 0, what="the jobs are given back")
    key(provider, status="active")
    eventually(lambda: statuses(place)["completed"] == 40, 60, "every job completes")
    assert answers(provider)[401] <= CONCURRENCY + PROBES
    assert rows(place.database, "SELECT id FROM jobs WHERE attempts <> 1") == []


def test_a_limit_of_the_key_that_no_balance_shows_is_found_by_single_calls(
    provider: Provider, place: Workplace
) -> None:
    """The balance is there, yet the key is refused: it is believed once, then one call at a time finds out."""
    key(provider, status="limited")
    submitted(place, 60)
    before = resumed()
    place.start()
    eventually(lambda: answers(provider)[403] > 0, what="the key is refused")
    eventually(lambda: resumed() > before, what="the balance is believed")
    most = 2 * CONCURRENCY + 2
    refused = answers(provider)[403]
    eventually(lambda: answers(provider)[403] >= refused + 2, what="single calls find out")
    assert resumed() == before + 1
    key(provider, status="active")
    eventually(lambda: statuses(place)["completed"] == 60, 60, "every job completes")
    assert answers(provider)[403] <= most + PROBES
    assert rows(place.database, "SELECT id FROM jobs WHERE attempts <> 1") == []


def resumed() -> float:
    """How often a balance has resumed an account, as this process counted."""
    return Counted("stockpot_route_changes_total", what="resumed", of="account", reason="balance").now()
