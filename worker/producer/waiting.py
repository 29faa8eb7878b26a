"""Why a job is not over yet, in a sentence: what it waits for, in what state that is, and when it is looked at again."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from anyio import to_thread
from sqlalchemy import Connection

from api_schemas.job_views import Attempt, JobDetail
from worker.base.errors import SettingsError, Unreachable
from worker.base.figures import money
from worker.base.settings import Settings
from worker.batches.progress import Look, look
from worker.db.budgets import reservations
from worker.db.budgets.budget import Budget
from worker.db.budgets.tables import ALL_TENANTS
from worker.db.jobs import lookup
from worker.db.workers import registry
from worker.db.workers.registry import WorkerRow
from worker.limits.limiter import RouteState
from worker.limits.route import key_id
from worker.producer.routes import AsyncRoutes
from worker.producer.scope import Scope

#: What closed an account or a route (`RouteState.paused`), as a sentence begins.
_PAUSED = {
    "key": "the provider refuses the key",
    "credits": "the account has no credits",
    "maintenance": "the provider is in maintenance",
    "failures": "{model} is paused: most of its last calls failed",
    "manual": "{model} is paused by hand (`stockpot routes resume {model}`)",
}
_FULL = {
    "concurrency": "all places of {model} are taken",
    "rpm": "{model} has had its requests of this minute",
    "tpm": "{model} has had its tokens of this minute",
    "fair_share": "other tenants go first: this one has its share",
}
_PERIOD = {"day": "today", "total": "in all"}


@dataclass(frozen=True, slots=True)
class Waiting:
    """Why a job is not over.

    Attributes:
        reason: the job's `waiting_on`, or `workers` (none lives), `turn` (others are before it), `batch`, `running`.
        text: the reason in words, for people; it may quote the provider.
        then: what happens next ("looks again", "tries again", "starts"), empty where that is unknown.
        seconds: until then, None where that is unknown.
    """

    reason: str
    text: str
    then: str = ""
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """What surrounds a job. None: it was not looked at, or could not be."""

    routes: Sequence[RouteState] | None = None
    budgets: Sequence[Budget] | None = None
    workers: Sequence[WorkerRow] | None = None
    batch: Look | None = None


async def waiting(scope: Scope, job_id: str) -> Waiting | None:
    """Look at a job and at what it waits for: some ten rows, and the routes in Redis where those decide.

    Raises NotFound, Unreachable (the database; without Redis the routes are unknown).
    """
    job, facts = await to_thread.run_sync(lambda: scope.read(lambda conn: _facts(conn, scope.tenant, job_id)))
    if job.status != "queued" or job.waiting_on in {"budget", "price", "retry", "scheduled"}:
        return explain(job, facts)
    routes: Sequence[RouteState] | None = None
    with contextlib.suppress(Unreachable):
        routes = _in_use(scope.settings, await AsyncRoutes(scope).list())
    return explain(job, Facts(routes, facts.budgets, facts.workers, facts.batch))


def _in_use(settings: Settings, routes: Sequence[RouteState]) -> Sequence[RouteState]:
    """Without the routes of keys that were replaced, where this process has the key that is in use."""
    try:
        key = settings.key
    except SettingsError:  # its file is just being replaced, or is the workers' alone
        return routes
    return routes if key is None else [one for one in routes if one.route.key_id == key_id(key)]


def _facts(conn: Connection, tenant: str, job_id: str) -> tuple[JobDetail, Facts]:
    job = lookup.job(conn, job_id, tenant=tenant)
    if job.status != "queued":
        return job, Facts()
    return job, Facts(
        budgets=[one for one in reservations.every(conn) if one.tenant in {tenant, ALL_TENANTS}],
        workers=registry.listed(conn),
        batch=None if job.batch_id is None else look(conn, job.batch_id, tenant=tenant),
    )


def explain(job: JobDetail, facts: Facts, now: datetime | None = None) -> Waiting | None:
    """Why this job is not over; None when it is."""
    if job.finished_at is not None:
        return None
    now = now or datetime.now(UTC)
    if job.status == "in_progress":
        return Waiting("running", _running(job))
    if job.waiting_on is not None:
        return _held(job, job.waiting_on, facts, now)
    if facts.batch is not None and facts.batch.waits_on is not None and facts.batch.row.hold_reason is not None:
        return Waiting("batch", f"its batch waits on {facts.batch.waits_on}")
    if _pause(job, facts.routes) is not None:  # it is not even claimed
        return _paused(job, facts.routes, now)
    if facts.workers is not None and not any(worker.alive for worker in facts.workers):
        return Waiting("workers", "no worker is running: `stockpot up`, or `stockpot worker`, starts one")
    return Waiting("turn", "it is due, and waits for its turn" + _load(facts.workers))


def _running(job: JobDetail) -> str:
    ended = [one for one in job.attempt_log if one.finished_at is not None]
    before = f" ({_failed(ended[-1])})" if ended else ""
    return f"attempt {len(ended) + 1} is under way{before}"


def _held(job: JobDetail, reason: str, facts: Facts, now: datetime) -> Waiting:
    due = None if job.due_at is None else max(0.0, (job.due_at - now).total_seconds())
    if reason == "paused":
        return _paused(job, facts.routes, now)
    if reason == "budget":
        return Waiting(reason, _spent(facts.budgets or ()))
    if reason == "price":
        words = f"a budget governs it, and {job.model} has no known price: give one (STOCKPOT_PRICES) to the workers"
        return Waiting(reason, words, "looks again", due)
    if reason == "scheduled":
        return Waiting(reason, "it is scheduled for later", "starts", due)
    if reason == "payload_key":
        words = (
            "its request is encrypted with a key that the worker does not have: add it to STOCKPOT_PAYLOAD_KEY there"
        )
        return Waiting(reason, words, "looks again", due)
    if reason == "retry":
        ended = [one for one in job.attempt_log if one.finished_at is not None]
        return Waiting(reason, _failed(ended[-1]) if ended else "its last attempt failed", "tries again", due)
    route = next((state for state in facts.routes or () if state.route.model == job.model), None)
    limit = "" if route is None or route.limit is None else f" ({route.in_flight} calls in flight, limit {route.limit})"
    return Waiting(reason, _FULL[reason].format(model=job.model) + limit)


def _paused(job: JobDetail, routes: Sequence[RouteState] | None, now: datetime) -> Waiting:
    state = _pause(job, routes)
    if state is None:
        return Waiting("paused", f"{job.model} is paused")
    return Waiting("paused", paused_words(state), *again(state, now))


def _pause(job: JobDetail, routes: Sequence[RouteState] | None) -> RouteState | None:
    """The pause that keeps the job: of its model or, before any call to that, of an account."""
    mine = [state for state in routes or () if state.route.model == job.model]
    return next(
        (
            state
            for state in mine or routes or ()
            if state.paused is not None and (mine or state.paused_by == "account")
        ),
        None,
    )


def paused_words(state: RouteState) -> str:
    """Why a route takes no calls: our word for it, and the provider's in brackets."""
    if state.paused is None:
        return ""
    words = _PAUSED.get(state.paused, "{model} is paused").format(model=state.route.model)
    return f"{words} ({state.detail})" if state.detail else words


