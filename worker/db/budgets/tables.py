"""The budgets table: what a tenant, or all tenants together, may spend in a UTC day or in total.

    open ── a call does not fit ──▶ shut (`needs_picousd` is how much it lacked)
    shut ── that much is free again: calls ended, the day turned, the budget was raised ──▶ open

Reservations of calls in flight are not kept here but in their rows of `attempts`, and count only as long as
their claim is in force. So a reservation is never left over.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, CheckConstraint, Column, Table, Text, text

from worker.db.columns import Instant, metadata

#: The name of all tenants together; no tenant can have it.
ALL_TENANTS = "*"

#: SQL: whether the budget of `{tenant}` (an expression) is shut, so that none of its jobs is to be claimed.
SHUT = "EXISTS (SELECT 1 FROM budgets AS b WHERE b.needs_picousd IS NOT NULL AND b.tenant IN ({tenant}, '*'))"

budgets = Table(
    "budgets",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("period", Text, primary_key=True),
    Column("limit_picousd", BigInteger, nullable=False),
    Column("spent_picousd", BigInteger, nullable=False, server_default=text("0")),
    Column("day", Text),  # the UTC day that `spent_picousd` is of, YYYY-MM-DD; null for `total`
    Column("needs_picousd", BigInteger),  # shut until so much is free; null: open
    Column("set_at", Instant, nullable=False),
    Column("recount", Boolean, nullable=False, server_default=text("true")),  # calls began before the counting
    Column("used_up_on", Text),  # the day (`total` for a total) for which it was announced as used up
    CheckConstraint("period IN ('day', 'total')", name="period"),
    CheckConstraint("limit_picousd >= 0", name="limit_is_money"),
)

bookmarks = Table(
    "bookmarks",
    metadata,
    Column("name", Text, primary_key=True),  # whose long walk, e.g. "reconcile"
    Column("place", Text, nullable=False),  # JSON: where it goes on
)
