"""What the story of a job needs at hand: one context per worker, shared by all its jobs."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Protocol

from worker.base.settings import Settings
from worker.db.jobs.claim import ClaimedJob
from worker.job.budget_hold import BudgetHold
from worker.job.lookups import Lookups
from worker.job.probing import Probing
from worker.job.settlements import SettlementWriter
from worker.limits.admission import Admission
from worker.limits.estimate import Estimator
from worker.limits.refusals import Refusals
from worker.limits.route import Limits
from worker.live.publish import Publisher
from worker.provider.prices import Prices
from worker.upstream.client import UpstreamClient


class Recall(Protocol):
    """What a job that was not finished is handed back to: it is due again in `seconds`."""

    def __call__(self, job: ClaimedJob, seconds: float, waiting_on: str | None, /, *, called: bool) -> None:
        """Look at the job again then; `called` is whether its call was made."""


@dataclass(frozen=True, slots=True)
class JobContext:
    """The worker's trades: limits, upstream, live streams, settling; and what decides with them."""

    settings: Settings
    provider_name: str  # as metrics name it
    upstream: UpstreamClient
    admission: Admission
    estimator: Estimator
    publisher: Publisher
    settlements: SettlementWriter
    prices: Prices
    budget_hold: BudgetHold
    refusals: Refusals
    probing: Probing
    rng: random.Random
    recall: Recall
    lookups: Lookups
    key_limits: Limits  # over all routes of the key
    tenant_limits: Limits  # of each tenant
