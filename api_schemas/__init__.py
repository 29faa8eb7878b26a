"""The contract, as types: what goes in, what comes out, and what happens in between.

    jobs, job_views    a submission and the gate it passes (`parse_job`); a job as it is read back
    bodies             a request body: which endpoint, what is wrong with it
    chat, responses    the two endpoints' requests, results and stream events
    events             live events of a job
    event_numbers      which number (`seq`) an event has
    batch              OpenAI's batch files and batch object
    webhooks           the webhook's body, and `verify` for receivers
    usage, errors      tokens; errors of ours
    upstream_errors    error bodies of the upstream, in every shape
    problems, targets  validation in sentences; webhook addresses and metadata
    jsontext, text     JSON in and out, exactly; text that every database can store
    ids                `job_…`, `batch_…`, `evt_…`

Known fields are typed, unknown ones pass unchanged. Imports nothing of Stockpot's own but itself.
"""

from __future__ import annotations

from api_schemas.errors import FieldProblem, InvalidRequest, JobError, StockpotError

__all__ = ["FieldProblem", "InvalidRequest", "JobError", "StockpotError"]
