"""Broken calls against the provider's books: what was billed is on record, to the last credit."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from tests.counted import Counted
from tests.factories import attempt_rows, rows, sql
from tests.fakes import Provider, Workplace, workplace
from tests.rig.waiting import eventually
from worker.base.errors import NotAllowed
from worker.base.money import PICO
from worker.cli.app import main
from worker.db.budgets import reservations
from worker.producer.stockpot import Stockpot
from worker.provider.log import NoLog, Page, ProviderLog
from worker.simulator.journal import calls, read_journal


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[Provider]:
    with Provider(tmp_path) as provider:
        yield provider


@pytest.fixture
def place(provider: Provider, database_url: str, redis_url: str) -> Iterator[Workplace]:
    with workplace(provider, database_url, redis_url) as place:
        place.start()
        yield place


def configure(provider: Provider, **config: object) -> None:
    """Change the simulator's settings."""
    httpx.post(provider.url.removesuffix("/v1") + "/_sim/config", json=config).raise_for_status()


def verdicts(place: Workplace, job: str) -> list[str | None]:
    """The marks of a job's attempts, oldest first."""
    return [attempt["reconciled"] for attempt in attempt_rows(place.database, job)]


def billed(provider: Provider) -> dict[str, Decimal]:
    """What each call was billed, by client request id, as the provider swears."""
    found = {}
    for call in calls(read_journal(provider.journal)):
        if call.done is not None and call.done.billed and call.received.client_request_id:
            found[call.received.client_request_id] = call.done.usd
    return found


def ledger(place: Workplace) -> dict[str, Decimal]:
    """What each call cost as our ledger has it, by client request id."""
    found = rows(place.database, "SELECT job_id, attempt, cost_picousd FROM attempts WHERE cost_picousd > 0")
    return {f"{one['job_id']}.{one['attempt']}": Decimal(one["cost_picousd"]) / PICO for one in found}


def test_a_billed_call_whose_answer_is_lost_is_on_record_before_it_is_repeated(
    provider: Provider, place: Workplace
) -> None:
    """The second call is made when the first one's cost stands in the ledger."""
    job = place.submit("hangup+billed,ok")
    assert place.ended(job).status == "completed"
    assert verdicts(place, job) == ["orphaned", None]
    first, second = attempt_rows(place.database, job)
    assert (first["outcome"], first["cost_source"]) == ("ambiguous", "provider")
    assert first["cost_picousd"] > 0
    assert second["started_at"] >= first["finished_at"]
    assert ledger(place) == billed(provider)


def test_a_call_that_is_not_in_the_log_is_late_and_repeated(provider: Provider, place: Workplace) -> None:
    """It may still come; the job does not wait for that."""
    configure(provider, charge_lag=3600)
    late = Counted("stockpot_reconciled_attempts_total", verdict="late")
    job = place.submit("hangup+billed,ok")
    assert place.ended(job).status == "completed"
    assert verdicts(place, job) == ["late", None]
    assert late() == 1


def test_a_job_with_another_policy_does_not_wait_and_is_looked_up_all_the_same(
    provider: Provider, place: Workplace
) -> None:
    """Its money counts, too."""
    job = place.submit("hangup+billed,ok", on_ambiguous="retry")
    assert place.ended(job).status == "completed"
    eventually(lambda: verdicts(place, job)[0] == "orphaned", what="the call is found in the log")
    assert ledger(place) == billed(provider)