def again(state: RouteState, now: datetime | None = None) -> tuple[str, float | None]:
    """What happens next to a paused route, and in how many seconds; nothing where a person has to act."""
    if state.until is None:
        return "", None
    return "looks again", max(0.0, state.until - (now or datetime.now(UTC)).timestamp())


def _spent(budgets: Sequence[Budget]) -> str:
    shut = next((one for one in budgets if one.shut), None)
    if shut is None:
        return "its most likely cost does not fit into what its budget has left"
    whose = (
        "the budget of all tenants together" if shut.tenant == ALL_TENANTS else f"the budget of tenant {shut.tenant}"
    )
    return f"{whose} is used up ({money(shut.spent_usd)} of {money(shut.limit_usd)} {_PERIOD[shut.period]})"


def _failed(attempt: Attempt) -> str:
    if attempt.outcome == "busy":
        words = f" ({attempt.status or ''} {attempt.error_message or ''}".rstrip() + ")"
        return f"the provider takes no more calls right now{words if len(words) > 3 else ''}"
    why = f"{attempt.error_class}: {attempt.error_message or ''}".rstrip(": ") if attempt.error_class else ""
    return f"attempt {attempt.attempt} {attempt.outcome or 'ended'}" + (f": {why}" if why else "")


def _load(workers: Sequence[WorkerRow] | None) -> str:
    alive = [worker for worker in workers or () if worker.alive]
    if not alive:
        return ""
    running, places = sum(worker.in_flight for worker in alive), sum(worker.concurrency for worker in alive)
    plural = "worker runs" if len(alive) == 1 else "workers run"
    return f" ({len(alive)} {plural} {running} of {places} jobs)"
