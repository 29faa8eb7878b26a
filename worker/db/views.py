"""The views: the stable surface that people read with SQL. Tables may change; these columns do not.

The text of each is the same for both databases but for the spelling of a division that must stay exact.
"""

from __future__ import annotations

from worker.db.batches.tables import BATCH_LINES, BATCHES
from worker.db.budgets.tables import SHUT
from worker.db.jobs.answers import text_sql
from worker.db.webhooks.tables import WEBHOOK_ATTEMPTS_V, WEBHOOK_EVENTS_V

JOBS = f"""
    SELECT j.id, j.tenant, j.endpoint, j.model, j.lane, j.status,
        CASE WHEN j.status = 'queued' AND j.waiting_on IS NULL AND {SHUT.format(tenant="j.tenant")} THEN 'budget'
            ELSE j.waiting_on END AS waiting_on, j.attempts, j.created_at, j.due_at, j.started_at,
        j.finished_at, j.batch_id, j.custom_id, j.idempotency_key, j.metadata, j.error_class,
        j.error_message, j.finish_reason, {{text}} AS text, j.error_code, j.error_status, j.webhook, j.expires_at, j.line,
        j.cancel_requested_at, j.fence, j.seq
    FROM jobs AS j LEFT JOIN results AS r ON r.job_id = j.id
"""

RESULTS = "SELECT job_id, response, provider_id, model FROM results WHERE response IS NOT NULL"

_DOLLAR = {"postgresql": "1000000000000.0::numeric", "sqlite": "1000000000000.0"}

USAGE = """
    SELECT a.job_id, a.attempt, a.input_tokens, a.cached_tokens, a.output_tokens, a.reasoning_tokens, a.total_tokens,
        {cost} AS cost_usd, a.cost_source, a.inference_id, COALESCE(a.finished_at, a.started_at) AS created_at,
        j.tenant, j.model, j.lane, j.batch_id, j.metadata
    FROM attempts AS a JOIN jobs AS j ON j.id = a.job_id
    WHERE a.total_tokens IS NOT NULL OR a.cost_picousd IS NOT NULL
"""

ATTEMPTS = """
    SELECT a.job_id, a.attempt, a.fence, a.worker, a.outcome, a.started_at, a.finished_at, a.error_class, a.error_code,
        a.error_message, a.status_code AS status, a.job_id || '.' || a.attempt AS client_request_id, a.inference_id,
        a.request_id, a.input_tokens, a.cached_tokens, a.output_tokens, a.reasoning_tokens, a.total_tokens,
        {cost} AS cost_usd, a.cost_source, a.queued_seconds, a.first_token_seconds, a.total_seconds, a.partial_text,
        a.error_body, a.reconciled
    FROM attempts AS a
"""


def definitions(dialect: str) -> dict[str, str]:
    """The views by name, each as a SELECT for `dialect` (`postgresql` or `sqlite`)."""
    dollar = _DOLLAR[dialect]
    cost = f"a.cost_picousd / {dollar}"
    money = {
        # Unknown is not zero.
        "cost": f"CASE WHEN b.unpriced = 0 OR b.cost_picousd > 0 THEN b.cost_picousd / {dollar} END",
        "quoted": f"b.quoted_picousd / {dollar}",
        "most": f"b.max_cost_picousd / {dollar}",
        "saved": f"b.saved_picousd / {dollar}",
    }
    return {
        "jobs_v": JOBS.format(text=text_sql(dialect, "r")),
        "results_v": RESULTS,
        "usage_v": USAGE.format(cost=cost),
        "attempts_v": ATTEMPTS.format(cost=cost),
        "webhook_events_v": WEBHOOK_EVENTS_V,
        "webhook_attempts_v": WEBHOOK_ATTEMPTS_V,
        "batches_v": BATCHES.format(**money),
        "batch_lines_v": BATCH_LINES,
    }
