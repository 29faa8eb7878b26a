"""Admission: whether a claimed job's call may be made now. Nothing has been sent.

    Admitted     a permit of the route, the key and the tenant is held: make the call
    Postponed    the job goes back to the queue with what it waits on; no attempt is spent
    Refused      the job is over: its calls have cost as much as they may

The questions are asked in the order of what an answer costs: first what this process knows, then the database, then
the limits in Redis, which may keep the job in line for a while.
"""

from __future__ import annotations

from dataclasses import dataclass

import structlog

from worker.base.errors import SettingsError
from worker.db.jobs.settle import Settlement
from worker.job import decide
from worker.job.context import JobContext
from worker.job.slots import Slot
from worker.limits.permit import Held, Permit

log = structlog.get_logger(__name__)

#: Seconds that a job waits in line for its route, in a slot that another route's jobs could use.
LINE_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Admitted:
    """The call may be made; the permit is to be given back however it ends."""

    permit: Permit


@dataclass(frozen=True, slots=True)
class Postponed:
    """The job is queued again."""

    settlement: Settlement


@dataclass(frozen=True, slots=True)
class Refused:
    """The job is over without this call."""

    settlement: Settlement


async def admission(slot: Slot, context: JobContext) -> Admitted | Postponed | Refused:
    """Ask whether the job's call may be made now."""
    job = slot.job
    if job.unreadable is not None:
        log.error("payload_unreadable", job_id=job.id, error=job.unreadable)
        return Postponed(decide.unreadable(job))
    if seconds := context.lookups.owed(job):
        return Postponed(decide.asked_first(job, seconds))
    if over := decide.over_budget(job, context.prices):
        return Refused(over)
    reserved = await context.budget_hold.reserve(job)
    if isinstance(reserved, Held):
        return Postponed(decide.held(job, reserved))
    slot.reserved = reserved
    permit = await _permit(slot, context)
    return Postponed(decide.held(job, permit)) if isinstance(permit, Held) else Admitted(permit)


async def _permit(slot: Slot, context: JobContext) -> Permit | Held:
    """Ask the limits of the job's route, key and tenant; wait in line for a while, holding the lease."""
    job = slot.job
    tokens = context.estimator.estimate(job.model, len(job.body))
    patience = min(LINE_SECONDS, job.seconds_left)
    try:
        route = context.route(job.model)
    except SettingsError as error:
        return context.without_key(error)
    scopes = context.scopes(job.tenant)
    return await context.admission.admit(route, tokens, patience, scopes, urgent=job.lane == "interactive")
