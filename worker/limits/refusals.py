"""Whether refusals without a reason (a bare 403, a firewall's page) are the account's. Pure memory.

Such a refusal is its job's. `IN_A_ROW` of different jobs without one answer of the key between them are the account's.
Each worker counts for itself: a fleet of ten pauses an account some jobs later than a single worker.

Refusals that speak of the account are `Limiter.believes`' matter: all workers count them together, in Redis.
"""

from __future__ import annotations

from collections import defaultdict

#: Different jobs refused in a row until it is the account. A batch has them within a second, if it is; and a batch with
#: a few lines that a firewall dislikes has an answered one between them.
IN_A_ROW = 5


class Refusals:
    """What this worker has seen refused in a row, by key."""

    def __init__(self) -> None:
        self._in_a_row: defaultdict[str, set[str]] = defaultdict(set)

    def passed(self, key: str) -> None:
        """A call of the key was answered."""
        self._in_a_row[key].clear()

    def unexplained(self, key: str, job: str) -> bool:
        """A job was refused without a reason; return whether that is the account's trouble by now."""
        row = self._in_a_row[key]
        if len(row) < IN_A_ROW:
            row.add(job)
        return len(row) >= IN_A_ROW
