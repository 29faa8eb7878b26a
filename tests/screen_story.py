"""The night that the stored screens show: three batches, some jobs of the morning, and all that stands around them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from api_schemas.usage import Usage
from tests import batch_factories as batches
from tests.factories import claimed, request, settled, settlement, sql, submitted
from tests.frozen import Clock
from tests.rig.deliveries import settle as delivered
from worker.base.settings import Settings
from worker.batches.importing import Options
from worker.db.budgets import reservations
from worker.db.connect import Database
from worker.db.rates import records as rates
from worker.db.workers import registry
from worker.limits.limiter import RouteState
from worker.limits.route import Route
from worker.producer.stockpot import Stockpot

#: Ten in the evening; far enough ahead that a moment of the real clock is seen at once.
EVENING = datetime(2031, 3, 8, 22, 0, tzinfo=UTC)
GPT = "openai/gpt-5-1-chat-latest"
CLAUDE = "anthropic/claude-sonnet-4.5"
LONG = "a-provider-with-a-long-name/a-model-with-a-very-long-name-2026-11-26-preview"
TENANT = "a-tenant-with-a-long-name"
FILE = "a-file-of-prompts-with-a-rather-long-name-of-its-own.jsonl"
_USAGE = Usage(input_tokens=1_234, cached_tokens=1_024, output_tokens=321, reasoning_tokens=64, total_tokens=1_555)
_WHO = ("worker-7f9c4d-x2x7q:1:9f3c2a1b", "worker-7f9c4d-8hj2k:1:1c0ffee0", "laptop:4242:0badcafe")
_COST: dict[str, Any] = {"usage": _USAGE, "cost_source": "provider"}


def tell(database: Database, clock: Clock, folder: Path) -> None:
    """Let the night pass. It is half past seven when this returns."""
    with Stockpot(Settings(database_url=database.settings.database_url)) as pot:
        _around(pot)
        sql(database, "UPDATE api_keys SET hint = 'cFq' || substr(id, -1)")
        _present(database, _WHO[0], _WHO[2])
        whole = _batch(database, folder / "night-of-prompts.jsonl", 12, max_cost_usd=Decimal(2))
        capped = _batch(database, folder / FILE, 40)
        with pot.for_tenant(TENANT) as theirs:
            slow = _batch(database, folder / "summaries.jsonl", 1_250, tenant=theirs.tenant, max_in_flight=8)
    clock.forward(minutes=2)
    _end_whole(database, clock, whole)
    _lines(database, capped, 31, "0.0163", failed=2)
    clock.forward(hours=1, minutes=4)
    _lines(database, slow, 168, "0.00042")
    sql(database, "UPDATE batches SET held = 'max_cost', max_cost_picousd = 500000000000 WHERE id = :id", id=capped)
    clock.forward(hours=8, minutes=12)
    _morning(database, clock)
    batches.claimed(database, slow, 8)
    _hooks(database, clock)
    for minute in range(15):
        clock.forward(minutes=1)
        done = {
            "ended:completed": 118 + minute,
            "ended:failed": minute % 2,
            "call:2.5": 90,
            "call:10": 40,
            "first:0.5": 110,
            "first:1": 20,
        }
        database.write(lambda conn, done=done: rates.add(conn, done))  # type: ignore[misc]
    sql(database, "UPDATE workers SET seen_at = :at WHERE owner = :who", at="2031-03-09 06:58:30.000", who=_WHO[2])
    _present(database, _WHO[0], _WHO[1])
    clock.forward(seconds=4)


def _around(pot: Stockpot) -> None:
    """Budgets, keys with their limits, endpoints."""
    pot.budgets.set(1_000, all_tenants=True)
    with pot.for_tenant(TENANT) as theirs:
        theirs.budgets.set(Decimal("0.75"), period="total")
    pot.keys.create("default", name="the web shop")
    pot.keys.create(TENANT, budget_usd=Decimal(100))
    pot.keys.create("default", admin=True)
    pot.keys.limit_tenant(TENANT, rpm=600, tpm=1_000_000, max_in_flight=50)
    pot.keys.limit_tenant("acme", rpm=60)
    pot.webhooks.add("https://hooks.example.com/stockpot", events=("job.completed", "batch.completed"))
    pot.webhooks.add(f"https://hooks.example.com/{'a-long-path/' * 8}", description="orders " * 12)


def _present(database: Database, *owners: str) -> None:
    for number, owner in enumerate(owners):
        presence = registry.Presence(
            owner, owner.partition(":")[0], 1, "0.1.0", 10.0, 200, 117 - 100 * number, 0.0012, 187 << 20
        )
        database.write(lambda conn, presence=presence: registry.announce(conn, presence))  # type: ignore[misc]


def _batch(database: Database, path: Path, lines: int, **options: Any) -> str:
    batches.write_file(path, lines, model=GPT)
    return batches.submit(database, path, Options(**options))[0].id


def _lines(database: Database, batch: str, count: int, cost: str, *, failed: int = 0) -> None:
    """So many lines of a batch are answered, but the last few, which failed."""
    why: dict[str, Any] = {"error_class": "upstream", "error_status": 502, "error_message": "bad gateway"}
    over = 0
    while over < count:  # as many at a time as the batch admits
        jobs = batches.claimed(database, batch, count - over)
        assert jobs
        bad = [over + at >= count - failed for at in range(len(jobs))]
        fields: list[dict[str, Any]] = [_COST | {"cost_usd": Decimal(cost)} | (why if one else {}) for one in bad]
        ends = zip(jobs, bad, fields, strict=True)
        batches.end(database, *(batches.over(job, "failed" if one else "completed", **more) for job, one, more in ends))
        over += len(jobs)


def _end_whole(database: Database, clock: Clock, batch: str) -> None:
    """A batch that is over: eleven answers, one line that the provider refused."""
    for at in range(11):
        clock.forward(seconds=3)
        [job] = batches.claimed(database, batch, 1)
        batches.end(database, batches.over(job, cost_usd=Decimal("0.0158"), **{**_COST, "total_seconds": 2.0 + at}))
    [bad] = batches.claimed(database, batch, 1)
    why: dict[str, Any] = {
        "error_class": "invalid_request",
        "error_status": 400,
        "error_message": "max_tokens: expected at most 128000",
    }
    batches.end(database, batches.over(bad, "failed", usage=None, cost_usd=None, cost_source=None, **why))


def _morning(database: Database, clock: Clock) -> None:
    """Single jobs: answered, failed after a retry, waiting for an account, for later, and under way."""
    costs = {**_COST, "cost_usd": Decimal("0.004321"), "first_token_seconds": 0.42, "total_seconds": 3.21}
    [job] = claimed(
        database, *submitted(database, request(model=GPT, metadata={"team": "search", "user": "u-17"})), owner=_WHO[0]
    )
    clock.forward(seconds=4)
    settled(database, settlement(job, text="A stock simmers so that its fat does not blend into the liquid.", **costs))
    clock.forward(minutes=7)
    [job] = claimed(database, *submitted(database, request(model=LONG, tenant=TENANT)), owner=_WHO[0])
    settled(
        database,
        settlement(
            job,
            status="queued",
            outcome="retryable",
            error_class="upstream",
            error_status=503,
            error_message="overloaded, try again " * 6,
            total_seconds=31.0,
        ),
    )
    clock.forward(seconds=31)
    [job] = claimed(database, job.id, owner=_WHO[0])
    clock.forward(minutes=10)
    settled(
        database,
        settlement(
            job,
            status="failed",
            outcome="ambiguous",
            error_class="timeout",
            error_message="no answer in 600 s",
            total_seconds=600.0,
            cost_usd=Decimal("1234.56"),
            cost_source="estimated",
            usage=_USAGE,
        ),
    )
    database.write(lambda conn: reservations.charge(conn, [(job.id, job.attempt)]))
    clock.forward(minutes=1)
    [job] = claimed(database, *submitted(database, request(model=CLAUDE)), owner=_WHO[0])
    settled(
        database, settlement(job, status="queued", outcome="refused", spent=False, waiting_on="paused", due_in=3_600.0)
    )
    submitted(database, request(model=CLAUDE, lane="bulk", delay_seconds=7_200))
    claimed(database, *submitted(database, request(model=GPT)), owner=_WHO[0])


def _hooks(database: Database, clock: Clock) -> None:
    """A webhook that is dead, and one that was delivered at the second try."""
    [dead, *_] = delivered(database, "https://hooks.example.com/gone", id=f"job_{1:032x}")
    sql(
        database,
        "UPDATE webhook_events SET status = 'dead', attempts = 9, last_status_code = 410, last_error = 'HTTP 410 Gone' WHERE id = :id",
        id=dead,
    )
    [sent, *_] = delivered(database, f"https://hooks.example.com/{'a-long-path/' * 8}", id=f"job_{2:032x}")
    for attempt, code, error, answer in (
        (1, 503, "HTTP 503", "<html>\n  <h1>Service unavailable</h1></html>"),
        (2, 200, None, "ok"),
    ):
        clock.forward(seconds=5)
        at = f"{clock.now:%Y-%m-%d %H:%M:%S}.000"
        sql(
            database,
            "INSERT INTO webhook_attempts (event_id, attempt, at, seconds, status_code, error, response_head) VALUES (:id, :attempt, :at, 0.213, :code, :error, :answer)",
            id=sent,
            attempt=attempt,
            at=at,
            code=code,
            error=error,
            answer=answer,
        )
    sql(
        database,
        "UPDATE webhook_events SET status = 'delivered', attempts = 2, last_status_code = 200, delivered_at = :at WHERE id = :id",
        at=at,
        id=sent,
    )


def routes(clock: Clock) -> list[RouteState]:
    """What Redis has of the limits: a model that runs, a key that is refused, one that is paused by hand."""
    url, now = "https://api.example.com/v1", clock.seconds()
    runs = RouteState(Route(url, "2f05d4b689d2", GPT), 64, 9)
    return [
        replace(
            runs,
            route=Route(url, "9c1185a5c5e9", CLAUDE),
            limit=16,
            in_flight=0,
            paused="key",
            paused_by="account",
            detail="Invalid API key",
            since=now - 3_000,
            until=now + 240,
        ),
        replace(
            runs,
            route=Route(url, "2f05d4b689d2", LONG),
            limit=None,
            in_flight=0,
            paused="manual",
            paused_by="route",
            detail="the bill of this month is being looked at",
            since=now - 90,
        ),
        runs,
    ]
