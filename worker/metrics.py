"""The metrics, all in one place; `docs/metrics.md` lists them and a test holds it to this file.

Labels never carry a job, a prompt or a key: only what an operator can count on one hand, and models.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

REGISTRY = CollectorRegistry()

#: From a cached answer to a long generation, in seconds.
_CALL_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)

JOBS = Counter("stockpot_jobs", "Jobs that reached a terminal state", ["status", "lane"], registry=REGISTRY)
ATTEMPTS = Counter("stockpot_attempts", "Upstream calls by what they came to", ["outcome"], registry=REGISTRY)
TOKENS = Counter("stockpot_tokens", "Tokens as the provider counted them", ["direction", "model"], registry=REGISTRY)
COST = Counter("stockpot_cost_usd", "US dollars spent, by who says so", ["source", "model"], registry=REGISTRY)
FENCED = Counter("stockpot_fenced_writes", "Writes refused because another worker owns the job", registry=REGISTRY)
CLAIMED = Counter("stockpot_claimed_jobs", "Jobs claimed", ["lane"], registry=REGISTRY)
RECLAIMED = Counter("stockpot_reclaimed_jobs", "Jobs taken back from a lease that ran out", registry=REGISTRY)
IN_FLIGHT = Gauge("stockpot_in_flight", "Jobs that this worker holds", registry=REGISTRY)
CALL_SECONDS = Histogram(
    "stockpot_call_seconds", "Whole upstream calls", ["endpoint"], buckets=_CALL_BUCKETS, registry=REGISTRY
)
FIRST_TOKEN_SECONDS = Histogram(
    "stockpot_first_token_seconds", "From the call to its first token", buckets=_CALL_BUCKETS, registry=REGISTRY
)
QUEUED_SECONDS = Histogram(
    "stockpot_queued_seconds", "From due to claimed", ["lane"], buckets=_CALL_BUCKETS, registry=REGISTRY
)
DATABASE_ERRORS = Counter("stockpot_database_errors", "Transactions that failed and are tried again", registry=REGISTRY)
DOORBELLS = Counter("stockpot_doorbells", "Celery messages received", ["task"], registry=REGISTRY)
REFUSED = Counter("stockpot_refused_messages", "Messages that were no doorbell or no job", registry=REGISTRY)
ROUTE_CHANGES = Counter(
    "stockpot_route_changes", "Routes and accounts paused or resumed", ["what", "of", "reason"], registry=REGISTRY
)
HELD_MODELS = Gauge(
    "stockpot_held_models", "Models of which this worker claims nothing, since their route is shut", registry=REGISTRY
)
RECONCILED = Counter(
    "stockpot_reconciled_attempts", "Calls looked up in the provider's log", ["verdict"], registry=REGISTRY
)
LIVE_DROPPED = Gauge("stockpot_live_events_dropped", "Live events dropped while Redis was away", registry=REGISTRY)
LOOP_LAG = Gauge("stockpot_loop_lag_seconds", "How late the engine's loop last woke", registry=REGISTRY)
