"""The contract, as types: what goes in, what comes out, and what happens in between.

    jobs, job_views    a submission and the gate it passes (`parse_job`); a job as it is read back
    broker             the message of a producer that has no database
    bodies             a request body: which endpoint, what is wrong with it
    chat, responses    the two endpoints' requests
    events             live events of a job
    event_numbers      which number (`seq`) an event has
    batch              OpenAI's batch files and batch object
    webhooks           the webhook's body, and `verify` for receivers
    usage, errors      tokens; errors of ours
    upstream_errors    error bodies of the upstream, in every shape
    problems           validation in sentences
    webhook_urls       the one rule of what a webhook's URL may look like
    metadata           what a caller attaches to a job
    jsontext, text     JSON in and out, exactly; text that every database can store
    ids                `job_…`, `batch_…`, `evt_…`

Known fields are typed, unknown ones pass unchanged. Imports nothing of Stockpot's own but itself.
"""

from __future__ import annotations

from api_schemas.errors import FieldProblem, InvalidRequest, JobError, StockpotError

__all__ = ["FieldProblem", "InvalidRequest", "JobError", "StockpotError"]
