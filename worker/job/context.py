"""What the story of a job needs at hand: one context per worker, shared by all its jobs."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Protocol

import structlog

from worker.base import genai
from worker.base.errors import SettingsError
from worker.base.settings import Settings
from worker.db.jobs.claim import ClaimedJob
from worker.job.budget_hold import BudgetHold
from worker.job.lookups import Lookups
from worker.job.settlements import SettlementWriter
from worker.limits.admission import Admission
from worker.limits.estimate import Estimator
from worker.limits.permit import Held
from worker.limits.refusals import Refusals
from worker.limits.route import UNLIMITED, Limits, Route, Scope
from worker.live.publish import Publisher
from worker.provider.prices import Prices
from worker.upstream.client import UpstreamClient

log = structlog.get_logger(__name__)

#: When a job is due again that could not be called for want of the key, in seconds.
KEY_SECONDS = 1.0


class Recall(Protocol):
    """What a job that was not finished is handed back to: it is due again in `seconds`."""

    def __call__(self, job: ClaimedJob, seconds: float, waiting_on: str | None, /, *, called: bool) -> None:
        """Look at the job again then; `called` is whether its call was made."""


@dataclass(frozen=True, slots=True)
class JobContext:
    """The worker's trades: limits, upstream, live streams, settling; and what decides with them."""

    settings: Settings
    upstream: UpstreamClient
    admission: Admission
    estimator: Estimator
    publisher: Publisher
    settlements: SettlementWriter
    prices: Prices
    budget_hold: BudgetHold
    refusals: Refusals
    rng: random.Random
    recall: Recall
    lookups: Lookups
    key_limits: Limits  # over all routes of the key
    tenant_limits: Limits  # of each tenant

    @property
    def provider_name(self) -> str:
        """The provider, as metrics and traces name it."""
        return genai.provider(self.settings.upstream_url)

    @property
    def genai_metrics(self) -> str:
        """Which of the field's names calls are counted by."""
        return self.settings.genai_metrics

    def key(self) -> str | None:
        """The API key. Raises SettingsError while its file cannot be read or is empty."""
        key = self.settings.key
        if key is None and self.settings.api_key_file is not None:
            raise SettingsError("STOCKPOT_API_KEY_FILE: the file is empty")
        return key

    def without_key(self, error: SettingsError) -> Held:
        """Why a job waits while the key's file cannot be read, which may be the moment in which it is replaced."""
        log.warning("key_unreadable", error=str(error))
        return Held("retry", KEY_SECONDS)

    def route(self, model: str) -> Route:
        """The route of a model under these settings: what limits live on. Raises SettingsError as `key`."""
        self.key()
        return Route(self.settings.upstream_url, self.settings.key_id, model)

    def scopes(self, tenant: str) -> tuple[Scope, ...]:
        """What a call counts against beside its route: the key's limits and the tenant's, where there are any."""
        scopes: list[Scope] = []
        if self.key_limits != UNLIMITED:
            scopes.append(Scope(f"key:{self.settings.key_id}@{self.settings.upstream_url}", self.key_limits))
        if self.tenant_limits != UNLIMITED:
            scopes.append(Scope(f"tenant:{tenant}", self.tenant_limits))
        return tuple(scopes)