@pytest.mark.parametrize(
    "end", ["cancelled", "ambiguous under fail", "too large", "timed out", "redirected", "no cost"]
)
def test_every_sent_call_without_the_providers_word_is_looked_up(
    provider: Provider, place: Workplace, end: str
) -> None:
    """Whatever became of its job, and without a command. Until then an estimate stands for it."""
    scripts = {
        "cancelled": "hold+billed",
        "ambiguous under fail": "hangup+billed",
        "too large": "tokens=2000+nocost",
        "timed out": "hold+billed",
        "redirected": "redirect=http://127.0.0.1:9/",
        "no cost": "ok+nocost",
    }
    options: dict[str, Any] = {"on_ambiguous": "fail"} if end == "ambiguous under fail" else {}
    if end == "timed out":
        options["ttl_seconds"] = 2
    if end == "too large":
        place.engines.pop().drain()
        place.start(max_response_bytes=2_000)
    job = place.submit(scripts[end], **options)
    place.running(job)
    if end == "cancelled":
        sql(place.database, "UPDATE jobs SET cancel_requested_at = created_at WHERE id = :id", id=job)
    over = place.ended(job)
    assert over.status == {"cancelled": "cancelled", "timed out": "expired", "no cost": "completed"}.get(end, "failed")
    httpx.post(provider.url.removesuffix("/v1") + "/_sim/release").raise_for_status()
    wanted = {"no cost": "matched", "redirected": "unbilled"}.get(end, "orphaned")
    eventually(lambda: verdicts(place, job)[0] == wanted, what=f"the call is {wanted}: {verdicts(place, job)}")
    assert ledger(place) == billed(provider)
    assert attempt_rows(place.database, job)[0]["cost_source"] == "provider"


def test_a_drained_call_is_looked_up_by_another_worker_before_it_is_made_again(
    provider: Provider, place: Workplace
) -> None:
    """Nobody of the first worker is left to ask."""
    job = place.submit("hold+billed,ok")
    place.running(job)
    [first] = place.engines
    first.hurry()
    first.drain()
    httpx.post(provider.url.removesuffix("/v1") + "/_sim/release").raise_for_status()
    eventually(lambda: billed(provider), what="the provider has billed the call that nobody waited for")
    place.start()
    assert place.ended(job).status == "completed"
    assert verdicts(place, job) == ["orphaned", None]
    first_call, second_call = attempt_rows(place.database, job)
    assert (first_call["outcome"], first_call["cost_source"]) == ("released", "provider")
    assert second_call["started_at"] > first_call["finished_at"]
    assert ledger(place) == billed(provider)


def test_submit_and_cancel_in_a_loop_stays_within_the_tenants_budget(provider: Provider, place: Workplace) -> None:
    """The provider makes every call to its end and bills it; the budget holds, and the ledger is the provider's."""
    each = 5 * 10**10
    place.database.write(lambda conn: reservations.put(conn, "default", "day", each))
    jobs = [place.submit("slow=150,ok", prompt=str(number), stream=True) for number in range(12)]
    for job in jobs:
        called_or_waits(provider, place, job)
        with Stockpot(place.settings) as pot, contextlib.suppress(NotAllowed):  # its answer was quicker
            pot.cancel(job)
    ended = [place.ended(job).status for job in jobs]
    assert "cancelled" in ended
    eventually(lambda: not unasked(place), what="the log was asked about every call")
    [found] = place.database.read(reservations.every)
    assert ledger(place) == billed(provider)
    assert Decimal(found.spent_picousd) / PICO == sum(billed(provider).values())
    assert found.reserved_picousd == 0


@pytest.mark.parametrize("log", [True, False], ids=["with a log", "without one"])
def test_cancel_and_retry_in_a_loop_stays_within_what_the_job_may_cost(
    provider: Provider, place: Workplace, monkeypatch: pytest.MonkeyPatch, *, log: bool
) -> None:
    """Also where the provider has no log: then the estimate stands, and is marked as one."""
    if not log:
        monkeypatch.setattr(ProviderLog, "pages", no_log)
    job = place.submit("hold+billed", max_cost_usd="0.0002", max_attempts=50)
    with Stockpot(place.settings) as pot:
        for _ in range(8):
            called_or_over(provider, place, job, len(provider.calls(job)))
            if place.get(job).status == "failed":
                break
            pot.cancel(job)
            place.ended(job)
            httpx.post(provider.url.removesuffix("/v1") + "/_sim/release").raise_for_status()
            pot.retry(job)
    over = place.ended(job)
    assert over.error is not None
    assert (over.status, over.error.code) == ("failed", "budget_exceeded")
    assert sum(billed(provider).values()) <= Decimal("0.0002")
    if not log:
        assert {one["cost_source"] for one in attempt_rows(place.database, job)} <= {"estimated", None}
        assert verdicts(place, job)[0] == "due"


def called_or_waits(provider: Provider, place: Workplace, job: str) -> None:
    """Wait until a job is called, or waits for money."""
    eventually(lambda: bool(provider.calls(job)) or place.get(job).waiting_on == "budget", what="it is called or waits")


