"""The metrics, all in one place; `docs/metrics.md` lists them and a test holds it to this file.

Labels never carry a job, a prompt or a key: only what an operator can count on one hand, and models.
"""

from __future__ import annotations

from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from api_schemas.job_views import TERMINAL_STATUSES, Lane

REGISTRY = CollectorRegistry()

#: From a cached answer to a long generation, in seconds.
CALL_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)

#: From the first try at once to one that was retried for days, in seconds.
_WEBHOOK_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1_800, 7_200, 43_200, 172_800)

JOBS = Counter("stockpot_jobs", "Jobs that reached a terminal state", ["status", "lane"], registry=REGISTRY)
ATTEMPTS = Counter("stockpot_attempts", "Upstream calls by what they came to", ["outcome"], registry=REGISTRY)
ODDITIES = Counter(
    "stockpot_upstream_oddities",
    "What answers held that was ignored or put right, by kind",
    ["what"],
    registry=REGISTRY,
)
TOKENS = Counter("stockpot_tokens", "Tokens as the provider counted them", ["direction", "model"], registry=REGISTRY)
COST = Counter(
    "stockpot_cost_usd", "US dollars spent, by the source of the figure", ["source", "model"], registry=REGISTRY
)
FENCED = Counter("stockpot_fenced_writes", "Writes refused because another worker owns the job", registry=REGISTRY)
CLAIMED = Counter("stockpot_claimed_jobs", "Jobs claimed", ["lane"], registry=REGISTRY)
RECLAIMED = Counter("stockpot_reclaimed_jobs", "Jobs taken back from a lease that ran out", registry=REGISTRY)
FORGOTTEN = Counter("stockpot_forgotten", "Rows forgotten by the settings' retention", ["what"], registry=REGISTRY)
OLDEST_SNAPSHOT_SECONDS = Gauge(
    "stockpot_oldest_snapshot_seconds",
    "Age of the oldest transaction of the database that holds a snapshot, as the elected sweeper sees it",
    registry=REGISTRY,
)
IN_FLIGHT = Gauge("stockpot_in_flight", "Jobs that this worker holds", registry=REGISTRY)
CALL_SECONDS = Histogram(
    "stockpot_call_seconds", "Whole upstream calls", ["endpoint"], buckets=CALL_BUCKETS, registry=REGISTRY
)
FIRST_TOKEN_SECONDS = Histogram(
    "stockpot_first_token_seconds", "From the call to its first token", buckets=CALL_BUCKETS, registry=REGISTRY
)
QUEUED_SECONDS = Histogram(
    "stockpot_queued_seconds", "From due to claimed", ["lane"], buckets=CALL_BUCKETS, registry=REGISTRY
)
DATABASE_ERRORS = Counter("stockpot_database_errors", "Transactions that failed and are tried again", registry=REGISTRY)
DOORBELLS = Counter("stockpot_doorbells", "Celery messages received", ["task"], registry=REGISTRY)
REFUSED = Counter("stockpot_refused_messages", "Messages that were no doorbell or no job", registry=REGISTRY)
REFUSED_ROWS = Counter(
    "stockpot_refused_rows", "Rows that the database refused to change, and steps of ours", ["what"], registry=REGISTRY
)
ROUTE_CHANGES = Counter(
    "stockpot_route_changes", "Routes and accounts paused or resumed", ["what", "of", "reason"], registry=REGISTRY
)
HELD_MODELS = Gauge(
    "stockpot_held_models", "Models of which this worker claims nothing, since their route is shut", registry=REGISTRY
)
RECONCILED = Counter(
    "stockpot_reconciled_attempts", "Calls looked up in the provider's log", ["verdict"], registry=REGISTRY
)
WEBHOOK_DELIVERIES = Counter(
    "stockpot_webhook_deliveries", "Webhooks sent, by what came of it", ["outcome"], registry=REGISTRY
)
WEBHOOK_SECONDS = Histogram(
    "stockpot_webhook_seconds",
    "From the end of a job to the delivery of its webhook, retries included",
    buckets=_WEBHOOK_BUCKETS,
    registry=REGISTRY,
)
WEBHOOKS_PENDING = Gauge(
    "stockpot_webhooks_pending",
    "Webhook events that wait to be sent, of all workers; counted to 100,000",
    registry=REGISTRY,
)
WEBHOOKS_DEAD = Gauge(
    "stockpot_webhooks_dead", "Webhook events that were given up, of all workers; counted to 100,000", registry=REGISTRY
)
WEBHOOK_ENDPOINTS_DISABLED = Counter(
    "stockpot_webhook_endpoints_disabled", "Webhook endpoints that were disabled", ["reason"], registry=REGISTRY
)
WEBHOOK_BREAKERS_OPEN = Gauge(
    "stockpot_webhook_breakers_open", "Webhook destinations that this worker leaves alone for now", registry=REGISTRY
)
ANSWER_MEMORY = Gauge("stockpot_answer_memory_bytes", "Memory that large answers take, as charged", registry=REGISTRY)
LIVE_DROPPED = Gauge("stockpot_live_events_dropped", "Live events dropped while Redis was away", registry=REGISTRY)
LOOP_LAG = Gauge(
    "stockpot_loop_lag_seconds", "How late the engine's loop woke at most within the last minute", registry=REGISTRY
)
REQUESTS = Counter(
    "stockpot_requests",
    "Requests that the gateway answered; status 0: the client went first",
    ["route", "status"],
    registry=REGISTRY,
)

