"""Sums that stop at their end.

What a provider states, or a request asks for, may be any number. Were it added beyond 64 bits, PostgreSQL would refuse that
answer and each one after it, and SQLite would go on in floats.
"""

from __future__ import annotations

#: Half of what a column holds, so that two columns still add up: 4.6 million US dollars, more than any limit that can be set.
MOST_SUM = 2**62


def added_sql(sum_: str, more: str) -> str:
    """SQL for a sum and what is added to it (two expressions); at most MOST_SUM. `more` may be negative."""
    return f"CASE WHEN {more} > 0 AND {sum_} > {MOST_SUM} - {more} THEN {MOST_SUM} ELSE {sum_} + {more} END"
