"""Webhook endpoints, events and attempts as SQL. The caller commits.

endpoints  Registered webhook endpoints, as SQL: add, list, change, rotate, delete
health     Which webhook endpoints answer, as SQL: the row of failures, disable, enable
log        The delivery log, as SQL: lists of events and attempts, replay, purge
outbox     The life of a webhook event, as SQL: enqueue, claim, renew, record, put back
tables     The webhook tables
"""