#: Of OpenTelemetry's advice for these two.
_GENAI_SECONDS = (
    0.01,
    0.02,
    0.04,
    0.08,
    0.16,
    0.32,
    0.64,
    1.28,
    2.56,
    5.12,
    10.24,
    20.48,
    40.96,
    81.92,
    163.84,
    327.68,
)
_GENAI_TOKENS = tuple(4**power for power in range(14))
_GENAI = ["gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model"]
GENAI_SECONDS = Histogram(
    "gen_ai_client_inference_duration_seconds",
    "Calls of a model, `error_type` empty where they succeeded",
    [*_GENAI, "error_type"],
    buckets=_GENAI_SECONDS,
    registry=REGISTRY,
)
GENAI_FIRST_CHUNK = Histogram(
    "gen_ai_client_inference_time_to_first_chunk_seconds",
    "From a call to its first chunk",
    _GENAI,
    buckets=_GENAI_SECONDS,
    registry=REGISTRY,
)
GENAI_INPUT = Counter("gen_ai_client_inference_usage_input_tokens", "Input tokens", _GENAI, registry=REGISTRY)
GENAI_OUTPUT = Counter("gen_ai_client_inference_usage_output_tokens", "Output tokens", _GENAI, registry=REGISTRY)
GENAI_CACHED = Counter(
    "gen_ai_client_inference_usage_cache_read_input_tokens",
    "Of the input, read from a cache",
    _GENAI,
    registry=REGISTRY,
)
GENAI_REASONING = Counter(
    "gen_ai_client_inference_usage_reasoning_output_tokens", "Of the output, reasoning", _GENAI, registry=REGISTRY
)
GENAI_OLD_SECONDS = Histogram(
    "gen_ai_client_operation_duration_seconds",
    "As `gen_ai_client_inference_duration_seconds`, by its older name",
    [*_GENAI, "error_type"],
    buckets=_GENAI_SECONDS,
    registry=REGISTRY,
)
GENAI_OLD_FIRST_CHUNK = Histogram(
    "gen_ai_client_operation_time_to_first_chunk_seconds",
    "As `gen_ai_client_inference_time_to_first_chunk_seconds`, by its older name",
    _GENAI,
    buckets=_GENAI_SECONDS,
    registry=REGISTRY,
)
GENAI_OLD_TOKENS = Histogram(
    "gen_ai_client_token_usage",
    "Tokens of a call, `gen_ai_token_type` input or output, by the older name",
    [*_GENAI, "gen_ai_token_type"],
    buckets=_GENAI_TOKENS,
    registry=REGISTRY,
)

#: Models that a process counts by name; those beyond it are `other`.
MOST_MODELS = 100
_models: set[str] = set()


def model_label(model: str) -> str:
    """A model as a label: the first hundred of a process by name, so that made-up names cost no series."""
    if model in _models:
        return model
    if len(_models) < MOST_MODELS:
        _models.add(model)
        return model
    return "other"


# The whole fleet, as every worker with a status port reads it; take the maximum, not the sum (`engine/fleet_gauges`).
OLDEST_DUE_SECONDS = Gauge(
    "stockpot_oldest_due_seconds", "How long the oldest due job of a lane has waited", ["lane"], registry=REGISTRY
)
BACKLOG = Gauge(
    "stockpot_backlog_jobs", "Jobs that are not over, by where they stand", ["lane", "state"], registry=REGISTRY
)
WAITING_JOBS = Gauge(
    "stockpot_waiting_jobs", "Queued jobs outside batches, by what they wait on", ["waiting_on"], registry=REGISTRY
)
HELD_BATCHES = Gauge("stockpot_held_batches", "Batches that admit no lines, by reason", ["reason"], registry=REGISTRY)
PAUSED_ROUTES = Gauge(
    "stockpot_paused_routes", "Routes that take no calls, by what paused them", ["of", "reason"], registry=REGISTRY
)
WEBHOOKS_OLDEST_SECONDS = Gauge(
    "stockpot_webhooks_oldest_seconds", "Age of the oldest webhook event that waits to be sent", registry=REGISTRY
)
WORKERS = Gauge("stockpot_workers", "Worker processes that announced themselves", ["state"], registry=REGISTRY)
SWEEPER_TERM_SECONDS = Gauge(
    "stockpot_sweeper_term_seconds",
    "How long the elected sweeper's term still lasts; below zero there is no sweeper",
    registry=REGISTRY,
)
BUDGET_LEFT_RATIO = Gauge(
    "stockpot_budget_left_ratio", "What is left of a budget, 1 to 0", ["budget"], registry=REGISTRY
)
BUDGETS_USED_UP = Counter(
    "stockpot_budgets_used_up", "Budgets that were used up, once a day each", ["period"], registry=REGISTRY
)
FLEET_READ_AT = Gauge(
    "stockpot_fleet_read_timestamp_seconds", "When the gauges of the fleet were last read, Unix time", registry=REGISTRY
)


def loop_lag() -> float:
    """How late the engine's loop woke at most within the last minute, in seconds."""
    return REGISTRY.get_sample_value("stockpot_loop_lag_seconds") or 0.0


STREAMS = Gauge("stockpot_open_streams", "Streams that the gateway has open", registry=REGISTRY)


def _begin_at_zero() -> None:
    """Make the series that alerts watch before anything is counted: Prometheus sees no rise in one that is born at 1."""
    for lane in get_args(Lane):
        CLAIMED.labels(lane)
        QUEUED_SECONDS.labels(lane)
        for status in sorted(TERMINAL_STATUSES):
            JOBS.labels(status, lane)
    for period in ("day", "total"):
        BUDGETS_USED_UP.labels(period)
    for outcome in ("delivered", "failed", "dead", "blocked"):
        WEBHOOK_DELIVERIES.labels(outcome)
    for reason in ("failing", "gone"):
        WEBHOOK_ENDPOINTS_DISABLED.labels(reason)


_begin_at_zero()
