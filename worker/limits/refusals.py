"""Whether a refusal concerns the account or one request, where its message does not show it, or is wrong. Pure memory.

- A refusal without a reason (a bare 403, a firewall's page) is its job's. `IN_A_ROW` of different jobs without one
  answer of the key between them are the account's.
- A refusal that speaks of the account is the account's. A job that is refused so again and again, although others of
  its key have been answered each time in between, has itself to blame; and from then on so has its model, for as long
  as others are answered.

Each worker counts for itself: a fleet of ten pauses an account some jobs later than a single worker, and needs no Redis.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from dataclasses import dataclass, field
from typing import TypeVar

V = TypeVar("V")

#: Different jobs refused in a row until it is the account. A batch has them within a second, if it is; and a batch with
#: a few lines that a firewall dislikes has an answered one between them.
IN_A_ROW = 5
#: Refusals of one job, each after answers of others, until it is the job. One may be chance: an account that was filled
#: and is empty again.
_STRIKES = 2
#: Refused jobs and models remembered of a key.
_REMEMBERED = 4_096


@dataclass(slots=True)
class _Key:
    answered: int = 0
    in_a_row: dict[str, None] = field(default_factory=dict)
    # Job → how often it was refused after answers of others, and the key's answers at its last refusal.
    jobs: OrderedDict[str, tuple[int, int]] = field(default_factory=OrderedDict)
    # Models to blame → the key's answers at the last refusal.
    models: OrderedDict[str, int] = field(default_factory=OrderedDict)


class Refusals:
    """What this worker has seen refused and answered, by key."""

    def __init__(self) -> None:
        self._keys: defaultdict[str, _Key] = defaultdict(_Key)

    def passed(self, key: str) -> None:
        """A call of the key was answered."""
        seen = self._keys[key]
        seen.answered += 1
        seen.in_a_row.clear()

    def unexplained(self, key: str, job: str) -> bool:
        """A job was refused without a reason; return whether that is the account's trouble by now."""
        row = self._keys[key].in_a_row
        if len(row) < IN_A_ROW:
            row[job] = None
        return len(row) >= IN_A_ROW

    def of_account(self, key: str, job: str, model: str) -> bool:
        """A job was refused with words about the account; return whether to believe them."""
        seen = self._keys[key]
        strikes, before = seen.jobs.pop(job, (0, seen.answered))
        strikes += seen.answered > before
        if strikes >= _STRIKES or seen.answered > seen.models.get(model, seen.answered):
            _remember(seen.models, model, seen.answered)
            return False
        _remember(seen.jobs, job, (strikes, seen.answered))
        return True


def _remember(where: OrderedDict[str, V], name: str, value: V) -> None:
    where[name] = value
    where.move_to_end(name)
    if len(where) > _REMEMBERED:
        where.popitem(last=False)
