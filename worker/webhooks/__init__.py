"""Signed webhooks that arrive.

Promise: at least once, under one stable id, for about three and a half days; then the event is `dead`, and `replay`
starts it again. No order, and no "exactly once": a receiver keeps the ids that it has seen.

    addresses      Which addresses a webhook may reach: pure
    admin          What people do with webhooks: endpoints, secrets, the log, replay
    breaker        Whom to leave alone: one breaker per destination
    deliver        Deliver: claim → sign → send → record, on the worker's event loop
    destinations   Who may be sent to right now
    egress         The way out: one POST to an address that was checked, and nothing else
    envelope       What is sent
    lenient        A receiver's answer is read for its status line
    listen         A local receiver for development: verifies what comes and prints it
    notices        Events of no job: an endpoint was disabled or is tested, a budget is used up
    recording      Group commit
    schedule       When to try again: pure, the clock and the dice are the caller's
    secrets        Webhook secrets at rest, and the secret that signs a tenant's per-job URLs
    shared_key     The key of webhook secrets, compared over all who share a database
    signing        Signatures, exactly as Standard Webhooks 1.0.0 has them, made by its reference package
    subscriptions  Which endpoints receive the event of a settled job or batch
    verdicts       What an attempt's outcome means for the event and for its destination
"""
