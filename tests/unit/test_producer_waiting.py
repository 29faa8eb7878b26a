"""Why a job is not over: a sentence for every reason, with what happens next."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from api_schemas.job_views import Attempt, JobDetail
from worker.cli.jobs.following import sentence
from worker.db.budgets.budget import Budget
from worker.db.workers.registry import WorkerRow
from worker.limits.limiter import RouteState
from worker.limits.route import Route
from worker.producer.waiting import Facts, Waiting, explain

NOW = datetime(2026, 8, 1, 12, 0, tzinfo=UTC)
ROUTE = Route("https://api.example/v1", "0123456789ab", "m-1")
OPEN = RouteState(ROUTE, limit=8, in_flight=8)
WORKER = WorkerRow("w-1", "host", 1, "1.0", NOW, NOW, 200, 3, 0.0, None, None, alive=True)


def job(**fields: Any) -> JobDetail:
    """A queued job of model `m-1`."""
    own = {"id": "job_1", "endpoint": "/v1/chat/completions", "model": "m-1", "status": "queued", "created_at": NOW}
    return JobDetail.model_validate(own | fields)


NOTHING = Facts()


def why(facts: Facts = NOTHING, **fields: Any) -> str:
    """The sentence for a job."""
    found = explain(job(**fields), facts, NOW)
    assert found is not None
    return sentence(found)


def paused(reason: str, detail: str = "", *, by: str = "route", seconds: float | None = 240) -> Facts:
    """The route of `m-1` is closed."""
    until = None if seconds is None else NOW.timestamp() + seconds
    return Facts(routes=[replace(OPEN, paused=reason, paused_by=by, detail=detail, since=0.0, until=until)])


def test_a_job_that_is_over_waits_for_nothing() -> None:
    """None, whatever it waited on before."""
    assert explain(job(status="completed", finished_at=NOW), Facts(), NOW) is None


@pytest.mark.parametrize("waiting_on", ["paused", None])
def test_a_refused_key_is_named_with_the_providers_words_and_the_next_look(waiting_on: str | None) -> None:
    """Also for a job that no worker has claimed, because all of them know of the pause."""
    facts = paused("key", "Invalid API key", by="account")
    assert why(facts, waiting_on=waiting_on) == "the provider refuses the key (Invalid API key); looks again in 4 min"


def test_an_account_stops_models_that_were_never_called() -> None:
    """The key is the same."""
    assert "refuses the key" in why(paused("key", by="account"), model="m-2", waiting_on="paused")
    assert "refuses" not in why(paused("failures", by="route"), model="m-2")


def test_a_pause_by_hand_names_the_command_that_ends_it() -> None:
    """And no time: nobody knows."""
    assert why(paused("manual", seconds=None), waiting_on="paused") == (
        "m-1 is paused by hand (`stockpot routes resume m-1`)"
    )


def test_a_retry_names_what_failed_and_when_it_is_tried_again() -> None:
    """The newest attempt that ended."""
    ended = Attempt(
        attempt=2,
        fence=2,
        started_at=NOW,
        finished_at=NOW,
        outcome="busy",
        status=429,
        error_class="rate_limited",
        error_message="slow down",
    )
    said = why(waiting_on="retry", due_at=NOW + timedelta(seconds=12), attempt_log=[ended])
    assert said == "the provider takes no more calls right now (429 slow down); tries again in 12 s"


def test_no_worker_is_not_the_same_as_busy_workers() -> None:
    """The first says what to start; the second how busy they are."""
    assert why(Facts(workers=[])).startswith("no worker is running: `stockpot up`")
    assert why(Facts(workers=[replace(WORKER, alive=False)])).startswith("no worker is running")
    assert why(Facts(workers=[WORKER])) == "it is due, and waits for its turn (1 worker runs 3 of 200 jobs)"


def test_a_full_route_says_how_full() -> None:
    """Limit and calls in flight."""
    said = why(Facts(routes=[OPEN]), waiting_on="concurrency")
    assert said == "all places of m-1 are taken (8 calls in flight, limit 8)"


def test_a_budget_that_is_used_up_is_named_with_its_amounts() -> None:
    """Whose, how much, since when."""
    shut = Budget("acme", "day", 1_000_000_000, 1_096_000_000, 1, NOW, recount=False)
    assert why(Facts(budgets=[shut]), waiting_on="budget", tenant="acme") == (
        "the budget of tenant acme is used up ($0.001096 of $0.001000 today)"
    )


@pytest.mark.parametrize(
    ("fields", "begins"),
    [
        (
            {"waiting_on": "scheduled", "due_at": NOW + timedelta(minutes=5)},
            "it is scheduled for later; starts in 5 min",
        ),
        ({"waiting_on": "rpm"}, "m-1 has had its requests of this minute"),
        ({"waiting_on": "tpm"}, "m-1 has had its tokens of this minute"),
        ({"waiting_on": "fair_share"}, "other tenants go first"),
        ({"waiting_on": "budget"}, "its most likely cost does not fit"),
        ({"waiting_on": "paused"}, "m-1 is paused"),
        ({"status": "in_progress"}, "attempt 1 is under way"),
    ],
)
def test_every_reason_has_words(fields: dict[str, Any], begins: str) -> None:
    """Also where nothing else is known."""
    assert why(**fields).startswith(begins)


def test_a_model_cannot_command_the_terminal_through_a_sentence() -> None:
    """The provider's words are shown, not obeyed."""
    assert "\x1b" not in sentence(Waiting("paused", "no \x1b[2J"))