def called_or_over(provider: Provider, place: Workplace, job: str, calls: int) -> None:
    """Wait until a job is called once more than so many times, or is over."""
    eventually(
        lambda: len(provider.calls(job)) > calls or place.get(job).finished_at is not None, what="it is called or over"
    )


async def no_log(*_: object, **__: object) -> AsyncIterator[Page]:
    """What a provider's log without a route is read as."""
    raise NoLog("GET /v2/logs answered 404")
    yield


def unasked(place: Workplace) -> list[object]:
    """The calls whose cost is still to be looked up."""
    return list(rows(place.database, "SELECT job_id FROM attempts WHERE reconciled IN ('due', 'late')"))


def test_a_cost_that_was_found_counts_against_what_the_job_may_cost(provider: Provider, place: Workplace) -> None:
    """No second call is made: the first one has used the money up."""
    job = place.submit("hangup+billed,ok", max_cost_usd="0.0000001")
    over = place.ended(job)
    assert (over.status, over.attempts) == ("failed", 1)
    assert over.error is not None
    assert (over.error.error_class, over.error.code) == ("account", "budget_exceeded")
    assert len(provider.calls(job)) == 1


def test_a_retry_is_refused_when_the_money_is_used_up_and_made_while_it_is_not(
    provider: Provider, place: Workplace
) -> None:
    """A stream that breaks after its tokens were billed."""
    poor = place.submit("cut@3+billed,ok", stream=True, max_cost_usd="0", on_ambiguous="retry")
    rich = place.submit("503,ok", max_cost_usd="10")
    assert place.ended(poor).error.code == "budget_exceeded"  # type: ignore[union-attr]
    assert place.ended(rich).status == "completed"
    assert provider.calls(poor) == []


@pytest.fixture
def command(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, int]]:
    """Runs `stockpot reconcile --json` against the workplace; its counts."""
    monkeypatch.setenv("STOCKPOT_DATABASE_URL", place.settings.database_url)
    monkeypatch.setenv("STOCKPOT_UPSTREAM_URL", place.settings.upstream_url)
    monkeypatch.setenv("STOCKPOT_API_KEY", "sk-test")

    def run(*options: str) -> dict[str, int]:
        done = CliRunner().invoke(main, ["reconcile", "--json", *options])
        assert done.exit_code == 0, done.output
        counts: dict[str, int] = json.loads(done.stdout)
        return counts

    return run


def test_every_call_of_a_run_with_faults_is_marked_and_the_sums_agree(
    provider: Provider, place: Workplace, command: Callable[..., dict[str, int]]
) -> None:
    """Answers without a word on the cost, broken streams, refusals and lost answers; then nothing is left to do."""
    scripts = ["ok", "ok+nocost", "503,ok", "hangup+billed,ok", "hangup,ok", "rst+billed,ok", "429,ok", "400"]
    jobs = [place.submit(script, on_ambiguous="retry") for script in scripts * 3]
    jobs += [place.submit(script, stream=True, on_ambiguous="retry") for script in ["cut@3,ok", "cut@3+billed,ok"]]
    for job in jobs:
        place.ended(job)
    past = "statement_timestamp() - interval '1 hour'" if not place.database.is_sqlite else "datetime('now', '-1 hour')"
    command()
    # The worker looks its calls up as well, and on a slow machine it was first: the ledger says what both have marked.
    marks = Counter(row["reconciled"] for row in rows(place.database, "SELECT reconciled FROM attempts"))
    assert marks["orphaned"] == 3 + 3 + 1
    assert marks.keys() <= {"matched", "late", "unbilled", "orphaned"}
    assert ledger(place) == billed(provider)
    sql(place.database, f"UPDATE attempts SET finished_at = {past} WHERE reconciled = 'late'")
    assert command()["late"] == 0
    assert command() == {"matched": 0, "late": 0, "unbilled": 0, "orphaned": 0}
    marks = Counter(one["reconciled"] for one in rows(place.database, "SELECT reconciled FROM attempts"))
    assert set(marks) <= {"matched", "unbilled", "orphaned"}
    eventually(lambda: ledger(place) == billed(provider), what="the books agree")
