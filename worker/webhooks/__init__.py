"""Signed webhooks that arrive.

    envelope       what is sent: the event's bytes, made when the job settles
    subscriptions  to whom: the job's own URL and the tenant's endpoints → rows for the outbox (`db.outbox.enqueue`)
    deliver        claim → sign → send → record, many at a time, one dead destination slowing no other
    egress         the way out, to checked addresses only (`targets`, `addresses`)
    signing        Standard Webhooks signatures; `secrets` keeps the keys
    schedule, breaker, verdicts   when to try again, whom to leave alone, what an answer means: pure
    notices        events about endpoints themselves: `endpoint.disabled`, `endpoint.test`
    backlog        how much waits and how much was given up, for the metrics
    admin, listen  what the command line calls

Promise: at least once, under one stable id, for about three and a half days; then the event is `dead`, and `replay`
starts it again. No order, and no "exactly once": a receiver keeps the ids that it has seen.
"""
